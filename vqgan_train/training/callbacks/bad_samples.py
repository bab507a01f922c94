"""Unreadable samples and shards: counted, named, and the end of the run when too many."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.images.bad_images import are_too_many, require_few_dead
from vqgan_train.shards.naming import shown
from vqgan_train.system.errors import ShardError

log = logging.getLogger(__name__)

STATE = "bad_samples"
"""Where a checkpoint has the counts."""

NAMED_AT_FIRST = 10
"""So many are named one by one; after that every hundredth."""


class BadSamples(Callback):
    """Counts this rank's samples that could not be read, and the shards with something wrong.

    Args:
        max_fraction: of the images a rank has seen, once it has seen 100; beyond it the run stops.
            Dead shards, which hold nothing that could be read, may be as large a part of all.
    """

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.bad = self.seen = 0
        """Of this rank, since the run was started or went on."""
        self._bad_before = self._seen_before = 0
        """Of all ranks, up to the checkpoint that it went on from."""
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to begin without a large part of the data.

        Raises:
            ShardError: there are too many dead shards.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        dead = [shard.problem for shard in data.bad_shards() if not shard.num_samples]
        shards = len(data.train_shards) + len(data.val_shards)
        require_few_dead(dead, shards, self.max_fraction, "data.max_bad_fraction")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count what is behind us, as checkpoints do."""
        self._count(batch)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count validation samples once: they are the same every time."""
        if not self._validated:
            self._count(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many there were on all ranks together."""
        self._validated = True
        bad = float(self.bad + (self._bad_before if trainer.is_global_zero else 0))
        pl_module.log("data/bad_samples", bad, logger=False, reduce_fx="sum", sync_dist=True)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        shards = float(data.num_bad_shards())
        pl_module.log("data/bad_shards", shards, logger=False, reduce_fx="max", sync_dist=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the counts of all ranks together, so that a resumed run goes on counting."""
        own = torch.tensor([self.bad, self.seen], device=pl_module.device)
        bad, seen = trainer.strategy.reduce(own, reduce_op="sum").tolist()
        checkpoint[STATE] = {
            "bad": self._bad_before + bad,
            "seen": self._seen_before + seen,
            "validated": self._validated,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting."""
        state = checkpoint[STATE]
        self._bad_before, self._seen_before = state["bad"], state["seen"]
        self._validated = state["validated"]

    def _count(self, batch: Any) -> None:
        self.seen += len(batch["name"]) + len(batch["bad"])
        for name in batch["bad"]:
            self.bad += 1
            bad = self._bad_before + self.bad
            if bad <= NAMED_AT_FIRST or bad % 100 == 0:
                log.warning("Left out unreadable sample %d: %s", bad, shown(name))
        bad, seen = self._bad_before + self.bad, self._seen_before + self.seen
        if batch["bad"] and are_too_many(bad, seen, self.max_fraction):
            raise ShardError(
                f"{bad} of {seen} samples could not be read, more than "
                f"data.max_bad_fraction={self.max_fraction} allows. The last: "
                f"{shown(batch['bad'][-1])}. Mend the shards, or allow more."
            )


class WholeData(Callback):
    """Ends a run whose loader ends early; Lightning would begin it again, and repeat images."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loader of a run has as many batches as the run: all of it is one epoch.

        Raises:
            ShardError: there are steps left.
        """
        if trainer.global_step < trainer.max_steps:
            raise ShardError(
                f"The training data of rank {trainer.global_rank} ended at step "
                f"{trainer.global_step} of {trainer.max_steps}."
            )
