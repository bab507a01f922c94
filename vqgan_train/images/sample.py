"""Find and hash the image of a sample; list the errors of images that cannot be decoded."""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from vqgan_train.shards.tar import IMAGE_FIELDS, is_image_field

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


def image_bytes(fields: Mapping[str, Any], image_field: str | None = None) -> bytes:
    """Return the encoded bytes of a sample's image; further images are not used.

    Args:
        fields: the sample's fields.
        image_field: name of the image's field. None: the first without a dot in its name such as
            `jpg`, or else the first such as `0.image.jpg`.

    Raises:
        LookupError: the sample has no image, or none of that name.
    """
    if image_field is not None:
        if image_field not in fields:
            images = ", ".join(filter(is_image_field, fields))
            raise LookupError(f"it has no field {image_field} (image_field), but {images}")
        return fields[image_field]
    for is_image in (IMAGE_FIELDS.__contains__, is_image_field):
        for key, value in fields.items():
            if is_image(key):
                return value
    raise LookupError("it has no image any more: the shard has changed since it was indexed")


def caption_of(fields: Mapping[str, Any]) -> str:
    """Return a sample's caption: its txt, or without one `caption` of its json; else empty."""
    if "txt" in fields:
        return fields["txt"].decode("utf-8", "replace").strip()
    try:
        return str(json.loads(fields["json"])["caption"] or "").strip()
    except (LookupError, ValueError, TypeError):
        return ""


def content_hash(encoded: bytes) -> int:
    """Return a 64-bit hash of an image file; files with equal hashes are taken as equal."""
    digest = hashlib.blake2b(encoded, digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
