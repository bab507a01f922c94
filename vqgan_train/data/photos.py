"""Sample photos: those that scikit-image ships, as shards, so that a first run needs no data."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from webdataset import TarWriter

from vqgan_train.cache import cache_folder

VALIDATION = ("astronaut", "chelsea", "coffee", "rocket")
"""Whole photos that training never sees: a person, a cat, a still life, a scene."""

TRAINING = (
    "brick", "camera", "cell", "clock_motion", "coins", "grass", "gravel", "hubble_deep_field",
    "ihc", "moon", "motorcycle_left", "motorcycle_right", "retina",
)  # fmt: skip
TILE = 256
"""Side of the squares that training photos are cut into, in pixels."""


def pack_sample_photos() -> tuple[Path, Path]:
    """Write train.tar and val.tar into the cache, unless they are there.

    Returns:
        Their paths.
    """
    folder = cache_folder("sample_photos")
    shards = folder / "train.tar", folder / "val.tar"
    folder.mkdir(parents=True, exist_ok=True)
    for shard, pictures in zip(shards, (_training_tiles(), _validation_photos()), strict=True):
        if not shard.exists():
            _write(shard, pictures)
    return shards


def _write(shard: Path, pictures: Iterator[tuple[str, NDArray[np.uint8]]]) -> None:
    # A file of its own for each process: all ranks of a first run may be here at once.
    with (
        tempfile.NamedTemporaryFile(dir=shard.parent, delete=False) as partial,
        TarWriter(partial, mtime=0) as tar,
    ):
        for key, pixels in pictures:
            tar.write(_sample(key, pixels))
    Path(partial.name).replace(shard)


def _sample(key: str, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="JPEG", quality=95)
    return {"__key__": key, "jpg": encoded.getvalue(), "txt": key.replace("_", " ")}


def _validation_photos() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name in VALIDATION:
        yield name, _photo(name)


def _training_tiles() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name in TRAINING:
        photo = _photo(name)
        tops, lefts = (range(0, max(side - TILE, 0) + 1, TILE // 2) for side in photo.shape[:2])
        for top in tops:
            for left in lefts:
                yield f"{name}_{top}_{left}", photo[top : top + TILE, left : left + TILE]


def _photo(name: str) -> NDArray[np.uint8]:
    import skimage  # 1 s to import, and only the sample photos need it

    folder = Path(skimage.__file__).parent / "data"
    (path,) = [path for path in folder.iterdir() if path.stem == name]
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
