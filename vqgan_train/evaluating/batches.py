"""From places to batches of pixels and what is to be known of each image, by loader processes."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqgan_train.data.transforms import ImageTransform
from vqgan_train.evaluation.faces import FaceFinder
from vqgan_train.evaluation.slices import SliceRule, belongs, columns_of
from vqgan_train.tokens.places import Encoded, Place
from vqgan_train.tokens.reading import read_ahead, read_image, stacked


class Row(NamedTuple):
    """One image, besides its pixels."""

    number: int
    """Its place among all, unreadable ones included."""

    key: str
    caption: str
    source: str
    width: int
    height: int
    """Before scaling and cropping."""

    slices: tuple[bool | None, ...]
    """Whether it belongs to each slice; None: it has no such column."""

    boxes: NDArray[np.int64]
    """(F, 4) of faces in the crop; none where they were not looked for."""


class Batch(NamedTuple):
    """Images that could be read, and the others by name."""

    rows: list[Row]
    pixels: Tensor
    """(B, 3, H, W) uint8, perhaps B = 0."""

    bad: list[tuple[int, str]]
    """Number, name and reason."""


class ReadingRules(NamedTuple):
    """What becomes of an image before a model sees it, and what is looked for in it."""

    transform: ImageTransform
    slices: Mapping[str, SliceRule]
    faces: FaceFinder | None


Request = Sequence[tuple[int, Place]]
"""Places and their numbers."""


_NEVER_DRAWN = np.random.default_rng(0)
"""The transform draws nothing: its crop is in the centre and it does not mirror."""

NO_BOXES = np.zeros((0, 4), dtype=np.int64)


def load_batches(
    requests: Iterable[Request], rules: ReadingRules, *, num_workers: int
) -> Iterator[Batch]:
    """Read requests in their order, each into a batch; as `read_ahead`.

    Args:
        requests: drawn a little ahead of what is read.
        rules: how.
        num_workers: loader processes; 0 reads in this one.
    """
    return read_ahead(requests, partial(_read, rules), num_workers=num_workers)


def _read(rules: ReadingRules, request: Request) -> Batch:
    rows, stack, bad = [], [], []
    for number, place in request:
        read = read_image(place, partial(_decode, rules.transform))
        if isinstance(read, str):
            bad.append((number, read))
        else:
            encoded, (pixels, size) = read
            rows.append(_row(rules, number, encoded, pixels, size))
            stack.append(pixels)
    return Batch(rows, stacked(stack), bad)


def _decode(transform: ImageTransform, image: bytes) -> tuple[Tensor, tuple[int, int]]:
    """Pixels (3, H, W) uint8 as a model will see them; width and height before."""
    pixels = transform.pixels(image, _NEVER_DRAWN)
    with Image.open(io.BytesIO(image)) as opened:
        return pixels, opened.size


def _row(
    rules: ReadingRules, number: int, encoded: Encoded, pixels: Tensor, size: tuple[int, int]
) -> Row:
    columns = columns_of(encoded.caption, encoded.key, encoded.source, encoded.metadata)
    width, height = size
    return Row(
        number=number,
        key=encoded.key,
        caption=encoded.caption,
        source=encoded.source,
        width=width,
        height=height,
        slices=tuple(belongs(rule, columns) for rule in rules.slices.values()),
        boxes=rules.faces(pixels) if rules.faces else NO_BOXES,
    )
