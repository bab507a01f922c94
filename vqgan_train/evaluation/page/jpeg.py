"""Compresses the page's pictures as JPEGs in data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

BRIGHTEST_ERROR = 64
"""Smallest error, in grey levels of 255, that an error map shows in full brightness."""

ERROR_QUALITY = 75
"""JPEG quality of error maps; compression errors do not matter in them."""


class Jpeg(NamedTuple):
    """A compressed picture."""

    content: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """Data URI for `src`."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.content).decode()}"


def compress(pixels: Pixels, quality: int) -> Jpeg:
    """Compress pixels (H, W, 3), or grey ones (H, W), without chroma subsampling."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        content, format="JPEG", quality=quality, subsampling=0, optimize=True
    )
    height, width = pixels.shape[:2]
    return Jpeg(content.getvalue(), width, height)


def error_map(original: Pixels, reconstruction: Pixels) -> Jpeg:
    """Draw the absolute difference, averaged over the channels; `BRIGHTEST_ERROR` is white."""
    error = np.abs(original.astype(np.float32) - reconstruction).mean(axis=2)
    shown = np.clip(error * (255 / BRIGHTEST_ERROR), 0, 255).round().astype(np.uint8)
    return compress(shown, ERROR_QUALITY)
