"""Pictures as the page holds them: JPEGs in data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

BRIGHTEST_ERROR = 64
"""Grey levels, of 255, from which an error map is as bright as it gets."""

ERROR_QUALITY = 75
"""Of error maps, whose own errors nobody looks for."""


class Jpeg(NamedTuple):
    """A compressed picture."""

    content: bytes
    width: int
    height: int

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    @property
    def uri(self) -> str:
        """What stands in `src`."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.content).decode()}"


def compress(pixels: Pixels, quality: int) -> Jpeg:
    """Compress (H, W, 3), or (H, W) as grey, with colours as fine as brightness."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        content, format="JPEG", quality=quality, subsampling=0, optimize=True
    )
    height, width = pixels.shape[:2]
    return Jpeg(content.getvalue(), width, height)


def error_map(original: Pixels, reconstruction: Pixels) -> Jpeg:
    """Draw the absolute difference, a mean of the channels, from black to `BRIGHTEST_ERROR`."""
    error = np.abs(original.astype(np.float32) - reconstruction).mean(axis=2)
    shown = np.clip(error * (255 / BRIGHTEST_ERROR), 0, 255).round().astype(np.uint8)
    return compress(shown, ERROR_QUALITY)
