"""Images of samples, judged as training judges them."""

import hashlib

from torch import Tensor

from vqgan_train.images.transforms import decode, require_croppable

HASH_BYTES = 8
"""With 64 bits, 20 million different images share a hash with a probability of 1 in 90,000."""


def decode_for_training(encoded: bytes) -> Tensor:
    """Decode an image that training can use.

    Returns:
        uint8 (3, H, W), RGB.

    Raises:
        Exception: one of `UNREADABLE`, if training would skip the image.
    """
    image = decode(encoded)
    require_croppable(image.shape[1], image.shape[2])
    return image


def content_hash(encoded: bytes) -> int:
    """Return a 64-bit hash of an image file; equal hashes mean equal files."""
    digest = hashlib.blake2b(encoded, digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
