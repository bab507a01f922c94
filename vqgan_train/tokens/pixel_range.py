"""What a model is given for black and for white: tokens made with one range are not the other's."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.data.transforms import to_model_range, to_uint8


class PixelRange(NamedTuple):
    """One way to give pixels to a model, and to read what it decodes."""

    to_model: Callable[[Tensor], Tensor]
    """From uint8 of any shape to float32."""

    to_pixels: Callable[[Tensor], Tensor]
    """From decoded floats to uint8, clipped and rounded."""


def _to_unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _from_unit(decoded: Tensor) -> Tensor:
    return (decoded.float().clamp(0, 1) * 255).round().to(torch.uint8)


PIXEL_RANGES = {
    "signed": PixelRange(to_model_range, to_uint8),
    "unit": PixelRange(_to_unit, _from_unit),
}
"""signed: [-1, 1], in which the model was trained. unit: [0, 1], in which DALL-E mini used it."""
