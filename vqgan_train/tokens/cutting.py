"""From an image file to the rectangle of pixels that is encoded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqgan_train.data.transforms import covering_size, crop_centre, decode, scale_bilinear

Size = int | tuple[int, int]
"""Pixels: the side of a square, or height and width."""


def height_and_width(size: Size) -> tuple[int, int]:
    """Both sides."""
    return (size, size) if isinstance(size, int) else size


def scale_lanczos(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (3, H, W) uint8 to a height and width by PIL, with antialiasing."""
    if size == tuple(image.shape[1:]):
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scaled = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


INTERPOLATIONS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "bilinear": scale_bilinear,
    "lanczos": scale_lanczos,
}
"""bilinear: as in training. lanczos: PIL's, as in DALL-E mini's own scripts."""


class Cut(NamedTuple):
    """Scale an image until it covers a rectangle, and cut one out of its centre."""

    resize: tuple[int, int]
    """Height and width that the scaled image just covers, in pixels."""

    image_size: tuple[int, int]
    """Height and width of what is cut out, in pixels; no larger."""

    interpolation: str
    """A key of INTERPOLATIONS."""

    def pixels(self, encoded: bytes) -> Tensor:
        """Turn an encoded image into (3, H, W) uint8.

        Raises:
            ValueError: its longer side is more than 50 times the shorter one.
            Exception: whatever PIL raises where it cannot read it, see pipeline.UNREADABLE.
        """
        image = decode(encoded)
        scale = INTERPOLATIONS[self.interpolation]
        scaled = scale(image, covering_size(image, self.resize))
        return crop_centre(scaled, self.image_size)
