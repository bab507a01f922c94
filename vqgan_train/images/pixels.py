"""What a model is given for black and for white: tokens made with one range are not the other's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqgan_train.images.transforms import (
    crop_centre,
    picture_pixels,
    resize_shorter_side,
    to_model_range,
    to_uint8,
)
from vqgan_train.system.errors import UserError


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


Picture = Image.Image | NDArray[Any] | Tensor


class PictureError(UserError):
    """A picture is of a kind or shape that cannot be used; the message says what would do."""


def to_model_input(
    pictures: Picture | Sequence[Picture], *, pixel_range: str, image_size: int | None = None
) -> Tensor:
    """Make images for `VQGAN.encode` and `VQGAN.reconstruct`.

    Args:
        pictures: one, or several of one size: of PIL in any mode; of numpy (H, W, 3) or (H, W),
            uint8, or a batch (B, H, W, 3); of torch (3, H, W) or (B, 3, H, W), uint8.
        pixel_range: signed, [-1, 1], in which the model was trained; or unit, [0, 1], in which
            DALL-E mini used it. Whatever reads the tokens has to know which one it was.
        image_size: scale each picture's shorter side to it and crop the square in the centre, as in
            training. None: leave the size, whose sides have to be multiples of the model's f.

    Returns:
        (B, 3, H, W) float32 on the CPU, or on the device of the tensors given.

    Raises:
        PictureError: a picture is no picture, not of uint8, or of another size than the others.
    """
    listed = pictures if isinstance(pictures, Sequence) else [pictures]
    pixels = [one for picture in listed for one in _pixels(picture)]
    if image_size is not None:
        pixels = [crop_centre(resize_shorter_side(one, image_size), image_size) for one in pixels]
    sizes = {tuple(one.shape[1:]) for one in pixels}
    if len(sizes) != 1:
        raise PictureError(
            f"Pictures of {len(sizes)} sizes, {sorted(sizes)}, make no batch. Set image_size, or "
            "give them one by one."
        )
    return _range(pixel_range).to_model(torch.stack(pixels))


def to_numpy(images: Tensor, *, pixel_range: str) -> NDArray[np.uint8]:
    """Turn decoded images (B, 3, H, W), any float dtype and device, into (B, H, W, 3) uint8."""
    pixels = _range(pixel_range).to_pixels(images.detach())
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def to_pil(images: Tensor, *, pixel_range: str) -> list[Image.Image]:
    """Turn decoded images (B, 3, H, W), any float dtype and device, into pictures."""
    return [Image.fromarray(pixels) for pixels in to_numpy(images, pixel_range=pixel_range)]


def _range(name: str) -> PixelRange:
    if name not in PIXEL_RANGES:
        raise PictureError(f"pixel_range is {name!r}; give one of {', '.join(PIXEL_RANGES)}.")
    return PIXEL_RANGES[name]


def _pixels(picture: Any) -> list[Tensor]:
    """Each (3, H, W) uint8."""
    if isinstance(picture, Image.Image):
        return [picture_pixels(picture)]
    if isinstance(picture, np.ndarray):
        if picture.ndim == 2:
            picture = np.stack([picture] * 3, axis=2)
        if picture.dtype == np.uint8 and picture.ndim in (3, 4) and picture.shape[-1] == 3:
            tensor = torch.from_numpy(picture.copy())  # which may be read-only
            return list(tensor.movedim(-1, -3).reshape(-1, 3, *picture.shape[-3:-1]))
        raise _refused("numpy arrays are (H, W, 3), (H, W) or (B, H, W, 3), uint8", picture)
    if isinstance(picture, Tensor):
        if picture.dtype == torch.uint8 and picture.dim() in (3, 4) and picture.shape[-3] == 3:
            return list(picture.reshape(-1, *picture.shape[-3:]))
        raise _refused(
            "tensors are (3, H, W) or (B, 3, H, W), uint8. Floats in the model's range need no "
            "conversion: give them to the model",
            picture,
        )
    raise PictureError(f"{type(picture).__name__} is no picture of PIL, numpy or torch.")


def _refused(accepted: str, given: Any) -> PictureError:
    return PictureError(f"Got {tuple(given.shape)} of {given.dtype}; {accepted}.")
