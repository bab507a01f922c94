"""From places to batches of pixels, by loader processes."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vqgan_train.images.loading import read_ahead, read_image, stacked
from vqgan_train.images.locations import Place
from vqgan_train.images.sources import Part
from vqgan_train.images.transforms import Cut, Size, height_and_width


class Labels(NamedTuple):
    """What is kept of a sample besides its tokens."""

    key: str
    caption: str
    source: str


class Batch(NamedTuple):
    """Some samples of one part."""

    part: str
    labels: list[Labels]
    """Of those that could be read."""

    pixels: Tensor
    """(B, 3, H, W) uint8, B as many as there are labels, perhaps 0."""

    bad: list[str]
    """What could not be read, and why."""

    is_last: bool
    """Whether the part ends with it."""


class _Request(NamedTuple):
    part: str
    places: list[Place]
    is_last: bool


def load_batches(
    parts: Iterable[Part],
    *,
    resize: Size,
    image_size: Size,
    batch_size: int,
    num_workers: int,
    interpolation: str = "bilinear",
) -> Iterator[Batch]:
    """Read parts in their order, each in batches of its own, so that a part depends on no other.

    Args:
        parts: drawn a little ahead of what is read.
        resize: what the scaled image just covers: of a square, the length of its shorter side.
        image_size: what is cut out of the centre, no larger.
        batch_size: samples a batch; the last one of a part may have fewer.
        num_workers: loader processes; 0 reads in this one.
        interpolation: of the scaling; as training's, unless said otherwise.

    Raises:
        ShardError: a shard has changed since it was indexed, or cannot be had.
        TokenError: a file cannot be read, or the source has changed.
    """
    cut = Cut(height_and_width(resize), height_and_width(image_size), interpolation)
    requests = _requests(parts, batch_size)
    return read_ahead(requests, partial(_read, cut), num_workers=num_workers)


def _requests(parts: Iterable[Part], batch_size: int) -> Iterator[_Request]:
    for name, places in parts:
        for first in range(0, len(places), batch_size):
            end = first + batch_size
            yield _Request(name, places[first:end], is_last=end >= len(places))


def _read(cut: Cut, request: _Request) -> Batch:
    read = [read_image(place, cut.pixels) for place in request.places]
    good = [sample for sample in read if not isinstance(sample, str)]
    return Batch(
        request.part,
        [Labels(encoded.key, encoded.caption, encoded.source) for encoded, _ in good],
        stacked([pixels for _, pixels in good]),
        [sample for sample in read if isinstance(sample, str)],
        request.is_last,
    )


class Row(NamedTuple):
    """One image."""

    labels: Labels
    tokens: NDArray[np.int32]
    """(N,), row by row of the grid."""
