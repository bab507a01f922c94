"""Decode image files of every kind that PIL reads to 8-bit RGB."""

import importlib
import io
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from vqgan_train.images.sample import UNREADABLE

Image.MAX_IMAGE_PIXELS = 2**27
"""PIL refuses images of more than twice as many pixels: 268 megapixels, 0.8 GB as RGB. Phones make
200; PIL's own limit is 179."""

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**27
"""Largest text or colour profile of a PNG, in bytes: 128 MiB. PIL's own limit is 1 MiB, beyond
which it refuses the pixels too; programs that generate images store more."""

with suppress(ImportError):  # PIL reads HEIC only with this package
    importlib.import_module("pillow_heif").register_heif_opener()

TURNS: dict[object, Callable[[Tensor], Tensor]] = {
    2: lambda image: image.flip(2),
    3: lambda image: image.flip(1, 2),
    4: lambda image: image.flip(1),
    5: lambda image: image.transpose(1, 2),
    6: lambda image: image.transpose(1, 2).flip(2),
    7: lambda image: image.transpose(1, 2).flip(1, 2),
    8: lambda image: image.transpose(1, 2).flip(1),
}
"""How an image (C, H, W) is turned upright, by its orientation in EXIF; 1 is upright."""


def decode(encoded: bytes, *, exif_rotate: bool = False) -> Tensor:
    """Decode an image file of any format that PIL reads to RGB: (3, H, W) uint8.

    Args:
        encoded: the file's bytes.
        exif_rotate: turn the image as its EXIF says. The original's training did not, so a photo
            that a phone stored lying on its side stays so.

    Raises:
        Exception: one of `sample.UNREADABLE`; PIL cannot read the image.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = _jpeg_pixels(image, encoded)
        if pixels is None:
            pixels = picture_pixels(image)
        turn = TURNS.get(_orientation(image)) if exif_rotate else None
        return turn(pixels) if turn else pixels


def is_turned(encoded: bytes) -> bool:
    """Return whether a readable image file has an orientation in EXIF that is not upright."""
    with Image.open(io.BytesIO(encoded)) as image:
        return _orientation(image) in TURNS


def _orientation(image: Image.Image) -> object:
    # PIL turns TIFF and HEIC itself. It would decode a PNG to look for EXIF after the pixels.
    if "exif" in image.info:
        with suppress(*UNREADABLE):  # damaged EXIF is no damaged image
            return image.getexif().get(ExifTags.Base.Orientation)
    return None


def _jpeg_pixels(image: Image.Image, encoded: bytes) -> Tensor | None:
    """Decode a JPEG to PIL's pixels without its two copies; None if PIL has to do it."""
    if image.format == "JPEG" and image.mode == "RGB":
        with suppress(ValueError):  # it refuses damaged files, of which PIL reads some
            return torch.from_numpy(simplejpeg.decode_jpeg(encoded, "RGB")).permute(2, 0, 1)
    return None


def picture_pixels(image: Image.Image) -> Tensor:
    """Convert a PIL image to RGB: (3, H, W) uint8. What is transparent becomes white.

    Raises:
        ValueError: the pixels are floats or 32-bit integers, of which no range is known.
    """
    # PIL opens grey PPM, and with older versions PNG, of 16 bits as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # PIL clips 16-bit grey to 255, which is white; of 16-bit RGB it takes the high byte.
        grey = torch.from_numpy((np.array(image) >> 8).astype(np.uint8))
        return grey.expand(3, -1, -1)
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its pixels are {kind}, whose range is unknown: save it with 8 bits")
    if image.has_transparency_data:
        # As img2dataset does. Below the transparency, most programs store black.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
