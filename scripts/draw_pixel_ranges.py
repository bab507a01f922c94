"""Draw what the two pixel ranges make of photos.

    python scripts/draw_pixel_ranges.py CHECKPOINT OUTPUT.png

Photos that scikit-image ships; below each what the tokenizer makes of it, first in [-1, 1], in
which it was trained, then in [0, 1]; last tokens of one range decoded as if they were the other's.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from vqgan_train import VQGAN
from vqgan_train.images.pixels import to_model_input, to_pil
from vqgan_train.shards.sample_photos import sample_views

GAP, LABEL_HEIGHT = 4, 18
ENLARGEMENT = 2


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--image-size", type=int, default=64)
    given = parser.parse_args()
    model = VQGAN.from_checkpoint(given.checkpoint)
    draw(rows(model, given.image_size)).save(given.output)


@torch.no_grad()
def rows(model: VQGAN, image_size: int) -> dict[str, list[Image.Image]]:
    """Pictures under what they are."""
    views = sample_views()[::2]
    signed, unit = (
        to_model_input(views, pixel_range=pixel_range, image_size=image_size)
        for pixel_range in ("signed", "unit")
    )
    of_signed, of_unit = model.reconstruct(signed), model.reconstruct(unit)
    equal = float((model.encode(signed) == model.encode(unit)).float().mean())
    return {
        "photo": to_pil(signed, pixel_range="signed"),
        "signed": to_pil(of_signed, pixel_range="signed"),
        f"unit: {equal:.0%} of its tokens are those of signed": to_pil(of_unit, pixel_range="unit"),
        "mixed up: encoded as unit, decoded as signed": to_pil(of_unit, pixel_range="signed"),
    }


def draw(pictures: dict[str, list[Image.Image]]) -> Image.Image:
    """Rows under their labels."""
    first = next(iter(pictures.values()))
    width, height = (side * ENLARGEMENT for side in first[0].size)
    size = (len(first) * (width + GAP) + GAP, len(pictures) * (height + LABEL_HEIGHT) + GAP)
    grid = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(grid)
    for number, (label, row) in enumerate(pictures.items()):
        top = number * (height + LABEL_HEIGHT)
        canvas.text((GAP, top + GAP), label, fill="black")
        for column, picture in enumerate(row):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            grid.paste(enlarged, (GAP + column * (width + GAP), top + LABEL_HEIGHT))
    return grid


if __name__ == "__main__":
    main()
