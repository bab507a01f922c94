"""Reading what the plan says: byte ranges of shards, grouped by WebDataset, batched by torch."""

import io
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.data.fingerprint import fingerprint
from vqgan_train.data.index import ShardIndex
from vqgan_train.data.listing import IMAGE_FIELDS, METADATA
from vqgan_train.data.members import read_plain_files
from vqgan_train.data.plan import Draw, Plan
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
        shards: their indices.
        transform: from bytes to tensor.
        seed: seeds the transform, together with epoch and sample.
    """

    def __init__(self, shards: Sequence[ShardIndex], transform: ImageTransform, seed: int) -> None:
        self.shards = list(shards)
        self.transform = transform
        self.seed = seed
        self.fingerprint = fingerprint(self.shards)
        """Of the shards' names, sizes and samples, in order, wherever they lie."""
        self._firsts = np.cumsum([0, *(len(shard.starts) for shard in shards)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, draw: Draw) -> Sample:
        number = int(np.searchsorted(self._firsts, draw.sample, side="right")) - 1
        shard = self.shards[number]
        place = draw.sample - int(self._firsts[number])
        try:
            fields = read_sample(shard, place)
        except (ShardError, OSError) as error:  # the shard has gone, or is another one by now
            return Sample(f"{shard.path.name}/sample {place}: {error}", None)
        name = f"{shard.path.name}/{fields['__key__']}"
        random = np.random.default_rng((self.seed, *draw))
        try:
            return Sample(name, self.transform(image_bytes(fields), random))
        except UNREADABLE as error:
            return Sample(f"{name}: {reason(error)}", None)


def reason(error: Exception) -> str:
    """Say in a few words why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that PIL knows"
    return str(error) or type(error).__name__


def read_sample(shard: ShardIndex, place: int) -> dict[str, Any]:
    """Read one sample's fields: `__key__` and bytes under `jpg`, `txt`, `json`, ...

    Raises:
        ShardError: the shard is another file than the one that was indexed.
    """
    return read_range(shard.path, int(shard.starts[place]), int(shard.ends[place]))


def read_range(path: Path, start: int, end: int) -> dict[str, Any]:
    """Read the fields of the sample that lies between two bytes of a shard.

    Raises:
        ShardError: no sample begins there.
    """
    with path.open("rb") as file:
        file.seek(start)
        piece = file.read(end - start)
    try:
        return next(iter(group_by_keys(_members(piece, str(path)))))
    except (tarfile.TarError, ValueError, RecursionError, StopIteration) as error:
        raise ShardError(
            f"{path} has changed since it was indexed: no sample begins at byte {start}. "
            "Leave shards alone while a run reads them, and start it again."
        ) from error


def _members(piece: bytes, url: str) -> Iterable[dict[str, Any]]:
    """What WebDataset finds in a piece of a shard, an end marker included; at once if it is plain.

    tarfile, which WebDataset asks, takes a tenth of the time of a training image.
    """
    files = read_plain_files(piece)
    if not files:
        return tar_file_expander([{"url": url, "stream": io.BytesIO(piece)}])
    named = [(name, data) for name, data in files if not METADATA.match(name)]
    return [*({"fname": name, "data": data, "__url__": url} for name, data in named), {}]


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
        plan: Plan,
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
