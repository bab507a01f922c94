"""Decode an image file, scale and crop it, and convert its pixels to the model's range."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vqgan_train.images.decoding import decode

MAX_ASPECT_RATIO = 50
"""Images with longer sides are lines and spacers; 3000 x 2 scaled to 256 rows takes 3 GB."""

Size = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""


def height_and_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Decode an image, scale it until it just covers `resize`, and crop `image_size` from it.

    Args:
        resize: size that the scaled image just covers; a number is the length of its shorter side.
        image_size: size of the crop, at most `resize`.
        random_crop: crop at a random position instead of the centre.
        random_flip: mirror half of the images, at random.
        interpolation: a key of INTERPOLATIONS.
        exif_rotate: turn the image as its EXIF says.
    """

    resize: Size
    image_size: Size
    random_crop: bool = False
    random_flip: bool = False
    interpolation: str = "bilinear"
    exif_rotate: bool = False

    def __call__(self, encoded: bytes, random: np.random.Generator | None = None) -> Tensor:
        """Convert an encoded image to (3, H, W) float32 in [-1, 1], on which the model is trained.

        Arguments and errors are those of `pixels`.
        """
        return to_model_range(self.pixels(encoded, random))

    def pixels(self, encoded: bytes, random: np.random.Generator | None = None) -> Tensor:
        """Convert an encoded image to (3, H, W) uint8, where H and W are `image_size`.

        Args:
            encoded: the file's bytes.
            random: draws the crop and the flip; only needed if one of them is random.

        Raises:
            ValueError: the longer side is more than 50 times the shorter one.
            Exception: one of `sample.UNREADABLE`; PIL cannot read the image.
        """
        image = decode(encoded, exif_rotate=self.exif_rotate)
        scale = INTERPOLATIONS[self.interpolation]
        image = scale(image, covering_size(image, height_and_width(self.resize)))
        if self.random_crop:
            assert random is not None, "a random crop needs a generator"
            height, width = height_and_width(self.image_size)
            top = random.integers(0, image.shape[1] - height + 1)
            left = random.integers(0, image.shape[2] - width + 1)
            image = image[:, top : top + height, left : left + width]
        else:
            image = crop_centre(image, self.image_size)
        if self.random_flip:
            assert random is not None, "a random flip needs a generator"
            image = image.flip(2) if random.random() < 0.5 else image
        return image


def decode_for_training(encoded: bytes, *, exif_rotate: bool = False) -> Tensor:
    """Decode an image as `decode` does, and refuse one that training would skip.

    Raises:
        Exception: one of `sample.UNREADABLE`; PIL cannot read the image, or it is too long to crop.
    """
    image = decode(encoded, exif_rotate=exif_rotate)
    require_croppable(image.shape[1], image.shape[2])
    return image


def crop_centre(image: Tensor, size: Size) -> Tensor:
    """Crop the centre of (C, H, W), which must be at least as large as `size`."""
    height, width = height_and_width(size)
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def resize_shorter_side(image: Tensor, size: int) -> Tensor:
    """Scale (3, H, W) uint8 so that its shorter side is `size`; the longer side is rounded.

    Raises:
        ValueError: the longer side is more than 50 times the shorter one.
    """
    return scale_bilinear(image, covering_size(image, (size, size)))


def covering_size(image: Tensor, rectangle: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width to which to scale (C, H, W), so that it just covers a rectangle.

    Raises:
        ValueError: the longer side is more than 50 times the shorter one.
    """
    height, width = image.shape[1:]
    require_croppable(height, width)
    scale = max(rectangle[0] / height, rectangle[1] / width)
    return round(height * scale), round(width * scale)


def require_croppable(height: int, width: int) -> None:
    """Refuse an image whose sides are too different to crop a square from it.

    Raises:
        ValueError: the longer side is more than 50 times the shorter one.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"{width} x {height} pixels is too long to crop a square from")


def scale_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (3, H, W) uint8 to a height and width, bilinear and without antialiasing.

    The original's data pipeline used OpenCV, which does the same. On photos one value in five is
    one grey level off: both compute with integers, but torch rounds after each of the two
    directions, and OpenCV cuts bits off at the end.
    """
    if size == tuple(image.shape[1:]):
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


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


def to_model_range(image: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 [-1, 1]."""
    # A GPU would multiply by the rounded reciprocal of a plain number.
    half = torch.full((), 127.5, device=image.device)
    return image.contiguous().to(torch.float32, copy=True).div_(half).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """Convert float [-1, 1] to uint8 0..255, clipped and rounded, as image files hold it."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
