"""Read samples of shards in the planned order, and collate them into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vqgan_train.images.loading import stack_pixels
from vqgan_train.images.sample import UNREADABLE, image_bytes, reason
from vqgan_train.images.transforms import ImageTransform, Size, height_and_width
from vqgan_train.shards.remote.opening import Shard, fingerprint
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import SampleOrder, SampleRef


class Sample(NamedTuple):
    """Image with its name; the image is None if it could not be read."""

    name: str
    """shard.tar/key (if unknown, shard.tar/sample N); if the image is None, the reason follows."""

    image: Tensor | None
    """(3, H, W) uint8."""


class ShardDataset(Dataset[Sample]):
    """Random access to the samples of many shards.

    Args:
        shards: indices of local shards, and remote shards.
        transform: converts encoded images to pixels.
        seed: seeds the transform of each sample, together with its epoch and number.
        image_field: field of each sample's image, see `image_bytes`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        transform: ImageTransform,
        seed: int,
        image_field: str | None = None,
    ) -> None:
        self.shards = list(shards)
        self.transform = transform
        self.seed = seed
        self.image_field = image_field
        self.fingerprint = fingerprint(self.shards)
        self._firsts = np.cumsum([0, *(shard.num_samples for shard in shards)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, ref: SampleRef) -> Sample:
        shard_number = int(self.shard_numbers(np.array(ref.sample)))
        shard, number = self.shards[shard_number], ref.sample - int(self._firsts[shard_number])
        try:
            fields = shard.read(number)
        except (ShardError, OSError) as error:  # the shard is dead, was removed or has changed
            return Sample(f"{shard.name}/sample {number}: {error}", None)
        name = f"{shard.name}/{fields['__key__']}"
        random = np.random.default_rng((self.seed, *ref))
        try:
            pixels = self.transform.pixels(image_bytes(fields, self.image_field), random)
            return Sample(name, pixels)
        except UNREADABLE as error:
            return Sample(f"{name}: {reason(error)}", None)

    def samples_to_check(self, count: int) -> list[int]:
        """List the numbers of `count` samples, and of the first samples of `count` shards."""
        # Few shards, because each may have to be downloaded.
        numbers = (*range(count), *self._firsts[:count].tolist())
        return [number for number in dict.fromkeys(numbers) if number < len(self)]

    def shard_numbers(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each sample's shard."""
        return np.searchsorted(self._firsts, samples, side="right") - 1


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack the readable samples of a batch.

    Returns:
        `image` (B, 3, H, W) uint8, the B names as `name`, and the unreadable samples' names, with
        reasons, as `bad`. B may be smaller than the batch size, even 0.
    """
    good = [(sample.name, sample.image) for sample in samples if sample.image is not None]
    bad = [sample.name for sample in samples if sample.image is None]
    images = stack_pixels([image for _, image in good]).contiguous()
    return {"image": images, "name": [name for name, _ in good], "bad": bad}


def collate_whole(samples: Sequence[Sample], image_size: Size) -> dict[str, Any]:
    """Stack a batch as `collate` does, and repeat readable images in place of unreadable ones.

    Each image is repeated equally often, or once more than another.

    Returns:
        What `collate` returns, but `image` has as many images as there are samples. Without a
        readable one, `name` is empty, and `image` is black, of `image_size`.
    """
    batch = collate(samples)
    if batch["bad"]:
        blank = torch.zeros(1, 3, *height_and_width(image_size), dtype=torch.uint8)
        images = batch["image"] if batch["name"] else blank
        batch["image"] = images[torch.arange(len(samples)) % len(images)]
    return batch


@dataclass(frozen=True)
class PlannedBatches(Sampler[list[SampleRef]]):
    """A rank's training batches from a position of the order to the end of the run."""

    order: SampleOrder
    _: KW_ONLY
    position: int
    """Position in the order at which the first global batch begins."""

    num_batches: int
    """Batches of this rank until the end of the run."""

    batch_size: int
    """Samples per rank and batch."""

    rank: int
    world_size: int

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for position in self.positions():
            yield self.order.sample_refs(position, self.batch_size)

    def positions(self) -> range:
        """Return the first position of each of this rank's batches."""
        stride = self.batch_size * self.world_size
        first = self.position + self.rank * self.batch_size
        return range(first, first + self.num_batches * stride, stride)

    def positions_in(self, window: range) -> NDArray[np.int64]:
        """Return those positions of a window that this rank reads."""
        positions = np.arange(window.start, window.stop)
        offsets = positions - self.position
        mine = (offsets >= 0) & (offsets // self.batch_size % self.world_size == self.rank)
        return positions[mine]
