import pytest
import torch

from vqgan_train.images.pixels import PIXEL_RANGES

EVERY_VALUE = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize(("name", "low"), [("signed", -1), ("unit", 0)])
def test_every_pixel_survives_and_the_ends_are_those_of_the_range(name: str, low: float) -> None:
    to_model, to_pixels = PIXEL_RANGES[name]
    values = to_model(EVERY_VALUE)
    assert values.dtype == torch.float32
    assert (values.min(), values.max()) == (low, 1)
    assert torch.equal(to_pixels(values), EVERY_VALUE)
    assert to_pixels(torch.tensor([low - 5.0, 5.0])).tolist() == [0, 255]


def test_the_arithmetic_is_the_originals_and_that_of_dalle_mini() -> None:
    # taming's ImagePaths, and torchvision's ToTensor: to the bit.
    assert torch.equal(PIXEL_RANGES["signed"].to_model(EVERY_VALUE), EVERY_VALUE / 127.5 - 1)
    assert torch.equal(PIXEL_RANGES["unit"].to_model(EVERY_VALUE), EVERY_VALUE / 255)
