"""All ranks of a run read the same data, wherever their copies lie."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import ShardIndex
from vqgan_train.shards.remote.opening import open_to_keep, open_to_stream
from vqgan_train.shards.remote.store import RemoteShard, ShardStore
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.loader import BATCHES_AHEAD, CopyStream, make_loader
from vqgan_train.training.data.pipeline import PlannedBatches, Sample, ShardDataset
from vqgan_train.training.data.plan import ALL_ONCE, Draw, Order, require_same_order
from vqgan_train.training.data.prefetch import PrefetchedBatches


def require_agreement(strategy: Any, fingerprints: tuple[str, ...]) -> None:
    """Check that each rank found the same; else some samples would be repeated, and others missed.

    Args:
        strategy: Lightning's, which asks the other ranks.
        fingerprints: of this rank's data.

    Raises:
        ShardError: they differ, on all ranks.
    """
    agrees = tuple(strategy.broadcast(fingerprints)) == fingerprints
    if not strategy.reduce_boolean_decision(agrees, all=True):
        raise ShardError(
            "The machines of this run do not agree on what the shards hold. Compare the copies of "
            "those that lie on each of them; of remote ones remove the count.json files in "
            "data.cache_dir. Then start again."
        )


log = logging.getLogger(__name__)

PROBED_SAMPLES = 4


class ShardDataModule(LightningDataModule):
    """Training and validation images from shards.

    Args:
        train_shards: tar files, and addresses of remote ones.
        val_shards: likewise.
        store: where remote shards are kept; None if there are none.
        make_plan: the order of training samples, from the number of samples in each shard.
        train_transform: for training images.
        val_transform: for validation images.
        batch_size: images a device and batch.
        num_workers: loader processes a device.
        seed: of shuffling and augmentation.
    """

    def __init__(
        self,
        *,
        train_shards: Sequence[Path | str],
        val_shards: Sequence[Path | str],
        store: ShardStore | None,
        make_plan: Callable[[Sequence[int]], Order],
        train_transform: ImageTransform,
        val_transform: ImageTransform,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train_shards = list(train_shards)
        self.val_shards = list(val_shards)
        self.store = store
        self.make_plan = make_plan
        self.train_transform = train_transform
        self.val_transform = val_transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._is_set_up = False
        self._copies = CopyStream()
        self._resumed_position = 0
        self._resumed_step = 0

    def prepare_data(self) -> None:
        """Index the shards once a node, so that the other ranks find the indices in the cache.

        Raises:
            ShardError: a shard cannot be read.
        """
        self.setup("fit")

    def setup(self, stage: str) -> None:
        """Open the data sets, once; they are the same for every stage."""
        if self._is_set_up:
            return
        self._is_set_up = True
        train = open_to_stream(self.train_shards, self.store)
        self.plan = self.make_plan([shard.num_samples for shard in train])
        self.train_data = ShardDataset(train, self.train_transform, self.seed)
        # Validation comes back to all of its shards again and again: they are held.
        val, self._holds = open_to_keep(self.val_shards, self.store)
        self.val_data = ShardDataset(val, self.val_transform, self.seed)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches from here to the last step of the run, over as many epochs as that takes.

        Raises:
            ShardError: the machines of the run do not agree on the shards.
        """
        trainer = self._trainer()
        steps_left = max(trainer.max_steps - self._resumed_step, 0)
        share = {
            "position": self._resumed_position,
            "num_batches": steps_left * trainer.accumulate_grad_batches,
            "batch_size": self.batch_size,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }
        require_agreement(
            trainer.strategy, (self.train_data.fingerprint, self.val_data.fingerprint)
        )
        if not any(isinstance(shard, RemoteShard) for shard in self.train_data.shards):
            batches = PlannedBatches(self.plan, **share)
        else:
            lag = BATCHES_AHEAD * self.num_workers + 1
            batches = PrefetchedBatches(self.plan, self.train_data, lag=lag, **share)
        return make_loader(self.train_data, batches, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every validation image once over all ranks; a rank may have a batch more than others.

        Raises:
            ShardError: there are fewer images than ranks.
        """
        trainer = self._trainer()
        if len(self.val_data) < trainer.world_size:
            # A rank without a batch would not take part in the sums, and the others would wait.
            raise ShardError(
                f"data.val_shards hold {len(self.val_data)} images, fewer than the "
                f"{trainer.world_size} ranks. Add images, or train on fewer devices."
            )
        mine = range(trainer.global_rank, len(self.val_data), trainer.world_size)
        batches = [
            [Draw(0, sample) for sample in mine[first : first + self.batch_size]]
            for first in range(0, len(mine), self.batch_size)
        ]
        return make_loader(self.val_data, batches, num_workers=self.num_workers)

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Bring a batch of either loader to the device, beside what that computes."""
        return batch | {"image": self._copies.copy(batch["image"], device)}

    def require_readable(self) -> None:
        """Read a few samples of each set, so that data of another kind fails before a run begins.

        Raises:
            ShardError: none of them is an image.
        """
        for setting, data in (("train", self.train_data), ("val", self.val_data)):
            samples = [data[Draw(0, sample)] for sample in data.probes(PROBED_SAMPLES)]
            if all(sample.image is None for sample in samples):
                raise ShardError(
                    f"None of the first {len(samples)} samples of data.{setting}_shards could be "
                    f"read, for example {samples[0].name}. Check that they hold images."
                )

    def first_val_images(self, count: int) -> Tensor:
        """(<= count, 3, H, W) in [-1, 1]: the first validation images that can be read."""
        samples = (self.val_data[Draw(0, sample)] for sample in range(len(self.val_data)))
        images = (sample.image for sample in samples if sample.image is not None)
        return torch.stack(list(islice(images, count)))

    def bad_shards(self) -> list[ShardIndex]:
        """Those on disk that something is wrong with; dead ones among them have no samples."""
        every = (*self.train_data.shards, *self.val_data.shards)
        return [shard for shard in every if isinstance(shard, ShardIndex) and shard.problem]

    def num_bad_shards(self) -> int:
        """How many shards something is wrong with, dead sources of remote ones among them."""
        dead = (s for s in self.train_data.shards if isinstance(s, RemoteShard) and s.is_dead())
        return len(self.bad_shards()) + sum(1 for _ in dead)

    def description(self) -> dict[str, Any]:
        """What checkpoints say of the data: plain values."""
        return {
            "train_images": len(self.train_data),
            "val_images": len(self.val_data),
            "train_fingerprint": self.train_data.fingerprint,
            "val_fingerprint": self.val_data.fingerprint,
        }

    def position(self) -> int:
        """Training samples that all ranks together have trained on since the start of the run."""
        trainer = self._trainer()
        batches = (trainer.global_step - self._resumed_step) * trainer.accumulate_grad_batches
        return self._resumed_position + batches * self.batch_size * trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the data: plain numbers."""
        return {
            "position": self.position(),
            "step": self._trainer().global_step,
            "order": self.plan.name,
            "train_fingerprint": self.train_data.fingerprint,
            "val_fingerprint": self.val_data.fingerprint,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's position.

        Raises:
            ShardError: the shards, or their order, are not those of the checkpoint.
        """
        self.setup("fit")
        if state_dict["train_fingerprint"] != self.train_data.fingerprint:
            raise ShardError(
                "data.train_shards are not the shards that the checkpoint was trained on (other "
                "files, sizes, samples or order), so its place in them means nothing. Give the "
                "same shards in the same order; they may lie elsewhere. To train on others, start "
                "a run from the weights: model.init_from=CHECKPOINT."
            )
        require_same_order(state_dict.get("order", ALL_ONCE), self.plan)
        self._resumed_position = state_dict["position"]
        self._resumed_step = state_dict["step"]

    def compare_validation(self, state_dict: Mapping[str, Any]) -> None:
        """Say so where validation was of other images before."""
        if state_dict["val_fingerprint"] != self.val_data.fingerprint:
            log.warning(
                "WARNING: data.val_shards are not those of before: from here on, validation is of "
                "other images, and does not compare with what was."
            )

    def _trainer(self) -> Any:
        assert self.trainer is not None, "the data module needs a trainer"
        return self.trainer


DATA_STATE = ShardDataModule.__qualname__
"""Where Lightning puts this module's state in a checkpoint."""

DATA_STATE_KEYS = {"position", "step", "train_fingerprint", "val_fingerprint"}
