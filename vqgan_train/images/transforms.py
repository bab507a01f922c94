"""From the bytes of an image file to the tensor that the model sees."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MOST_ASPECT_RATIO = 50
"""Longer images are lines and spacers: 3000 x 2 pixels would take 3 GB to scale to 256 rows."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Decode, resize the shorter side, crop a square, perhaps mirror, scale to [-1, 1].

    Args:
        resize: length of the shorter side, in pixels.
        image_size: side of the crop, in pixels.
        random_crop: crop anywhere instead of in the centre.
        random_flip: mirror every other image.
    """

    resize: int
    image_size: int
    random_crop: bool
    random_flip: bool

    def __call__(self, encoded: bytes, random: np.random.Generator) -> Tensor:
        """As `pixels`, but float32 in [-1, 1]: what a model is trained on."""
        return to_model_range(self.pixels(encoded, random))

    def pixels(self, encoded: bytes, random: np.random.Generator) -> Tensor:
        """Turn an encoded image into (3, image_size, image_size) uint8.

        Args:
            encoded: the file's bytes.
            random: draws the crop and the flip.

        Raises:
            ValueError: its longer side is more than 50 times the shorter one.
            Exception: whatever PIL raises where it cannot read it, see pipeline.UNREADABLE.
        """
        image = resize_shorter_side(decode(encoded), self.resize)
        free = image.shape[1] - self.image_size, image.shape[2] - self.image_size
        top, left = (random.integers(0, f + 1) if self.random_crop else f // 2 for f in free)
        image = image[:, top : top + self.image_size, left : left + self.image_size]
        if self.random_flip and random.random() < 0.5:
            image = image.flip(2)
        return image


def decode(encoded: bytes) -> Tensor:
    """Decode what PIL knows to RGB: (3, H, W) uint8. As in the original, EXIF turns nothing."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.format == "JPEG" and image.mode == "RGB":
            with suppress(ValueError):  # PIL has the last word, and says what is wrong
                return _decode_jpeg(encoded)
        return picture_pixels(image)


def picture_pixels(image: Image.Image) -> Tensor:
    """A picture of PIL in any mode as RGB: (3, H, W) uint8."""
    if image.mode.startswith("I;16"):
        # PIL clips 16-bit grey to 255, which is white; of 16-bit RGB it takes the high byte.
        grey = torch.from_numpy((np.array(image) >> 8).astype(np.uint8))
        return grey.expand(3, -1, -1)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def crop_centre(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The square, or height and width, in the centre of (C, H, W), whose sides are no shorter."""
    height, width = (size, size) if isinstance(size, int) else size
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _decode_jpeg(encoded: bytes) -> Tensor:
    """Decode a colour JPEG: (3, H, W) uint8, the same pixels as PIL's without its two copies.

    Raises:
        ValueError: it breaks off, or is damaged.
    """
    return torch.from_numpy(simplejpeg.decode_jpeg(encoded, "RGB")).permute(2, 0, 1)


def resize_shorter_side(image: Tensor, size: int) -> Tensor:
    """Scale (3, H, W) uint8 so that its shorter side is `size`, the longer one rounded.

    Raises:
        ValueError: the image is a line.
    """
    return scale_bilinear(image, covering_size(image, (size, size)))


def covering_size(image: Tensor, least: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which (C, H, W) is scaled so that it just covers a rectangle.

    Raises:
        ValueError: the image is a line.
    """
    height, width = image.shape[1:]
    require_croppable(height, width)
    scale = max(least[0] / height, least[1] / width)
    return round(height * scale), round(width * scale)


def scale_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (3, H, W) uint8 to a height and width.

    Bilinear without antialiasing, as OpenCV does it: what the original's data pipeline used. On
    photos one value in five is one grey level beside: both compute with integers, torch rounds
    after each of the two directions and OpenCV cuts bits off at the end.
    """
    if size == tuple(image.shape[1:]):
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def require_croppable(height: int, width: int) -> None:
    """Refuse sides of which no square can be made.

    Raises:
        ValueError: the image is a line.
    """
    if max(height, width) > MOST_ASPECT_RATIO * min(height, width):
        raise ValueError(f"{width} x {height} pixels is too long to crop a square from")


def to_model_range(image: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return image.contiguous().to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """Float [-1, 1] to uint8 0..255, clipped and rounded: what a picture file holds."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


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
