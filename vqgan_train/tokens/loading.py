"""From places to batches of pixels, by loader processes."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqgan_train.data.pipeline import UNREADABLE, reason
from vqgan_train.data.shards import ShardError
from vqgan_train.data.transforms import ImageTransform
from vqgan_train.tokens.places import Place
from vqgan_train.tokens.sources import Part


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


class _Reader(Dataset[Batch]):
    """Reads what it is asked for; nothing but requests passes to a loader process."""

    def __init__(self, transform: ImageTransform) -> None:
        self.transform = transform

    def __getitem__(self, request: _Request) -> Batch:
        read = [self._read(place) for place in request.places]
        good = [sample for sample in read if not isinstance(sample, str)]
        return Batch(
            request.part,
            [labels for labels, _ in good],
            torch.stack([pixels for _, pixels in good]) if good else _no_pixels(),
            [sample for sample in read if isinstance(sample, str)],
            request.is_last,
        )

    def _read(self, place: Place) -> tuple[Labels, Tensor] | str:
        name = place.name
        try:
            encoded = place.read()
            name = encoded.name
            pixels = self.transform.pixels(encoded.image, _NEVER_DRAWN)
        except ShardError:  # a ValueError, but the whole shard's
            raise
        except UNREADABLE as error:
            return f"{name}: {reason(error)}"
        return Labels(encoded.key, encoded.caption, encoded.source), pixels


_NEVER_DRAWN = np.random.default_rng(0)
"""The transform draws nothing: its crop is in the centre and it does not mirror."""


def load_batches(
    parts: Iterable[Part], *, resize: int, image_size: int, batch_size: int, num_workers: int
) -> DataLoader[Batch]:
    """Read parts in their order, each in batches of its own, so that a part depends on no other.

    Args:
        parts: drawn a little ahead of what is read.
        resize: length of the shorter side, in pixels.
        image_size: side of the crop in the centre, in pixels.
        batch_size: samples a batch; the last one of a part may have fewer.
        num_workers: loader processes; 0 reads in this one.
    """
    transform = ImageTransform(resize, image_size, random_crop=False, random_flip=False)
    return DataLoader(
        _Reader(transform),
        sampler=_Requests(parts, batch_size),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class _Requests:
    """What loader processes are asked, in order."""

    def __init__(self, parts: Iterable[Part], batch_size: int) -> None:
        self.parts = parts
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[_Request]:
        for name, places in self.parts:
            for first in range(0, len(places), self.batch_size):
                end = first + self.batch_size
                yield _Request(name, places[first:end], is_last=end >= len(places))


def _as_it_is(batch: Any) -> Any:
    return batch


def _no_pixels() -> Tensor:
    return torch.empty(0, 3, 1, 1, dtype=torch.uint8)
