"""Picture grids of the same validation images at every validation: progress one can see."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from vqgan_train.images.transforms import to_uint8

SMALLEST_SIDE = 128
"""Smaller images are enlarged to about this many pixels."""
GAP = 4
LABEL_HEIGHT = 18
DIFFERENCE_GAIN = 2


class Pictures(Callback):
    """Draws input, reconstruction and difference of the first validation images.

    Args:
        folder: where `step_<step>.png` go.
        count: images in a grid.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self._images: Tensor | None = None

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, on the first rank only; the images do not depend on how many there are."""
        if not trainer.is_global_zero:
            return
        if self._images is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
            self._images = data.first_val_images(self.count)
        images = self._images.to(pl_module.device)
        with trainer.precision_plugin.val_step_context():
            reconstructions = pl_module(images)
        grid = draw_grid(self._images, reconstructions.float().cpu())
        self.folder.mkdir(parents=True, exist_ok=True)
        grid.save(self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [grid], step=trainer.global_step)


def draw_grid(images: Tensor, reconstructions: Tensor) -> Image.Image:
    """Draw three labelled rows: images (B, 3, H, W) in [-1, 1], reconstructions, difference."""
    difference = (images - reconstructions.clamp(-1, 1)).abs() * DIFFERENCE_GAIN - 1
    rows = {
        "input": images,
        "reconstruction": reconstructions,
        f"absolute difference x{DIFFERENCE_GAIN}": difference,
    }
    height, width = (side * _enlargement(images) for side in images.shape[2:])
    row_height = LABEL_HEIGHT + height
    grid = Image.new(
        "RGB", (len(images) * (width + GAP) + GAP, len(rows) * row_height + GAP), "white"
    )
    canvas = ImageDraw.Draw(grid)
    for row, (label, pictures) in enumerate(rows.items()):
        canvas.text((GAP, row * row_height + GAP), label, fill="black")
        for column, picture in enumerate(pictures):
            pixels = Image.fromarray(to_uint8(picture).permute(1, 2, 0).contiguous().numpy())
            enlarged = pixels.resize((width, height), Image.Resampling.NEAREST)
            grid.paste(enlarged, (GAP + column * (width + GAP), row * row_height + LABEL_HEIGHT))
    return grid


def _enlargement(images: Tensor) -> int:
    return max(1, round(SMALLEST_SIDE / min(images.shape[2:])))
