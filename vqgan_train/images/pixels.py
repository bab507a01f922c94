"""Convert pictures to a model's input, and its output to pictures, in one of two ranges."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqgan_train.images.decoding import picture_pixels
from vqgan_train.images.transforms import (
    crop_centre,
    resize_shorter_side,
    to_model_range,
    to_uint8,
)
from vqgan_train.system.errors import UserError


class PixelRange(NamedTuple):
    """How pixels are scaled for a model's input, and back from its output."""

    to_model: Callable[[Tensor], Tensor]
    """Converts uint8 of any shape to float32."""

    to_pixels: Callable[[Tensor], Tensor]
    """Converts decoded floats of any shape to uint8, clipped and rounded."""


def _to_unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _from_unit(decoded: Tensor) -> Tensor:
    return (decoded.float().clamp(0, 1) * 255).round().to(torch.uint8)


PIXEL_RANGES = {
    "signed": PixelRange(to_model_range, to_uint8),
    "unit": PixelRange(_to_unit, _from_unit),
}
"""signed: [-1, 1], in which the model was trained. unit: [0, 1], in which DALL-E mini used it.

Tokens that were made in one range stand for other pictures in the other.
"""


Picture = Image.Image | NDArray[Any] | Tensor


def to_model_input(
    pictures: Picture | Sequence[Picture], *, pixel_range: str, image_size: int | None = None
) -> Tensor:
    """Convert pictures to images for `VQGAN.encode` and `VQGAN.reconstruct`.

    Args:
        pictures: one, or several of one size. PIL images of 8 or 16 bits; numpy arrays (H, W, 3),
            (H, W) or a batch (B, H, W, 3), uint8; torch tensors (3, H, W) or (B, 3, H, W), uint8.
        pixel_range: signed, [-1, 1], in which the model was trained; or unit, [0, 1], in which
            DALL-E mini used it. Decode the tokens in the same range.
        image_size: scale each picture's shorter side to it and crop the square in the centre, as in
            training. None: keep the size, whose sides have to be multiples of the model's f.

    Returns:
        (B, 3, H, W) float32 on the CPU, or on the device of the tensors.

    Raises:
        UserError: there is no picture; one has another type, is not uint8, or differs in size from
            the others; or `pixel_range` is unknown.
        ValueError: a PIL image holds floats or 32-bit integers; or, with `image_size`, a longer
            side is more than 50 times the shorter one.
    """
    listed = pictures if isinstance(pictures, Sequence) else [pictures]
    images = [image for picture in listed for image in _pixels(picture)]
    if image_size is not None:
        images = [crop_centre(resize_shorter_side(i, image_size), image_size) for i in images]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) != 1:
        got = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)) or "no picture"
        raise UserError(
            f"A batch needs pictures of one height x width, but got {got}. Set image_size, or give "
            "the pictures one by one."
        )
    return _range(pixel_range).to_model(torch.stack(images))


def to_numpy(images: Tensor, *, pixel_range: str) -> NDArray[np.uint8]:
    """Convert decoded images (B, 3, H, W), any float dtype and device, to (B, H, W, 3) uint8."""
    pixels = _range(pixel_range).to_pixels(images.detach())
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def to_pil(images: Tensor, *, pixel_range: str) -> list[Image.Image]:
    """Convert decoded images (B, 3, H, W), any float dtype and device, to PIL images."""
    return [Image.fromarray(pixels) for pixels in to_numpy(images, pixel_range=pixel_range)]


def _range(name: str) -> PixelRange:
    if name not in PIXEL_RANGES:
        raise UserError(f"pixel_range is {name!r}; give one of {', '.join(PIXEL_RANGES)}.")
    return PIXEL_RANGES[name]


def _pixels(picture: Any) -> list[Tensor]:
    """Convert a picture, or a batch of them, to images (3, H, W) uint8."""
    if isinstance(picture, Image.Image):
        return [picture_pixels(picture)]
    if isinstance(picture, np.ndarray):
        if picture.ndim == 2:
            picture = np.stack([picture] * 3, axis=2)
        if picture.dtype == np.uint8 and picture.ndim in (3, 4) and picture.shape[-1] == 3:
            tensor = torch.from_numpy(picture.copy())  # because torch warns about read-only arrays
            return list(tensor.movedim(-1, -3).reshape(-1, 3, *picture.shape[-3:-1]))
        raise _refused("numpy arrays must be (H, W, 3), (H, W) or (B, H, W, 3), uint8", picture)
    if isinstance(picture, Tensor):
        if picture.dtype == torch.uint8 and picture.dim() in (3, 4) and picture.shape[-3] == 3:
            return list(picture.reshape(-1, *picture.shape[-3:]))
        raise _refused(
            "tensors must be (3, H, W) or (B, 3, H, W), uint8. Floats in the model's range need no "
            "conversion: give them to the model",
            picture,
        )
    raise UserError(f"A picture is of PIL, numpy or torch, but got {type(picture).__name__}.")


def _refused(accepted: str, array: Any) -> UserError:
    return UserError(f"Got shape {tuple(array.shape)} of {array.dtype}, but {accepted}.")
