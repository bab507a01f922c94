"""From places to batches of pixels, by loader processes."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqgan_train.data.pipeline import UNREADABLE, reason
from vqgan_train.data.shards import ShardError
from vqgan_train.tokens.cutting import Cut, Size, height_and_width
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.patience import read_patiently
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


class _Reader(Dataset[Batch | ShardError | TokenError]):
    """Reads what it is asked for; nothing but requests passes to a loader process.

    An error that is not an image's is returned, not raised: torch would wrap it in its traceback,
    and then wait for its processes in vain.
    """

    def __init__(self, cut: Cut) -> None:
        self.cut = cut

    def __getitem__(self, request: _Request) -> Batch | ShardError | TokenError:
        try:
            read = [self._read(place) for place in request.places]
        except (ShardError, TokenError) as error:
            return error
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
            encoded = read_patiently(place)
            name = encoded.name
            pixels = self.cut.pixels(encoded.image)
        except (ShardError, TokenError):  # ValueErrors, but not the image's
            raise
        except UNREADABLE as error:
            return f"{name}: {reason(error)}"
        return Labels(encoded.key, encoded.caption, encoded.source), pixels


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
    loader: DataLoader[Batch | ShardError | TokenError] = DataLoader(
        _Reader(cut),
        sampler=_Requests(parts, batch_size),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=_leave_ctrl_c_to_the_command,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


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


def _leave_ctrl_c_to_the_command(_worker: int) -> None:
    """A terminal sends it to all processes, of which one is to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch


def _no_pixels() -> Tensor:
    return torch.empty(0, 3, 1, 1, dtype=torch.uint8)
