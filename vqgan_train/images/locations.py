"""Where an image and its caption are: in a shard, here or elsewhere, or in a file."""

import errno
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.images.folders import printable, text_beside
from vqgan_train.images.sample import image_bytes
from vqgan_train.shards.index import read_range
from vqgan_train.shards.naming import file_name, redact_address
from vqgan_train.shards.remote.store import RemoteShard, ShardStore
from vqgan_train.system.errors import ShardError, TokenError
from vqgan_train.system.files import cache_folder


class Encoded(NamedTuple):
    """An image as a file has it, and what belongs to it."""

    name: str
    """What a person finds it by."""

    key: str
    caption: str
    """Empty if there is none."""

    source: str
    """The shard's name, or the file as it was listed."""

    image: bytes
    metadata: bytes
    """The sample's json; empty if there is none."""


class ShardPlace(NamedTuple):
    """A sample of a shard."""

    shard: Path
    start: int
    """Byte at which its first member begins."""

    end: int
    """Byte after its last member."""

    def read(self) -> Encoded:
        """Read it.

        Raises:
            ShardError: the shard has changed since it was indexed.
            LookupError: there is no image in it any more.
            OSError: the shard cannot be read.
        """
        return _of_shard(read_range(self.shard, self.start, self.end), self.shard.name)

    @property
    def name(self) -> str:
        """What a person finds it by, before it is read."""
        return f"{printable(self.shard.name)} at byte {self.start}"

    @property
    def file(self) -> str:
        """What is opened."""
        return printable(str(self.shard))


class StoreSettings(NamedTuple):
    """Of `ShardStore`: where remote shards are kept."""

    folder: Path
    max_bytes: int
    stall_seconds: float
    attempts: int


def store_settings(
    cache_dir: str | None, cache_gb: float, stall_seconds: float, attempts: int
) -> StoreSettings:
    """Say where remote shards are kept.

    Args:
        cache_dir: folder on a disk of this machine. None: that of everything that is cached.
        cache_gb: what they may take there, in 10^9 bytes.
        stall_seconds: how long a source may send nothing.
        attempts: how often it is asked.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else cache_folder("shards")
    return StoreSettings(folder, int(cache_gb * 1e9), stall_seconds, attempts)


@cache
def open_store(settings: StoreSettings) -> ShardStore:
    """The store of this process."""
    return ShardStore(*settings)


class RemotePlace(NamedTuple):
    """A sample of a shard that is fetched when its first sample is read."""

    address: str
    num_samples: int
    """Of the shard, as counted before it was fetched."""

    number: int
    """Of the sample in the shard."""

    store: StoreSettings
    """Not the store itself: places go to loader processes by the thousand."""

    def read(self) -> Encoded:
        """Read it.

        Raises:
            ShardError: the shard cannot be had, or holds another number of samples.
            LookupError: there is no image in it.
        """
        store = open_store(self.store)
        shard = RemoteShard(self.address, self.num_samples, store)
        fields = shard.read(self.number)
        there = store.fetch(self.address).num_samples
        if there != self.num_samples:
            raise ShardError(
                f"{self.file} holds {there} samples, and not {self.num_samples}, as the "
                "NNNNN_stats.json beside it says, or as there were before. Mend that file, or "
                "fetch the shard and give the file."
            )
        return _of_shard(fields, shard.name)

    @property
    def name(self) -> str:
        """What a person finds it by, before it is read."""
        return f"{file_name(self.address)}, sample {self.number}"

    @property
    def file(self) -> str:
        """What is fetched, without what may be a secret in its address."""
        return redact_address(self.address)


class FilePlace(NamedTuple):
    """An image file."""

    number: int
    """Its place among all, which becomes its key."""

    path: Path
    source: str
    caption: str | None
    """None: look for a text file beside it."""

    def read(self) -> Encoded:
        """Read it.

        Raises:
            OSError: it cannot be read.
            ValueError: there can be no file of this name.
        """
        caption = text_beside(self.path) if self.caption is None else self.caption
        key = f"{self.number:09d}"
        return Encoded(self.name, key, caption, self.name, self.path.read_bytes(), b"")

    @property
    def name(self) -> str:
        """What a person finds it by, before it is read."""
        return printable(self.source)

    @property
    def file(self) -> str:
        """What is opened."""
        return printable(str(self.path))


Place = ShardPlace | RemotePlace | FilePlace


def _of_shard(fields: Mapping[str, Any], shard_name: str) -> Encoded:
    caption = fields.get("txt", b"").decode("utf-8", "replace").strip()
    key, shard = printable(fields["__key__"]), printable(shard_name)
    image, metadata = image_bytes(fields), fields.get("json", b"")
    return Encoded(f"{shard}/{key}", key, caption, shard, image, metadata)


PAUSES_SECONDS = (1.0, 4.0)
"""Before a place is read again; a network's disk that is gone for longer is an error."""

NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""The system's answer is that there is no such file, not that it cannot tell."""


class NoImageError(ValueError):
    """There is no image where one should be."""


def read_patiently(place: Place) -> Encoded:
    """Read a place, again after a while if the system could not.

    Raises:
        NoImageError: there is no such image.
        TokenError: the system cannot read it; that says nothing about the image.
        ShardError: the shard has changed, or cannot be had.
    """
    for pause in (*PAUSES_SECONDS, None):
        try:
            return place.read()
        except OSError as error:
            if error.errno in NO_FILE and not isinstance(place, ShardPlace):
                raise NoImageError(error.strerror) from error
            if pause is None:
                raise TokenError(
                    f"{error.filename or place.file} cannot be read: {error.strerror} (asked "
                    f"{len(PAUSES_SECONDS) + 1} times). That is the disk's or the permissions' "
                    "fault, not the image's, so nothing was left out for it. Mend it; the same "
                    "command then goes on."
                ) from error
            time.sleep(pause)
    raise AssertionError
