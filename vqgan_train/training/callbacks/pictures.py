"""Picture grids of the first validation images, drawn at every validation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from vqgan_train.images.transforms import to_uint8

MIN_SIDE_PX = 128
"""Images with a smaller side are enlarged by a whole factor to about this side."""
GAP = 4
LABEL_HEIGHT = 18
DIFFERENCE_GAIN = 2


class Pictures(Callback):
    """Draws input, reconstruction and difference of the first validation images.

    Args:
        folder: receives the files `step_<step>.png`.
        count: number of images in a grid, at most.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self._images: Tensor | None = None

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, save and log the grid on the first rank; any world size shows the same images."""
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
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "val/pictures", np.asarray(grid), trainer.global_step, dataformats="HWC"
                )


def draw_grid(images: Tensor, reconstructions: Tensor) -> Image.Image:
    """Draw three labelled rows: images, reconstructions, absolute difference.

    Args:
        images: (B, 3, H, W) float in [-1, 1].
        reconstructions: the same shape; values outside [-1, 1] are clipped.
    """
    difference = (images - reconstructions.clamp(-1, 1)).abs() * DIFFERENCE_GAIN - 1
    rows = {
        "input": images,
        "reconstruction": reconstructions,
        f"absolute difference x{DIFFERENCE_GAIN}": difference,
    }
    enlargement = max(1, round(MIN_SIDE_PX / min(images.shape[2:])))
    height, width = (side * enlargement for side in images.shape[2:])
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
