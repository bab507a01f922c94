"""Stops of a run at too many unreadable samples or dead shards, or at an early end of data."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.images.bad_images import are_too_many, require_few_dead
from vqgan_train.shards.naming import printable_name
from vqgan_train.system.errors import ShardError, UnavailableShardError

log = logging.getLogger(__name__)

STATE = "bad_samples"
"""Key of the counts in a checkpoint."""

NAMED_AT_FIRST = 10
"""Number of unreadable samples that are logged individually; after that, every hundredth is."""


class BadSamples(Callback):
    """Counts unreadable samples and unusable shards, and logs the counts with every validation.

    Args:
        max_fraction: the run stops once more than this fraction of a rank's samples is unreadable;
            fewer than 100 samples count as 100. After a resume, the samples that all ranks saw
            before also count. The run does not start if more than this fraction of shards is dead.
    """

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.bad = self.seen = 0
        """Numbers of unreadable samples and of all samples, on this rank since start or resume."""
        self._bad_before = self._seen_before = 0
        """The same numbers, summed over ranks, up to the checkpoint that the run resumed from."""
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that few local shards are dead.

        Raises:
            ShardError: nothing can be read in more than `max_fraction` of the shards.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        dead = [shard.problem for shard in data.bad_shards() if not shard.num_samples]
        shards = len(data.train_shards) + len(data.val_shards)
        require_few_dead(dead, shards, self.max_fraction, "data.max_bad_fraction")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count a batch after its step, so that the counts fit the checkpoint's data position."""
        self._count(batch, trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        """Count the samples of the first validation only; later ones have the same samples."""
        if not self._validated:
            self._count(batch, trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of unreadable samples over all ranks, and of damaged or dead shards."""
        self._validated = True
        # Lightning sums over ranks, so only the first one adds the earlier count of all ranks.
        bad = float(self.bad + (self._bad_before if trainer.is_global_zero else 0))
        pl_module.log("data/bad_samples", bad, logger=False, reduce_fx="sum", sync_dist=True)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        shards = float(data.num_bad_shards())
        pl_module.log("data/bad_shards", shards, logger=False, reduce_fx="max", sync_dist=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the counts, summed over ranks."""
        counts = torch.tensor([self.bad, self.seen], device=pl_module.device)
        bad, seen = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        checkpoint[STATE] = {
            "bad": self._bad_before + bad,
            "seen": self._seen_before + seen,
            "validated": self._validated,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue counting from a checkpoint."""
        state = checkpoint[STATE]
        self._bad_before, self._seen_before = state["bad"], state["seen"]
        self._validated = state["validated"]

    def _count(self, batch: Any, trainer: Trainer) -> None:
        self.seen += len(batch["name"]) + len(batch["bad"])
        for name in batch["bad"]:
            self.bad += 1
            bad = self._bad_before + self.bad
            if bad <= NAMED_AT_FIRST or bad % 100 == 0:
                log.warning("Skipped an unreadable sample (no. %d): %s", bad, printable_name(name))
        bad, seen = self._bad_before + self.bad, self._seen_before + self.seen
        if batch["bad"] and are_too_many(bad, seen, self.max_fraction):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
            is_away = data.is_source_away()
            raise (UnavailableShardError if is_away else ShardError)(
                f"{bad} of {seen} samples could not be read, more than "
                f"data.max_bad_fraction={self.max_fraction} allows. The last of them: "
                f"{printable_name(batch['bad'][-1])}. "
                + (
                    "A source of shards has failed for longer than data.patience_seconds: start "
                    "the same command again when it works."
                    if is_away
                    else "Repair the shards, or raise data.max_bad_fraction."
                )
            )


class DataEndCheck(Callback):
    """Stops a run whose data loader ends early; Lightning would start the loader again.

    A run's loader yields the batches of all its steps, which Lightning takes for one epoch.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, when the loader ends, that all steps were made.

        Raises:
            ShardError: steps are left.
        """
        if trainer.global_step < trainer.max_steps:
            raise ShardError(
                f"The training data of rank {trainer.global_rank} ended at step "
                f"{trainer.global_step} of {trainer.max_steps}. Resume; if this recurs, report it."
            )
