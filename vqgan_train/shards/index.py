"""Where each sample lies in a shard: one pass over a tar's headers, remembered.

With byte ranges the stream needs no shuffle buffer: any sample can be read at any time, so an
epoch's order is a permutation (plan.py) and a resume starts at its sample at once.
"""

import hashlib
import io
import logging
import os
import tarfile
import zipfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.shards.tar import METADATA, Field, Listing, read_plain_files, walk_shard
from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import cache_folder, cache_lock, write_atomically

log = logging.getLogger(__name__)

UNREADABLE_INDEX = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a file that holds no index raises."""

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

    @property
    def name(self) -> str:
        """The file's, without its folder."""
        return self.path.name

    @property
    def num_samples(self) -> int:
        """N. 0: the shard is dead, and `problem` says why."""
        return len(self.starts)


def index_shards(paths: Sequence[Path]) -> list[ShardIndex]:
    """Index shards, from the cache where they have not changed since.

    One that cannot be read or holds no image is named, and stays in the list without samples.

    Raises:
        ShardError: that is so of all of them.
    """
    shown = tqdm(paths, "indexing shards", unit="shard", disable=len(paths) < MANY_SHARDS)
    with cache_lock("index"):
        indices = [_load_or_bury(path) for path in shown]
    if indices and not any(index.num_samples for index in indices):
        raise ShardError(
            f"Not one of {len(indices)} shards holds a sample with an image. The first is "
            f"{indices[0].problem}"
        )
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


def _load_or_bury(path: Path) -> ShardIndex:
    """Take a shard's index, or one without samples if there is nothing to train on in it."""
    try:
        return load_index(path)
    except (ShardError, OSError) as error:
        nowhere = np.empty(0, np.int64)
        num_bytes = path.stat().st_size if path.exists() else 0
        return ShardIndex(path, num_bytes, nowhere, nowhere, 0, f"dead: {error}")


def index_shard(path: Path) -> ShardIndex:
    """Read a shard's headers; see `listing.walk_shard` for what becomes of damage.

    Raises:
        ShardError: the file cannot be read, is no tar, or no sample in it has an image.
    """
    ranges = _Ranges()
    num_bytes, problem = walk_shard(path, ranges.take, lambda _other: None)
    return ranges.to_index(path, num_bytes, problem)


def index_listing(listing: Listing) -> ShardIndex:
    """Keep of a listing what training needs.

    Raises:
        ShardError: no sample in it has an image.
    """
    ranges = _Ranges()
    for sample in listing.samples:
        ranges.take(sample)
    return ranges.to_index(listing.path, listing.num_bytes, listing.problem)


class _Ranges:
    """Grows by 16 bytes a sample."""

    def __init__(self) -> None:
        self.starts = array("q")
        self.ends = array("q")
        self.without_image = 0

    def take(self, sample: list[Field]) -> None:
        if any(field.is_image for field in sample):
            self.starts.append(sample[0].member.start)
            self.ends.append(sample[-1].member.end)
        else:
            self.without_image += 1

    def to_index(self, path: Path, num_bytes: int, problem: str) -> ShardIndex:
        if not self.starts:
            raise ShardError(
                f"{path} holds no sample with an image "
                f"({problem or 'no member is called KEY.jpg'}). "
                "Remove it from the list, or write it again."
            )
        starts, ends = (np.array(places, np.int64) for places in (self.starts, self.ends))
        return ShardIndex(path, num_bytes, starts, ends, self.without_image, problem)


def load_index(path: Path) -> ShardIndex:
    """Take a shard's index from the cache, or make it and put it there.

    Raises:
        ShardError: the shard cannot be read or holds no image.
    """
    stamp = path.stat()
    file = _cache_file(path, stamp)
    try:
        return read_index(file, path)
    except FileNotFoundError:
        pass
    except UNREADABLE_INDEX as error:
        log.warning("The index %s is unreadable (%s) and made again.", file, error)
    index = index_shard(path)
    _store(index, file)
    return index


def keep_index(index: ShardIndex) -> None:
    """Put an index that has just been made into the cache, where training finds it."""
    _store(index, _cache_file(index.path, index.path.stat()))


def read_index(file: Path, shard: Path) -> ShardIndex:
    """Read what `write_index` wrote of a shard.

    Raises:
        FileNotFoundError: there is no such index, or no such shard.
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: it is unreadable.
    """
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        return ShardIndex(
            shard,
            shard.stat().st_size,
            stored["starts"],
            stored["ends"],
            int(stored["without_image"]),
            str(stored["problem"]),
        )


def write_index(index: ShardIndex, file: Path) -> None:
    """Write an index, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with write_atomically(file) as partial:
        np.savez(
            partial,
            starts=index.starts,
            ends=index.ends,
            without_image=index.without_image,
            problem=index.problem,
        )


def _cache_file(path: Path, stamp: os.stat_result) -> Path:
    identity = f"{path.resolve()}:{stamp.st_size}:{stamp.st_mtime_ns}"
    return cache_folder("index") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"


def _store(index: ShardIndex, file: Path) -> None:
    try:
        write_index(index, file)
    except OSError as error:
        log.warning("The index of %s could not be kept at %s: %s", index.path, file, error)


def read_sample(shard: ShardIndex, place: int) -> dict[str, Any]:
    """Read one sample's fields: `__key__` and bytes under `jpg`, `txt`, `json`, ...

    Raises:
        ShardError: the shard is another file than the one that was indexed.
    """
    return read_range(shard.path, int(shard.starts[place]), int(shard.ends[place]))


def read_range(path: Path, start: int, end: int) -> dict[str, Any]:
    """Read the fields of the sample that lies between two bytes of a shard.

    Raises:
        ShardError: no sample begins there.
    """
    with path.open("rb") as file:
        file.seek(start)
        piece = file.read(end - start)
    try:
        return next(iter(group_by_keys(_members(piece, str(path)))))
    except (tarfile.TarError, ValueError, RecursionError, StopIteration) as error:
        raise ShardError(
            f"{path} has changed since it was indexed: no sample begins at byte {start}. "
            "Leave shards alone while a run reads them, and start it again."
        ) from error


def _members(piece: bytes, url: str) -> Iterable[dict[str, Any]]:
    """What WebDataset finds in a piece of a shard, an end marker included; at once if it is plain.

    tarfile, which WebDataset asks, takes a tenth of the time of a training image.
    """
    files = read_plain_files(piece)
    if not files:
        return tar_file_expander([{"url": url, "stream": io.BytesIO(piece)}])
    named = [(name, data) for name, data in files if not METADATA.match(name)]
    return [*({"fname": name, "data": data, "__url__": url} for name, data in named), {}]
