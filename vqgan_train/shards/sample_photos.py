"""Pack the sample photos of scikit-image into shards, so that a first run needs no data."""

import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vqgan_train.shards.writing import write_shard
from vqgan_train.system.files import cache_folder, cache_lock

TILE = 256
"""Side of every packed image, in pixels."""

VALIDATION = {
    "astronaut": (
        (0, 0, 512, 512), (96, 0, 352, 256), (0, 100, 400, 500), (150, 0, 300, 150),
    ),
    "chelsea": (
        (75, 0, 375, 300), (100, 20, 300, 220), (60, 60, 300, 300), (210, 60, 450, 300),
    ),
}  # fmt: skip
"""Crops (left, top, right, bottom) of photos of a person and a cat that training never sees."""

TRAINING = {
    "coffee": (256, 400), "rocket": (256, 427), "motorcycle_left": (256, 500),
    "motorcycle_right": (256, 500), "retina": (256, 640), "ihc": (256, 512), "camera": (256, 512),
    "coins": (303,), "hubble_deep_field": (256,), "moon": (256,), "brick": (256,), "grass": (256,),
    "gravel": (256,),
}  # fmt: skip
"""Shorter sides, in pixels, to which each photo is scaled before it is cut into tiles."""


def pack_sample_photos() -> tuple[Path, Path]:
    """Return the paths of train.tar and val.tar in the cache; write them first if missing."""
    recipe = repr((TILE, VALIDATION, TRAINING)).encode()  # a changed recipe gets new shards
    folder = cache_folder("sample_photos") / hashlib.sha256(recipe).hexdigest()[:8]
    shards = folder / "train.tar", folder / "val.tar"
    with cache_lock("sample_photos"):
        for shard, pictures in zip(shards, (_training_tiles(), _validation_views()), strict=True):
            if not shard.exists():
                write_shard(shard, (_sample(key, picture) for key, picture in pictures))
    return shards


def sample_views() -> list[Image.Image]:
    """Return the images of val.tar before JPEG compression: RGB, `TILE` pixels per side."""
    return [view for _, view in _validation_views()]


def _sample(key: str, picture: Image.Image) -> dict[str, str | bytes]:
    encoded = io.BytesIO()
    picture.save(encoded, format="JPEG", quality=95)
    return {"__key__": key, "jpg": encoded.getvalue(), "txt": key.replace("_", " ")}


def _validation_views() -> Iterator[tuple[str, Image.Image]]:
    for name, boxes in VALIDATION.items():
        for number, box in enumerate(boxes):
            view = _photo(name).crop(box)
            yield f"{name}_{number}", view.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _training_tiles() -> Iterator[tuple[str, Image.Image]]:
    for name, shorter_sides in TRAINING.items():
        for shorter_side in shorter_sides:
            photo = _photo(name)
            scale = shorter_side / min(photo.size)
            width, height = (round(side * scale) for side in photo.size)
            photo = photo.resize((width, height), Image.Resampling.LANCZOS)
            for top in _tile_starts(height):
                for left in _tile_starts(width):
                    tile = photo.crop((left, top, left + TILE, top + TILE))
                    yield f"{name}_{shorter_side}_{top}_{left}", tile


def _tile_starts(side: int) -> list[int]:
    """Return where tiles start, spread evenly along a side: neighbours share a third or more."""
    count = math.ceil(side / TILE * 1.5) if side > TILE else 1
    return [round(number * (side - TILE) / max(count - 1, 1)) for number in range(count)]


def _photo(name: str) -> Image.Image:
    import skimage  # takes 1 s, and only the sample photos need it

    folder = Path(skimage.__file__).parent / "data"
    (path,) = [path for path in folder.iterdir() if path.stem == name]
    with Image.open(path) as image:
        return image.convert("RGB")
