"""Index a shard: find and cache the byte range of each sample, in one pass over tar headers.

With byte ranges, samples can be read in any order. So training needs no shuffle buffer, the order
of an epoch is a permutation, and a resumed run starts at its next sample without reading others.
"""

import hashlib
import io
import logging
import os
import tarfile
import zipfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.shards.tar import Field, is_hidden, walk_shard
from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import cache_folder, cache_lock, file_signature, write_atomically

log = logging.getLogger(__name__)

UNREADABLE_INDEX = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""Exceptions that reading a damaged index file raises."""

BAR_DELAY_SECONDS = 2
"""Time after which a progress bar appears."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Byte ranges of the samples of a local shard; samples without an image are left out."""

    path: Path
    num_bytes: int
    """Size of the file; 0 if it is missing."""

    starts: NDArray[np.int64]
    """(N,) offset in bytes of each sample's first header."""

    ends: NDArray[np.int64]
    """(N,) offset in bytes after each sample's last block."""

    without_image: int
    """Number of samples without an image."""

    several_images: int
    """Number of samples with more than one image, of which one is used."""

    problem: str
    """Damage of the file, or why the shard is dead (see `index_shards`); empty if intact."""

    @property
    def name(self) -> str:
        """File name without folder."""
        return self.path.name

    @property
    def num_samples(self) -> int:
        """Number N of samples with an image; 0 if the shard is dead."""
        return len(self.starts)

    def read(self, number: int) -> dict[str, Any]:
        """Read one sample's fields: `__key__` as text; `jpg`, `txt`, `json`, ... as bytes.

        Args:
            number: index of the sample in the shard, below `num_samples`.

        Raises:
            ShardError: the file has changed since it was indexed.
            OSError: the file cannot be read.
        """
        return read_range(self.path, int(self.starts[number]), int(self.ends[number]))

    def identity(self) -> bytes:
        """Return bytes that identify the samples by file name, file size and byte ranges."""
        name = os.fsencode(self.name)
        lengths = np.array((len(name), self.num_bytes, self.num_samples), dtype="<i8")
        ranges = self.starts.astype("<i8").tobytes() + self.ends.astype("<i8").tobytes()
        return lengths.tobytes() + name + ranges


def index_shards(paths: Sequence[Path]) -> list[ShardIndex]:
    """Index shards; indices of unchanged shards come from the cache.

    A shard that cannot be read or holds no image is dead: it is logged, and stays in the list with
    0 samples.

    Raises:
        ShardError: there are shards, and all are dead.
    """
    bar = tqdm(paths, "indexing shards", unit="shard", delay=BAR_DELAY_SECONDS)
    indices = [_load_or_mark_dead(path) for path in bar]
    if indices and not any(index.num_samples for index in indices):
        raise ShardError(
            f"None of {len(indices)} shards holds a sample with an image. The first is "
            f"{indices[0].problem}"
        )
    for index in indices:
        if index.problem and index.num_samples:
            log.warning("%s: %s", index.path, index.problem)
    _warn_of_samples(
        "%d samples of %d shards have no image and are left out, for example in %s.",
        [(index.without_image, index.path) for index in indices if index.without_image],
    )
    _warn_of_samples(
        "%d samples of %d shards have several images, for example in %s. One of each is used: the "
        "one that image_field names (in training: data.image_field), or else the first.",
        [(index.several_images, index.path) for index in indices if index.several_images],
    )
    return indices


def _warn_of_samples(message: str, counts: Sequence[tuple[int, Path]]) -> None:
    """Log a message with the number of samples, the number of shards, and the first shard."""
    if counts:
        log.warning(message, sum(count for count, _ in counts), len(counts), counts[0][1])


def _load_or_mark_dead(path: Path) -> ShardIndex:
    try:
        return load_index(path)
    except (ShardError, OSError) as error:
        log.warning("dead shard: %s", error)
        empty = np.empty(0, np.int64)
        num_bytes = path.stat().st_size if path.exists() else 0
        return ShardIndex(path, num_bytes, empty, empty, 0, 0, f"dead: {error}")


def index_shard(path: Path) -> ShardIndex:
    """Index a shard from its headers; `walk_shard` says which samples of a damaged one are lost.

    Raises:
        ShardError: the file is unreadable or not a tar, or no sample has an image.
    """
    starts, ends = array("q"), array("q")  # 16 bytes per sample
    without_image, several_images = 0, 0

    def add(sample: list[Field]) -> None:
        nonlocal without_image, several_images
        num_images = sum(field.is_image for field in sample)
        several_images += num_images > 1
        if num_images:
            starts.append(sample[0].start)
            ends.append(sample[-1].end)
        else:
            without_image += 1

    num_bytes, problem = walk_shard(path, add, lambda _other: None)
    if not starts:
        raise ShardError(
            f"{path} holds no sample with an image ("
            f"{problem or 'no member ends with .jpg, .png or another image suffix'}). Remove it "
            "from the list, or write it again."
        )
    first, last = np.array(starts, np.int64), np.array(ends, np.int64)
    return ShardIndex(path, num_bytes, first, last, without_image, several_images, problem)


def load_index(path: Path) -> ShardIndex:
    """Load a shard's index from the cache, or index the shard and add it to the cache.

    Raises:
        ShardError: the shard cannot be read or holds no image.
        OSError: the shard does not exist.
    """
    file = _cache_file(path)
    cached = _read_cached(file, path)
    if cached is not None:
        return cached
    with cache_lock(f"index/{file.stem}"):  # ranks of a run divide the work between them
        return _read_cached(file, path) or _index_and_cache(path, file)


def _read_cached(file: Path, path: Path) -> ShardIndex | None:
    try:
        return read_index(file, path)
    except FileNotFoundError:
        return None
    except UNREADABLE_INDEX as error:
        log.warning("The index %s is unreadable (%s); it is made again.", file, error)
        return None


def _index_and_cache(path: Path, file: Path) -> ShardIndex:
    index = index_shard(path)
    try:
        write_index(index, file)
    except OSError as error:
        _warn_of_cache(file.parent, error.strerror)
    return index


@cache
def _warn_of_cache(folder: Path, reason: str) -> None:
    """Warn once per process, because all shards have the same trouble."""
    log.warning("Indices of shards cannot be kept in %s: %s.", folder, reason)


def _cache_file(path: Path) -> Path:
    identity = ":".join(map(str, file_signature(path)))
    return cache_folder("index") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"


def read_index(file: Path, shard: Path) -> ShardIndex:
    """Read a shard's index from a file that `write_index` wrote.

    Raises:
        FileNotFoundError: the index or the shard does not exist; or an earlier version, which read
            fewer kinds of tars and images, made the index and left samples out.
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: the index cannot be read.
    """
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        without_image, problem = int(stored["without_image"]), str(stored["problem"])
        several_images = int(stored.get("several_images", 0))
        if "several_images" not in stored and (without_image or problem):
            raise FileNotFoundError(f"{file} is of an earlier version")
        return ShardIndex(
            shard,
            shard.stat().st_size,
            stored["starts"],
            stored["ends"],
            without_image,
            several_images,
            problem,
        )


def write_index(index: ShardIndex, file: Path) -> None:
    """Write an index atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with write_atomically(file) as partial:
        np.savez(
            partial,
            starts=index.starts,
            ends=index.ends,
            without_image=index.without_image,
            several_images=index.several_images,
            problem=index.problem,
        )


def read_range(path: Path, start: int, end: int) -> dict[str, Any]:
    """Read the sample in a byte range of a shard into fields as `ShardIndex.read` returns them.

    Raises:
        ShardError: no sample starts at `start`.
        OSError: the shard cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        piece = file.read(end - start)
    try:
        files = tar_file_expander(
            [{"url": str(path), "stream": io.BytesIO(piece)}],
            select_files=lambda name: not is_hidden(name),
        )
        return next(iter(group_by_keys(files)))
    except (tarfile.TarError, ValueError, RecursionError, StopIteration) as error:
        raise ShardError(
            f"{path} has changed since it was indexed: no sample begins at byte {start}. "
            "Do not change shards while a run reads them, and start the run again."
        ) from error
