"""Batches of pixels for the encoder, read in loader processes."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from torch import Tensor

from vqgan_train.images.loading import read_image, stack_pixels
from vqgan_train.images.locations import ImageLocation
from vqgan_train.images.sources import Chunk
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.system.workers import run_tasks
from vqgan_train.tokens.formats import Labels


class EncodeBatch(NamedTuple):
    """Some samples of one chunk."""

    chunk: str
    """Name of the chunk."""

    labels: list[Labels]
    """Labels of the B readable images, in the order of `pixels`."""

    pixels: Tensor
    """(B, 3, H, W) uint8; B may be 0."""

    bad: list[str]
    """Name of each unreadable image, with the reason."""

    is_last: bool
    """True for the last batch of the chunk."""


class _Request(NamedTuple):
    chunk: str
    locations: list[ImageLocation]
    is_last: bool


def load_batches(
    chunks: Iterable[Chunk], transform: ImageTransform, *, batch_size: int, num_workers: int
) -> Iterator[EncodeBatch]:
    """Yield the batches of chunks in order; no batch has samples of two chunks.

    Rounding makes tokens depend on their batch, and thus only on images of their own chunk.

    Args:
        chunks: the samples; drawn a little ahead of the batch that is yielded.
        transform: converts encoded images to pixels, without random draws.
        batch_size: samples per batch; the last batch of a chunk may have fewer.
        num_workers: number of loader processes; 0 reads in this process.

    Raises:
        ShardError: a shard has changed since it was indexed, or it cannot be downloaded.
        UserError: the system cannot read a file, or the source has changed.
    """
    requests = _requests(chunks, batch_size)
    return run_tasks(partial(_read, transform), requests, num_workers=num_workers)


def _requests(chunks: Iterable[Chunk], batch_size: int) -> Iterator[_Request]:
    for name, locations in chunks:
        for first in range(0, len(locations), batch_size):
            end = first + batch_size
            yield _Request(name, locations[first:end], is_last=end >= len(locations))


def _read(transform: ImageTransform, request: _Request) -> EncodeBatch:
    results = [read_image(location, transform.pixels) for location in request.locations]
    good = [result for result in results if not isinstance(result, str)]
    return EncodeBatch(
        request.chunk,
        [Labels(encoded.key, encoded.caption, encoded.source) for encoded, _ in good],
        stack_pixels([pixels for _, pixels in good]),
        [result for result in results if isinstance(result, str)],
        request.is_last,
    )
