"""Where each sample lies in a shard: one pass over a tar's headers, remembered.

With byte ranges the stream needs no shuffle buffer: any sample can be read at any time, so an
epoch's order is a permutation (plan.py) and a resume starts at its sample at once.
"""

import hashlib
import logging
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.cache import cache_folder, cache_lock, write_whole
from vqgan_train.data.shards import ShardError

log = logging.getLogger(__name__)

KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's rule: the key ends at the first dot of the file name, the rest is the field."""

METADATA = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset reads past."""

IMAGE_FIELDS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm"})
BLOCK_BYTES = 512
MOST_PADDING_BYTES = 2**20
"""More zeros than any tar program writes at the end are a hole in the file."""

MANY_SHARDS = 20
"""Progress is shown from this many shards on."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one shard that have an image."""

    path: Path
    num_bytes: int
    """Size of the file."""

    starts: NDArray[np.int64]
    """(N,) byte at which each sample's first member begins."""

    ends: NDArray[np.int64]
    """(N,) byte after its last member."""

    without_image: int
    """Samples that were left out because they have no image."""

    problem: str
    """What is wrong with the file; empty if nothing is."""


def index_shards(paths: Sequence[Path]) -> list[ShardIndex]:
    """Index shards, from the cache where they have not changed since.

    Raises:
        ShardError: a shard cannot be read or holds no image.
    """
    shown = tqdm(paths, "indexing shards", unit="shard", disable=len(paths) < MANY_SHARDS)
    with cache_lock("index"):
        indices = [_cached_index(path) for path in shown]
    for index in indices:
        if index.problem:
            log.warning("%s: %s", index.path, index.problem)
    left_out = [index for index in indices if index.without_image]
    if left_out:
        log.warning(
            "%d samples of %d shards, for example of %s, have no image and are left out.",
            sum(index.without_image for index in left_out),
            len(left_out),
            left_out[0].path,
        )
    return indices


def index_shard(path: Path) -> ShardIndex:
    """Read a shard's headers and group its members into samples.

    A damaged end costs the samples after the damage and the one it cuts; `problem` says so.

    Raises:
        ShardError: the file cannot be read, is no tar, or no sample in it has an image.
    """
    samples: list[list[_Member]] = []
    try:
        num_bytes = path.stat().st_size
        with tarfile.open(path, mode="r:") as tar:
            for member in _members(tar):
                if not samples or _begins_sample(member, samples[-1]):
                    samples.append([])
                samples[-1].append(member)
            is_whole, problem = _look_at_end(path, tar.offset)
    except (tarfile.TarError, ArithmeticError, ValueError) as error:
        is_whole, problem = False, f"damaged ({error}); the samples after the damage are lost"
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    if not is_whole:
        samples = samples[:-1]
    kept = [sample for sample in samples if any(m.field in IMAGE_FIELDS for m in sample)]
    if not kept:
        raise ShardError(
            f"{path} holds no sample with an image ({problem or 'no member is called KEY.jpg'}). "
            "Remove it from the list, or write it again."
        )
    starts = np.array([sample[0].start for sample in kept], dtype=np.int64)
    ends = np.array([sample[-1].end for sample in kept], dtype=np.int64)
    return ShardIndex(path, num_bytes, starts, ends, len(samples) - len(kept), problem)


class _Member(NamedTuple):
    key: str
    field: str
    start: int
    end: int


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    """The regular files that WebDataset takes for fields of samples, and their bytes."""
    for member in tar:
        if member.size < 0:  # tarfile would go back, and read the same header for ever
            raise tarfile.ReadError(f"{member.name} has a negative size")
        match = KEY_AND_FIELD.match(member.name)
        if match and member.isreg() and not METADATA.match(member.name):
            yield _Member(match[1], match[2].lower(), member.offset, tar.offset)
        # Else tarfile remembers every member of a shard of any size.
        tar.members = []  # type: ignore[attr-defined]  # typeshed leaves it out


def _begins_sample(member: _Member, sample: list[_Member]) -> bool:
    """Whether a member belongs to the next sample: by its key, or as a second file of one name."""
    return member.key != sample[0].key or member.field in {m.field for m in sample}


def _look_at_end(path: Path, offset: int) -> tuple[bool, str]:
    """Judge a tar by what follows its last member, which tarfile itself lets pass.

    Returns:
        Whether the last sample is whole, and what is wrong.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block, padding, more = (file.read(n) for n in (BLOCK_BYTES, MOST_PADDING_BYTES, 1))
    if len(block) < BLOCK_BYTES:
        return False, "cut off: it has no end marker; its last sample is left out"
    if any(block):
        return False, f"damaged at byte {offset}; the samples from there on and one before are lost"
    if any(padding) or more:
        return True, f"goes on after its end marker at byte {offset}; what follows is not read"
    return True, ""


def _cached_index(path: Path) -> ShardIndex:
    stamp = path.stat()
    identity = f"{path.resolve()}:{stamp.st_size}:{stamp.st_mtime_ns}"
    file = cache_folder("index") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return ShardIndex(
                path,
                stamp.st_size,
                stored["starts"],
                stored["ends"],
                int(stored["without_image"]),
                str(stored["problem"]),
            )
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("The index %s is unreadable (%s) and made again.", file, error)
    index = index_shard(path)
    _store(index, file)
    return index


def _store(index: ShardIndex, file: Path) -> None:
    try:
        with write_whole(file) as partial:
            np.savez(
                partial,
                starts=index.starts,
                ends=index.ends,
                without_image=index.without_image,
                problem=index.problem,
            )
    except OSError as error:
        log.warning("The index of %s could not be kept at %s: %s", index.path, file, error)
