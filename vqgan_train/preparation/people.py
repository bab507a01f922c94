"""Which pictures show people: by the words of the caption, or by a face detector."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqgan_train.preparation.errors import PreparationError

LONGER_SIDE = 500
"""Pixels to which an image is scaled before faces are looked for."""

UPSAMPLING = 1
"""Doublings for the detector, whose faces have 80 pixels: so they are found from 40 pixels on."""


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """What finds one of the words, whole and in any case. No words: nothing is found."""
    alternatives = "|".join(re.escape(word) for word in words)
    return re.compile(rf"\b(?:{alternatives})\b" if words else r"(?!)", re.IGNORECASE)


def require_face_detector() -> None:
    """Refuse to look for faces where there is no detector.

    Raises:
        PreparationError: dlib is not installed.
    """
    if importlib.util.find_spec("dlib") is None:
        raise PreparationError(
            "people.detect_faces needs dlib, which is not installed: "
            "pip install 'vqgan_train[faces]'. Or set people.detect_faces=false."
        )


def face_counter() -> Callable[[NDArray[np.uint8]], int]:
    """Make what counts the frontal faces in an image (H, W, 3) uint8."""
    import dlib

    detector: Any = dlib.get_frontal_face_detector()

    def count(image: NDArray[np.uint8]) -> int:
        return len(detector(_reduced(image), UPSAMPLING))

    return count


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
