"""Locations of images: samples of local or remote shards, and image files; read with retries."""

import errno
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.images.folders import replace_undecodable, text_beside
from vqgan_train.images.sample import caption_of, image_bytes
from vqgan_train.shards.index import read_range
from vqgan_train.shards.remote.store import RemoteShard
from vqgan_train.system.addresses import redact
from vqgan_train.system.errors import ShardError, UserError


class EncodedImage(NamedTuple):
    """An image as it is stored, with its caption and origin."""

    name: str
    """Name under which a person finds the image: `shard/key`, or the file."""

    key: str
    caption: str
    """Empty if there is none."""

    source: str
    """Name of the shard, or the file as it was listed."""

    image: bytes
    metadata: bytes
    """The sample's json field; empty if there is none."""


class ShardLocation(NamedTuple):
    """A sample of a shard on this machine."""

    shard: Path
    start: int
    """Offset of its first member in bytes."""

    end: int
    """Offset of the byte after its last member."""

    image_field: str | None = None
    """Field of the image, see `image_bytes`."""

    def read(self) -> EncodedImage:
        """Read the sample.

        Raises:
            ShardError: the shard has changed since it was indexed.
            LookupError: the sample has no image any more.
            OSError: the shard cannot be read.
        """
        fields = read_range(self.shard, self.start, self.end)
        return _encoded_image(fields, self.shard.name, self.image_field)

    @property
    def name(self) -> str:
        """Name for messages as long as the sample's key is unknown."""
        return f"{replace_undecodable(self.shard.name)} at byte {self.start}"

    @property
    def file(self) -> str:
        """Path of the shard."""
        return replace_undecodable(str(self.shard))


class RemoteLocation(NamedTuple):
    """A sample of a remote shard, which is downloaded when its first sample is read."""

    shard: RemoteShard
    number: int
    """Number of the sample in the shard, from 0 on."""

    image_field: str | None = None
    """Field of the image, see `image_bytes`."""

    def read(self) -> EncodedImage:
        """Read the sample.

        Raises:
            ShardError: the download failed, or the shard has more or fewer samples than counted.
            LookupError: the sample has no image.
        """
        shard = self.shard
        fields = shard.read(self.number)
        downloaded_samples = shard.store.fetch(shard.address).num_samples
        if downloaded_samples != shard.num_samples:
            raise ShardError(
                f"{self.file} holds {downloaded_samples} samples, but {shard.num_samples} were "
                "counted before, by its NNNNN_stats.json or an earlier download. Download the "
                "shard, and give the path of the file instead of the address."
            )
        return _encoded_image(fields, shard.name, self.image_field)

    @property
    def name(self) -> str:
        """Name for messages as long as the sample's key is unknown."""
        return f"{self.shard.name}, sample {self.number}"

    @property
    def file(self) -> str:
        """Address of the shard, without the parts that may be secret."""
        return redact(self.shard.address)


class FileLocation(NamedTuple):
    """An image file."""

    number: int
    """Position among the image files of the source, from 0 on; with 9 digits, it is the key."""

    path: Path
    source: str
    """The file as it was listed: relative to its folder, or as its table names it."""

    caption: str | None
    """None: the caption is in a text file next to the image."""

    def read(self) -> EncodedImage:
        """Read the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: no file can have this name.
        """
        caption = text_beside(self.path) if self.caption is None else self.caption
        key = f"{self.number:09d}"
        return EncodedImage(self.name, key, caption, self.name, self.path.read_bytes(), b"")

    @property
    def name(self) -> str:
        """The file as it was listed."""
        return replace_undecodable(self.source)

    @property
    def file(self) -> str:
        """Path of the file."""
        return replace_undecodable(str(self.path))


ImageLocation = ShardLocation | RemoteLocation | FileLocation


def _encoded_image(
    fields: Mapping[str, Any], shard_name: str, image_field: str | None
) -> EncodedImage:
    key, shard = replace_undecodable(fields["__key__"]), replace_undecodable(shard_name)
    image, metadata = image_bytes(fields, image_field), fields.get("json", b"")
    return EncodedImage(f"{shard}/{key}", key, caption_of(fields), shard, image, metadata)


RETRY_DELAYS_SECONDS = (1.0, 4.0)
"""Pauses before reading again; a network disk that is gone for longer is an error."""

NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors that mean that there is no such file, not that the system failed to read it."""


class NoImageError(ValueError):
    """There is no image at this location."""


def read_with_retries(location: ImageLocation) -> EncodedImage:
    """Read an image, and try again after a pause if the system could not read it.

    Raises:
        NoImageError: there is no such file.
        UserError: the system could not read the file, which says nothing about the image.
        ShardError: the shard has changed, or its download failed.
        LookupError, ValueError: as `read` of the location.
    """
    delays = iter(RETRY_DELAYS_SECONDS)
    while True:
        try:
            return location.read()
        except OSError as error:
            if error.errno in NO_FILE and not isinstance(location, ShardLocation):
                raise NoImageError(error.strerror) from error
            delay = next(delays, None)
            if delay is None:
                raise UserError(
                    f"{error.filename or location.file} cannot be read: {error.strerror} (tried "
                    f"{len(RETRY_DELAYS_SECONDS) + 1} times). The disk or the permissions are at "
                    "fault, not the image, so the image was not left out. Make the file readable, "
                    "and give the same command again."
                ) from error
            time.sleep(delay)
