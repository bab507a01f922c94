"""The picture grid, pixel by pixel."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import tiny_images
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor

from vqgan_train.training.callbacks.pictures import GAP, LABEL_HEIGHT, Pictures, draw_grid


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    return ((image.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)


def tiles(images: Tensor, reconstructions: Tensor, scale: int) -> NDArray[np.uint8]:
    """Cut the pictures out of the grid and scale them down: (3, B, H, W, 3) uint8."""
    grid = np.array(draw_grid(images, reconstructions))
    count, _, height, width = images.shape
    rows = []
    for row in range(3):
        top = row * (LABEL_HEIGHT + scale * height) + LABEL_HEIGHT
        lefts = [GAP + column * (scale * width + GAP) for column in range(count)]
        shown = [grid[top : top + scale * height, left : left + scale * width] for left in lefts]
        for tile in shown:
            small = tile[::scale, ::scale]
            np.testing.assert_array_equal(tile, small.repeat(scale, 0).repeat(scale, 1))
        rows.append([tile[::scale, ::scale] for tile in shown])
    return np.array(rows)


@pytest.mark.parametrize(("height", "width", "scale"), [(16, 16, 8), (16, 24, 8), (128, 160, 1)])
def test_rows_are_input_reconstruction_and_difference(height: int, width: int, scale: int) -> None:
    images = tiny_images(2, height, width, seed=0)
    reconstructions = tiny_images(2, height, width, seed=1)
    shown = tiles(images, reconstructions, scale)
    for column in range(2):
        np.testing.assert_array_equal(shown[0, column], to_pixels(images[column]))
        np.testing.assert_array_equal(shown[1, column], to_pixels(reconstructions[column]))
        difference = (images[column] - reconstructions[column]).abs() * 2 - 1
        np.testing.assert_array_equal(shown[2, column], to_pixels(difference.clamp(-1, 1)))


def test_equal_images_differ_by_black_and_clipping_is_no_difference() -> None:
    white = torch.ones(1, 3, 128, 128)
    shown = tiles(white, white * 3, 1)
    assert (shown[1] == 255).all()
    assert (shown[2] == 0).all()


def test_rows_have_labels() -> None:
    images = tiny_images(1, 128, 128)
    grid = np.array(draw_grid(images, images))
    for row in range(3):
        top = row * (LABEL_HEIGHT + 128)
        assert (grid[top : top + LABEL_HEIGHT] < 128).any()


@pytest.mark.parametrize("is_first_rank", [True, False])
def test_the_first_rank_alone_draws(tmp_path: Path, is_first_rank: bool) -> None:
    trainer: Any = SimpleNamespace(
        is_global_zero=is_first_rank,
        global_step=70,
        loggers=[],
        datamodule=SimpleNamespace(first_val_images=lambda count: tiny_images(count, 16, 16)),
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )
    Pictures(tmp_path / "images", 2).on_validation_end(trainer, Mirror())
    drawn = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert drawn == (["images", "images/step_000070.png"] if is_first_rank else [])


class Mirror(LightningModule):
    """Model that returns the images mirrored."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(3)
