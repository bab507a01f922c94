"""Writing of a run's two checkpoints: last.ckpt and best.ckpt."""

import logging
import math
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from vqgan_train.checkpoint.writing import copy_atomically
from vqgan_train.training.run.contents import best_checkpoint, last_checkpoint
from vqgan_train.training.run.provenance import PROVENANCE

log = logging.getLogger(__name__)

DEFAULT_BEST_METRIC = "val/loss/reconstruction"
"""Metric assumed for old checkpoints that record none."""


class Checkpoints(Checkpoint):
    """Writes the newest state to last.ckpt, and the best validated one to best.ckpt.

    Args:
        folder: the run's folder.
        every_steps: steps between writes of last.ckpt; it is also written at the end.
        provenance: plain values stored with the weights: config, versions, ...
        best_metric: name of the logged metric that decides which state is the best.
        higher_is_better: whether a higher value of that metric is better.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        provenance: dict[str, Any],
        *,
        best_metric: str,
        higher_is_better: bool,
    ) -> None:
        self.last = last_checkpoint(folder)
        self.best = best_checkpoint(folder)
        self.every_steps = every_steps
        self.provenance = provenance
        self.best_metric = best_metric
        self.higher_is_better = higher_is_better
        self.best_value = -math.inf if higher_is_better else math.inf
        self.best_step = 0
        self._saved_step = self._written_best_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Treat the start step as saved, because nothing has been trained since."""
        self._saved_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write last.ckpt at the configured steps."""
        # Before a batch rather than after one: metrics and validation of the last step are done.
        if trainer.global_step % self.every_steps == 0:
            self.save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final last.ckpt."""
        self.save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the newest checkpoint to resume from, if there is one."""
        steps = {self.last: self._saved_step, self.best: self.best_step}
        saved = [file for file in steps if file.exists()]
        advice = "nothing was saved yet"
        if saved:
            newest = max(saved, key=lambda file: steps[file])
            advice = f"resume from {newest} (step {steps[newest]})"
        log.info("\nStopped at step %d; %s.", trainer.global_step, advice)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write best.ckpt if the metric is better than at all validations since training began."""
        value = float(trainer.callback_metrics[self.best_metric])
        if trainer.state.fn == TrainerFn.FITTING and self._is_better(value):
            self.best_value, self.best_step = value, trainer.global_step
            trainer.save_checkpoint(self.best)
            self._written_best_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the provenance in the checkpoint."""
        checkpoint[PROVENANCE] = self.provenance

    def state_dict(self) -> dict[str, Any]:
        """Return metric, value and step of the best state."""
        return {
            "best_metric": self.best_metric,
            "best_value": self.best_value,
            "best_step": self.best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """If best.ckpt exists, restore its step, and its value if the metric is the same."""
        if not self.best.exists():
            return
        self.best_step = state_dict["best_step"]
        metric_before = state_dict.get("best_metric", DEFAULT_BEST_METRIC)
        if metric_before == self.best_metric:
            self.best_value = state_dict["best_value"]
        else:
            log.info(
                "best.ckpt (step %d) was chosen by %s. From now on run.best_metric=%s chooses: "
                "the next validation replaces best.ckpt.",
                self.best_step,
                metric_before,
                self.best_metric,
            )

    def save_last(self, trainer: Trainer) -> None:
        """Write last.ckpt, unless this step is saved; to be called between two steps.

        It is copied from best.ckpt if that has the same state.
        """
        if trainer.global_step == self._saved_step:
            return
        if trainer.global_step != self._written_best_step:
            trainer.save_checkpoint(self.last)
        else:
            if trainer.is_global_zero:
                copy_atomically(self.best, self.last)
            trainer.strategy.barrier("copied last.ckpt")
        self._saved_step = trainer.global_step

    def _is_better(self, value: float) -> bool:
        return value > self.best_value if self.higher_is_better else value < self.best_value
