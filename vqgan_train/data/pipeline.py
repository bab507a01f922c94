"""Reading what the plan says: byte ranges of shards, grouped by WebDataset, batched by torch."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vqgan_train.data.fingerprint import fingerprint
from vqgan_train.data.index import ShardIndex
from vqgan_train.data.listing import IMAGE_FIELDS
from vqgan_train.data.plan import Draw, Order
from vqgan_train.data.reading import read_sample
from vqgan_train.data.remote import RemoteShard
from vqgan_train.data.shards import ShardError
from vqgan_train.data.transforms import ImageTransform

UNREADABLE = (
    OSError, ValueError, SyntaxError, ArithmeticError, EOFError, LookupError, TypeError,
    AssertionError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What PIL raises on files that are not what they say."""


class Sample(NamedTuple):
    """One image and its name; no image if it could not be read."""

    name: str
    """shard.tar/key, and the reason if it is unreadable."""

    image: Tensor | None
    """(3, H, W) float32 in [-1, 1]."""


class ShardDataset(Dataset[Sample]):
    """Random access to the samples of many shards.

    Args:
        shards: indices of those that are here, and those that are fetched when they are read.
        transform: from bytes to tensor.
        seed: seeds the transform, together with epoch and sample.
    """

    def __init__(
        self, shards: Sequence[ShardIndex | RemoteShard], transform: ImageTransform, seed: int
    ) -> None:
        self.shards = list(shards)
        self.transform = transform
        self.seed = seed
        self.fingerprint = fingerprint(self.shards)
        """Of the shards' names, sizes and samples, in order, wherever they lie."""
        self._firsts = np.cumsum([0, *(shard.num_samples for shard in shards)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, draw: Draw) -> Sample:
        number = int(self.shard_numbers(np.array(draw.sample)))
        shard, place = self.shards[number], draw.sample - int(self._firsts[number])
        try:
            fields = _read(shard, place)
        except (ShardError, OSError) as error:  # it is dead, has gone, or is another one by now
            return Sample(f"{shard.name}/sample {place}: {error}", None)
        name = f"{shard.name}/{fields['__key__']}"
        random = np.random.default_rng((self.seed, *draw))
        try:
            return Sample(name, self.transform(image_bytes(fields), random))
        except UNREADABLE as error:
            return Sample(f"{name}: {reason(error)}", None)

    def probes(self, count: int) -> range:
        """The first samples of the first shard that can be had, of as many as there are samples."""
        for shard, first in zip(self.shards[:count], self._firsts.tolist(), strict=False):
            if isinstance(shard, ShardIndex) or shard.is_available():
                return range(first, min(first + count, len(self)))
        return range(min(count, len(self)))

    def shard_numbers(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """In which shards samples are, by their numbers."""
        return np.searchsorted(self._firsts, samples, side="right") - 1


def _read(shard: ShardIndex | RemoteShard, place: int) -> dict[str, Any]:
    return read_sample(shard, place) if isinstance(shard, ShardIndex) else shard.read(place)


def reason(error: Exception) -> str:
    """Say in a few words why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that PIL knows"
    return str(error) or type(error).__name__


def image_bytes(fields: Mapping[str, Any]) -> bytes:
    """The first image of a sample, encoded: the one that a model is trained on.

    Raises:
        LookupError: it has none.
    """
    for key, value in fields.items():
        if key in IMAGE_FIELDS:
            return value
    raise LookupError("no image in it any more: the shard has changed since it was indexed")


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack a batch: `image` (B, 3, H, W), `name` of each, and `bad`, the names that had no image.

    B counts the samples that could be read, so it can be smaller than asked for, and even 0.
    """
    good = [(sample.name, sample.image) for sample in samples if sample.image is not None]
    bad = [sample.name for sample in samples if sample.image is None]
    images = torch.stack([image for _, image in good]) if good else torch.empty(0, 3, 1, 1)
    return {"image": images, "name": [name for name, _ in good], "bad": bad}


class PlannedBatches(Sampler[list[Draw]]):
    """A rank's batches of training, from a position of the plan to the end of the run.

    Args:
        plan: the order of samples.
        position: samples that all ranks together have drawn before.
        num_batches: batches from there to the end.
        batch_size: samples a rank and batch.
        rank: this one.
        world_size: how many ranks there are.
    """

    def __init__(
        self,
        plan: Order,
        *,
        position: int,
        num_batches: int,
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.plan = plan
        self.position = position
        self.num_batches = num_batches
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.position + self.rank * self.batch_size
        stride = self.batch_size * self.world_size
        for batch in range(self.num_batches):
            yield self.plan.draws(first + batch * stride, self.batch_size)
