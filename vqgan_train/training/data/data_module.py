"""Lightning's data module: reads images from shards, and can resume within their order."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vqgan_train.images.transforms import ImageTransform, to_model_range
from vqgan_train.shards.index import ShardIndex
from vqgan_train.shards.remote.opening import open_to_keep, open_to_stream
from vqgan_train.shards.remote.store import RemoteShard, ShardStore
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.loader import BATCHES_PER_WORKER, CopyStream, make_loader
from vqgan_train.training.data.orders import (
    FULL_SHUFFLE,
    SampleOrder,
    SampleRef,
    require_same_order,
)
from vqgan_train.training.data.pipeline import (
    PlannedBatches,
    Sample,
    ShardDataset,
    collate,
    collate_whole,
)
from vqgan_train.training.data.prefetch import PrefetchedBatches

log = logging.getLogger(__name__)

SAMPLES_TO_CHECK = 4
"""Samples, and shards, at the start of each data set that are tried before a run begins."""


class ShardDataModule(LightningDataModule):
    """Training and validation images from shards.

    Args:
        train_shards: paths of local shards, addresses of remote ones.
        val_shards: paths of local shards, addresses of remote ones.
        store: store for remote shards; None if there are none.
        make_order: makes the order of training samples from the number of samples in each shard.
        train_transform: transform of training images.
        val_transform: transform of validation images.
        batch_size: images per device and batch.
        num_workers: loader processes per device.
        seed: seed of shuffling and augmentation.
        image_field: field of each sample's image, see `image_bytes`.
    """

    def __init__(
        self,
        *,
        train_shards: Sequence[Path | str],
        val_shards: Sequence[Path | str],
        store: ShardStore | None,
        make_order: Callable[[Sequence[int]], SampleOrder],
        train_transform: ImageTransform,
        val_transform: ImageTransform,
        batch_size: int,
        num_workers: int,
        seed: int,
        image_field: str | None = None,
    ) -> None:
        super().__init__()
        self.train_shards = list(train_shards)
        self.val_shards = list(val_shards)
        self.store = store
        self.make_order = make_order
        self.train_transform = train_transform
        self.val_transform = val_transform
        self.image_field = image_field
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._is_set_up = False
        self._copies = CopyStream()
        self._resumed_position = 0
        self._resumed_step = 0

    def prepare_data(self) -> None:
        """Open the data sets as `setup` does; Lightning calls this once per node."""
        self.setup("fit")

    def setup(self, stage: str) -> None:
        """Open the data sets at the first call; they are the same for every stage.

        Raises:
            ShardError: as by `open_to_stream`, `open_to_keep` and `make_order`.
        """
        if self._is_set_up:
            return
        self._is_set_up = True
        train = open_to_stream(self.train_shards, self.store)
        self.order = self.make_order([shard.num_samples for shard in train])
        self.train_data = ShardDataset(train, self.train_transform, self.seed, self.image_field)
        # Every validation reads all of its shards, so they stay in the cache.
        val, self._pins = open_to_keep(self.val_shards, self.store)
        self.val_data = ShardDataset(val, self.val_transform, self.seed, self.image_field)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return one loader of this rank's batches up to the last step of the run, over all epochs.

        Raises:
            ShardError: the ranks have different shards.
        """
        trainer = self._trainer()
        self._require_rank_consistency()
        steps_left = max(trainer.max_steps - self._resumed_step, 0)
        batches = PlannedBatches(
            order=self.order,
            position=self._resumed_position,
            num_batches=steps_left * trainer.accumulate_grad_batches,
            batch_size=self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        planned: Sampler[list[SampleRef]] = batches
        if any(isinstance(shard, RemoteShard) for shard in self.train_data.shards):
            lag = BATCHES_PER_WORKER * self.num_workers + 1
            planned = PrefetchedBatches(batches, self.train_data, lag=lag)
        whole = partial(collate_whole, image_size=self.train_transform.image_size)
        return make_loader(self.train_data, planned, self.num_workers, whole, is_repeated=False)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return a loader of this rank's share of the validation images; no two ranks share one.

        The number of batches may differ by one between ranks.

        Raises:
            ShardError: there are fewer images than ranks.
        """
        trainer = self._trainer()
        if len(self.val_data) < trainer.world_size:
            # A rank without a batch would skip the reductions, and the others would wait for it.
            raise ShardError(
                f"data.val_shards hold {len(self.val_data)} images, fewer than the "
                f"{trainer.world_size} ranks. Add images, or train on fewer devices."
            )
        mine = range(trainer.global_rank, len(self.val_data), trainer.world_size)
        batches = [
            [SampleRef(0, sample) for sample in mine[first : first + self.batch_size]]
            for first in range(0, len(mine), self.batch_size)
        ]
        return make_loader(self.val_data, batches, self.num_workers, collate, is_repeated=True)

    def num_common_val_batches(self) -> int:
        """Return the smallest number of validation batches of any rank."""
        images = len(self.val_data) // self._trainer().world_size
        return math.ceil(images / self.batch_size)

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Copy a batch's pixels to the device, and convert them there to float32 in [-1, 1].

        A GPU goes on computing during the copy. Images of a batch without a readable one are NaN,
        so that its step is skipped (training/callbacks/non_finite.py).
        """
        images = to_model_range(self._copies.copy(batch["image"], device))
        return batch | {"image": images if batch["name"] else images.fill_(torch.nan)}

    def require_readable(self) -> None:
        """Read a few samples of each data set, so that unusable data fails before the run starts.

        Raises:
            ShardError: none of the samples of a data set can be read.
        """
        for setting, data in (("train", self.train_data), ("val", self.val_data)):
            numbers = data.samples_to_check(SAMPLES_TO_CHECK)
            if all(data[SampleRef(0, number)].image is None for number in numbers):
                raise ShardError(
                    f"None of the {len(numbers)} samples tried in data.{setting}_shards could be "
                    f"read. The first: {data[SampleRef(0, 0)].name.rstrip('.')}. Check the shards."
                )

    def first_val_images(self, count: int) -> Tensor:
        """Return the first readable validation images: (<= count, 3, H, W) in [-1, 1]."""
        samples = (self.val_data[SampleRef(0, number)] for number in range(len(self.val_data)))
        images = (sample.image for sample in samples if sample.image is not None)
        return to_model_range(torch.stack(list(islice(images, count))))

    def bad_shards(self) -> list[ShardIndex]:
        """Return the damaged or dead shards among local training and all validation shards."""
        shards = (*self.train_data.shards, *self.val_data.shards)
        return [shard for shard in shards if isinstance(shard, ShardIndex) and shard.problem]

    def num_bad_shards(self) -> int:
        """Count `bad_shards`, and the remote training shards that have turned out dead so far."""
        dead = (s for s in self.train_data.shards if isinstance(s, RemoteShard) and s.is_dead())
        return len(self.bad_shards()) + sum(1 for _ in dead)

    def is_source_away(self) -> bool:
        """Return whether a remote training shard is dead for a reason that may pass."""
        return any(isinstance(s, RemoteShard) and s.is_away() for s in self.train_data.shards)

    def description(self) -> dict[str, Any]:
        """Return sizes and fingerprints of the data sets, as plain values for checkpoints."""
        return {
            "train_images": len(self.train_data),
            "val_images": len(self.val_data),
            "train_fingerprint": self.train_data.fingerprint,
            "val_fingerprint": self.val_data.fingerprint,
        }

    def position(self) -> int:
        """Return the position in the sample order: samples passed by all ranks together."""
        trainer = self._trainer()
        batches = (trainer.global_step - self._resumed_step) * trainer.accumulate_grad_batches
        return self._resumed_position + batches * self.batch_size * trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` resumes, as plain values."""
        return {
            "position": self.position(),
            "step": self._trainer().global_step,
            "order": self.order.name,
            "train_fingerprint": self.train_data.fingerprint,
            "val_fingerprint": self.val_data.fingerprint,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from a checkpoint's position.

        Raises:
            ShardError: the training shards or the order of samples differ from the checkpoint's.
        """
        self.setup("fit")
        if state_dict["train_fingerprint"] != self.train_data.fingerprint:
            raise ShardError(
                "data.train_shards are not the shards that the checkpoint was trained on (other "
                "files, sizes, samples or order), so its position in them has no meaning. Give the "
                "same shards in the same order; they may be in another folder. To train on others, "
                "start a run from the weights: model.init_from=CHECKPOINT."
            )
        require_same_order(state_dict.get("order", FULL_SHUFFLE), self.order)
        self._resumed_position = state_dict["position"]
        self._resumed_step = state_dict["step"]

    def compare_validation(self, state_dict: Mapping[str, Any]) -> None:
        """Warn if the validation shards differ from the checkpoint's."""
        if state_dict["val_fingerprint"] != self.val_data.fingerprint:
            log.warning(
                "WARNING: data.val_shards are not those that the checkpoint was validated on. From "
                "now on, validation measures other images: do not compare with earlier values."
            )

    def _trainer(self) -> Any:
        assert self.trainer is not None, "the data module needs a trainer"
        return self.trainer

    def _require_rank_consistency(self) -> None:
        """Check that all ranks have the same data; else some samples are repeated or skipped.

        Raises:
            ShardError: the fingerprints of any two ranks differ; raised on all ranks.
        """
        strategy = self._trainer().strategy
        fingerprints = (self.train_data.fingerprint, self.val_data.fingerprint)
        is_same = tuple(strategy.broadcast(fingerprints)) == fingerprints
        if not strategy.reduce_boolean_decision(is_same, all=True):
            raise ShardError(
                "The machines of this run do not agree on what the shards hold. Compare the copies "
                "of local shards on the machines. For remote shards, delete all count.json below "
                "data.cache_dir on each of them. Then start again."
            )
