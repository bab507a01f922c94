"""Find and hash the image of a sample; list the errors of images that cannot be decoded."""

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from vqgan_train.shards.tar import IMAGE_FIELDS

UNREADABLE = (
    OSError, ValueError, SyntaxError, ArithmeticError, EOFError, LookupError, TypeError,
    AssertionError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that mean an unreadable image; PIL raises any of them on damaged files."""

HASH_BYTES = 8
"""With 64 bits, the chance that two of 20 million different images share a hash is 1 in 90,000."""


def reason(error: Exception) -> str:
    """Return in a few words why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that PIL knows"
    return str(error) or type(error).__name__


def image_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return the encoded bytes of a sample's first image; further images are not used.

    Raises:
        LookupError: the sample has no image.
    """
    for key, value in fields.items():
        if key in IMAGE_FIELDS:
            return value
    raise LookupError("it has no image any more: the shard has changed since it was indexed")


def content_hash(encoded: bytes) -> int:
    """Return a 64-bit hash of an image file; files with equal hashes are taken as equal."""
    digest = hashlib.blake2b(encoded, digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
