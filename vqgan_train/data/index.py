"""Where each sample lies in a shard: one pass over a tar's headers, remembered.

With byte ranges the stream needs no shuffle buffer: any sample can be read at any time, so an
epoch's order is a permutation (plan.py) and a resume starts at its sample at once.
"""

import hashlib
import logging
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.cache import cache_folder
from vqgan_train.data.shards import ShardError

log = logging.getLogger(__name__)

KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's rule: the key ends at the first dot of the file name, the rest is the field."""

IMAGE_FIELDS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm"})
BLOCK_BYTES = 512
MANY_SHARDS = 20
"""Progress is shown from this many shards on."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one shard that have an image."""

    path: Path
    starts: NDArray[np.int64]
    """(N,) byte at which each sample's first member begins."""

    ends: NDArray[np.int64]
    """(N,) byte after its last member."""

    problem: str
    """What is wrong with the file; empty if nothing is."""


def index_shards(paths: Sequence[Path]) -> list[ShardIndex]:
    """Index shards, from the cache where they have not changed since.

    Raises:
        ShardError: a shard cannot be read or holds no image.
    """
    shown = tqdm(paths, "indexing shards", unit="shard", disable=len(paths) < MANY_SHARDS)
    indices = [_cached_index(path) for path in shown]
    for index in indices:
        if index.problem:
            log.warning("%s: %s", index.path, index.problem)
    return indices


def index_shard(path: Path) -> ShardIndex:
    """Read a shard's headers and group its members into samples.

    A damaged end costs the samples after the damage and the one it cuts; `problem` says so.

    Raises:
        ShardError: the file is no tar, or no sample in it has an image.
    """
    ranges: list[tuple[int, int]] = []
    problem = ""
    try:
        with tarfile.open(path, mode="r:") as tar:
            members: list[tuple[str, int, int]] = []
            for name, start, end in _members(tar):
                if members and _key(members[-1][0]) != _key(name):
                    ranges += _sample_range(members)
                    members = []
                members.append((name, start, end))
            problem = _damage(path, tar)
            if not problem:
                ranges += _sample_range(members)
    except tarfile.ReadError as error:
        problem = f"damaged ({error}); the samples after the damage are lost"
    if not ranges:
        raise ShardError(
            f"{path} holds no sample with an image ({problem or 'no member is called KEY.jpg'}). "
            "Remove it from the list, or write it again."
        )
    starts, ends = np.array(ranges, dtype=np.int64).T
    return ShardIndex(path, starts, ends, problem)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, int, int]]:
    """Name, first and last byte of each regular file in the tar."""
    for member in tar:
        if member.isreg():
            blocks = -(-member.size // BLOCK_BYTES)
            yield member.name, member.offset, member.offset_data + blocks * BLOCK_BYTES
        # Else tarfile remembers every member of a shard of any size.
        tar.members = []  # type: ignore[attr-defined]  # typeshed leaves it out


def _key(name: str) -> str:
    match = KEY_AND_FIELD.match(name)
    return match[1] if match else name


def _sample_range(members: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """The byte range of one sample; nothing if it has no image."""
    matches = (KEY_AND_FIELD.match(name) for name, _, _ in members)
    if not any(match and match[2].lower() in IMAGE_FIELDS for match in matches):
        return []
    return [(members[0][1], members[-1][2])]


def _damage(path: Path, tar: tarfile.TarFile) -> str:
    """Say whether the tar stops before its end marker, which tarfile itself lets pass."""
    with path.open("rb") as file:
        file.seek(tar.offset)
        ended = file.read(BLOCK_BYTES)
    if ended == bytes(BLOCK_BYTES):
        return ""
    return "cut off: it has no end marker; its last sample is left out"


def _cached_index(path: Path) -> ShardIndex:
    stamp = path.stat()
    identity = f"{path.resolve()}:{stamp.st_size}:{stamp.st_mtime_ns}"
    file = cache_folder("index") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(file, allow_pickle=False) as stored:
            return ShardIndex(path, stored["starts"], stored["ends"], str(stored["problem"]))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        log.warning("The index %s is unreadable (%s) and made again.", file, error)
    index = index_shard(path)
    _store(index, file)
    return index


def _store(index: ShardIndex, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial:
            np.savez(partial, starts=index.starts, ends=index.ends, problem=index.problem)
        Path(partial.name).replace(file)
    except OSError as error:
        log.warning("The index of %s could not be kept at %s: %s", index.path, file, error)
