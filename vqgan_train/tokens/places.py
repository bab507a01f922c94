"""Where an image and its caption are: in a shard, or in a file."""

from pathlib import Path
from typing import NamedTuple

from vqgan_train.data.pipeline import image_bytes, read_range
from vqgan_train.preparation.folders import printable, text_beside


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
        """
        fields = read_range(self.shard, self.start, self.end)
        caption = fields.get("txt", b"").decode("utf-8", "replace").strip()
        key, shard = printable(fields["__key__"]), printable(self.shard.name)
        image, metadata = image_bytes(fields), fields.get("json", b"")
        return Encoded(f"{shard}/{key}", key, caption, shard, image, metadata)

    @property
    def name(self) -> str:
        """What a person finds it by, before it is read."""
        return f"{printable(self.shard.name)} at byte {self.start}"


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
        """
        caption = text_beside(self.path) if self.caption is None else self.caption
        key = f"{self.number:09d}"
        return Encoded(self.name, key, caption, self.name, self.path.read_bytes(), b"")

    @property
    def name(self) -> str:
        """What a person finds it by, before it is read."""
        return printable(self.source)


Place = ShardPlace | FilePlace
