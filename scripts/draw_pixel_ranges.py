"""Draw how a model reconstructs photos in the two pixel ranges.

    python scripts/draw_pixel_ranges.py CHECKPOINT OUTPUT.png

The grid has a column per sample photo and four rows: the photo, its reconstruction in [-1, 1] (as
trained), its reconstruction in [0, 1], and tokens of [0, 1] decoded as if they were of [-1, 1].
"""

from pathlib import Path

import torch
from command_line import Parser, count
from PIL import Image, ImageDraw

from vqgan_train import VQGAN
from vqgan_train.images.pixels import to_model_input, to_pil
from vqgan_train.shards.sample_photos import sample_views

GAP, LABEL_HEIGHT = 4, 18
ENLARGEMENT = 2


def main() -> None:
    """Read the command line and draw."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the model")
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument(
        "--image-size", type=count, default=64, metavar="PIXELS",
        help="side of the images (default: 64)",
    )  # fmt: skip
    arguments = parser.parse_args()
    model = VQGAN.from_checkpoint(arguments.checkpoint)
    draw(rows(model, arguments.image_size)).save(arguments.output)


@torch.no_grad()
def rows(model: VQGAN, image_size: int) -> dict[str, list[Image.Image]]:
    """Return the images of each row, by its label."""
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
    """Draw each row below its label."""
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
