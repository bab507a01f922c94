"""From places to batches of pixels and what is to be known of each image, by loader processes."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqgan_train.data.pipeline import UNREADABLE, reason
from vqgan_train.data.shards import ShardError
from vqgan_train.data.transforms import ImageTransform
from vqgan_train.evaluation.faces import FaceFinder
from vqgan_train.evaluation.slices import SliceRule, belongs, columns_of
from vqgan_train.tokens.places import Place


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


class _Reader(Dataset[Batch]):
    """Reads what it is asked for; nothing but requests passes to a loader process."""

    def __init__(self, rules: ReadingRules) -> None:
        self.rules = rules

    def __getitem__(self, request: Request) -> Batch:
        rows, pixels, bad = [], [], []
        for number, place in request:
            read = self._read(number, place)
            if isinstance(read, str):
                bad.append((number, read))
            else:
                rows.append(read[0])
                pixels.append(read[1])
        empty = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        return Batch(rows, torch.stack(pixels) if pixels else empty, bad)

    def _read(self, number: int, place: Place) -> tuple[Row, Tensor] | str:
        name = place.name
        try:
            encoded = place.read()
            name = encoded.name
            pixels = self.rules.transform.pixels(encoded.image, _NEVER_DRAWN)
            with Image.open(io.BytesIO(encoded.image)) as image:
                width, height = image.size
        except ShardError:  # a ValueError, but the whole shard's
            raise
        except UNREADABLE as error:
            return f"{name}: {reason(error)}"
        columns = columns_of(encoded.caption, encoded.key, encoded.source, encoded.metadata)
        row = Row(
            number=number,
            key=encoded.key,
            caption=encoded.caption,
            source=encoded.source,
            width=width,
            height=height,
            slices=tuple(belongs(rule, columns) for rule in self.rules.slices.values()),
            boxes=self.rules.faces(pixels) if self.rules.faces else _NO_BOXES,
        )
        return row, pixels


_NEVER_DRAWN = np.random.default_rng(0)
"""The transform draws nothing: its crop is in the centre and it does not mirror."""

_NO_BOXES = np.zeros((0, 4), dtype=np.int64)


def load_batches(
    requests: Iterable[Request], rules: ReadingRules, *, num_workers: int
) -> DataLoader[Batch]:
    """Read requests in their order, each into a batch.

    Args:
        requests: drawn a little ahead of what is read.
        rules: how.
        num_workers: loader processes; 0 reads in this one.
    """
    return DataLoader(
        _Reader(rules),
        sampler=_Requests(requests),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class _Requests:
    """What loader processes are asked, in order."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def _as_it_is(batch: Any) -> Any:
    return batch
