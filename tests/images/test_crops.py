import io

import numpy as np
import pytest
import torch
from factories import image_bytes
from PIL import Image

from vqgan_train.images.transforms import INTERPOLATIONS, ImageTransform

SIDES = ((40, 30), (30, 40), (33, 47), (16, 16), (100, 17))
"""Heights and widths."""


def cut(encoded: bytes, resize: tuple[int, int], size: tuple[int, int], how: str) -> np.ndarray:
    transform = ImageTransform(resize, size, interpolation=how)
    return transform.pixels(encoded).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("sides", SIDES)
def test_a_side_means_a_square(sides: tuple[int, int]) -> None:
    encoded = image_bytes(*sides)
    expected = ImageTransform((20, 20), (16, 16)).pixels(encoded)
    assert torch.equal(ImageTransform(20, 16).pixels(encoded), expected)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("resize", [(16, 16), (20, 20)])
def test_a_lanczos_square_is_pils_to_the_pixel(
    sides: tuple[int, int], resize: tuple[int, int]
) -> None:
    encoded = image_bytes(*sides)
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = resize[0] / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - 16) // 2, (height - 16) // 2
    expected = np.asarray(scaled.crop((left, top, left + 16, top + 16)))
    assert np.array_equal(cut(encoded, resize, (16, 16), "lanczos"), expected)


@pytest.mark.parametrize("how", INTERPOLATIONS)
@pytest.mark.parametrize("sides", SIDES)
def test_a_rectangle_is_covered_as_narrowly_as_can_be(how: str, sides: tuple[int, int]) -> None:
    height, width = sides
    pixels = cut(image_bytes(*sides), (24, 40), (24, 40), how)
    assert pixels.shape == (24, 40, 3)
    # What is scaled just covers: cutting the same from a larger scale gives other pixels.
    if (height, width) != (24, 40):
        assert not np.array_equal(pixels, cut(image_bytes(*sides), (48, 80), (24, 40), how))


def test_where_nothing_is_scaled_the_centre_is_left_as_it_is() -> None:
    encoded = image_bytes(24, 40)
    whole = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    for how in INTERPOLATIONS:
        assert np.array_equal(cut(encoded, (24, 40), (16, 32), how), whole[4:20, 4:36])
