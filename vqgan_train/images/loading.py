"""Read and decode images; a bad image becomes a text that names it, other errors are raised."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from vqgan_train.images.locations import EncodedImage, ImageLocation, read_with_retries
from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.system.errors import UserError

DecodedT = TypeVar("DecodedT")


def read_image(
    location: ImageLocation, decode: Callable[[bytes], DecodedT]
) -> tuple[EncodedImage, DecodedT] | str:
    """Read and decode an image.

    Returns:
        The image as stored, and decoded; or, if it is bad, a text with its name and the reason.

    Raises:
        UserError: the system cannot read the file; or its shard has changed or is unavailable.
    """
    name = location.name
    try:
        encoded = read_with_retries(location)
        name = encoded.name
        return encoded, decode(encoded.image)
    except UserError:  # also a ValueError, but the image is not at fault
        raise
    except UNREADABLE as error:
        return f"{name}: {reason(error)}"


def stack_pixels(pixels: list[Tensor]) -> Tensor:
    """Stack images (3, H, W) uint8 to (B, 3, H, W); no images give (0, 3, 1, 1)."""
    return torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
