"""What an image in a shard is, by its header alone or by decoding it as training does."""

import hashlib
import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from vqgan_train.images.sample import UNREADABLE, image_bytes
from vqgan_train.images.transforms import decode, require_croppable
from vqgan_train.shards.index import ShardIndex
from vqgan_train.shards.tar import Member

HEAD_BYTES = 2**14
"""What holds the header of nearly every image: all before it is its size, profile and EXIF."""


class Picture(NamedTuple):
    """What an image file says about itself."""

    file_format: str
    """PIL's name: JPEG, PNG, ..."""

    mode: str
    """PIL's name: RGB, L (grey), CMYK, I;16, ..."""

    width: int
    height: int

    content: bytes
    """8 bytes that two files have in common if their lengths and first 16 KiB are the same."""


Look = Callable[[ShardIndex, int, Member], Picture]
"""From a shard, a sample's place in it and its image's member to what it shows; raises one of
pipeline.UNREADABLE if training could not read it."""


def look_at_header(shard: ShardIndex, place: int, member: Member) -> Picture:
    """Read the image's first bytes, and all of it only if they do not do.

    An image that breaks off after its header passes.
    """
    with shard.path.open("rb") as file:
        file.seek(member.content)
        head = file.read(min(member.num_bytes, HEAD_BYTES))
    try:
        return _describe(head, member.num_bytes)
    except UNREADABLE:
        encoded = image_bytes(shard.read(place))
        return _describe(encoded, len(encoded))


def look_at_pixels(shard: ShardIndex, place: int, member: Member) -> Picture:
    """Read the sample as training does, and decode the image."""
    encoded = image_bytes(shard.read(place))
    picture = _describe(encoded, len(encoded))
    decode(encoded)
    return picture


def _describe(encoded: bytes, num_bytes: int) -> Picture:
    """Describe an image of `num_bytes` from its first bytes at least."""
    with Image.open(io.BytesIO(encoded)) as image:
        require_croppable(image.height, image.width)
        digest = hashlib.blake2b(encoded[:HEAD_BYTES], digest_size=8, salt=b"%x" % num_bytes)
        return Picture(
            image.format or "unknown", image.mode, image.width, image.height, digest.digest()
        )
