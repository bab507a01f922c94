"""last.ckpt and best.ckpt."""

import logging
import math
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from vqgan_train.training.run.contents import best_checkpoint, last_checkpoint
from vqgan_train.training.run.provenance import PROVENANCE

log = logging.getLogger(__name__)

FIRST_BEST_METRIC = "val/loss/reconstruction"
"""What was best in runs whose checkpoints do not say."""


class Checkpoints(Checkpoint):
    """Keeps the newest state and the best one.

    Args:
        folder: the run's.
        every_steps: steps between writes of `last.ckpt`; it is also written at the end.
        provenance: plain values stored with the weights: config, versions, ...
        best_metric: name of the logged metric that `best.ckpt` is best in.
        higher_is_better: whether more of it is; otherwise less.
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
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state that a run starts or resumes from is not written again."""
        self._saved_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps: by now the last one's metrics and validation are out."""
        if trainer.global_step % self.every_steps == 0:
            self.save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        self.save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say what is left to go on from."""
        steps = {self.last: self._saved_step, self.best: self.best_step}
        saved = [file for file in steps if file.exists()]
        kept = "nothing was saved yet"
        if saved:
            newest = max(saved, key=lambda file: steps[file])
            kept = f"{newest} is what to go on from, step {steps[newest]}"
        log.info("\nStopped at step %d; %s.", trainer.global_step, kept)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what is better than all before it."""
        value = float(trainer.callback_metrics[self.best_metric])
        if trainer.state.fn == TrainerFn.FITTING and self._is_better(value):
            self.best_value, self.best_step = value, trainer.global_step
            trainer.save_checkpoint(self.best)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Never lose the config with the run."""
        checkpoint[PROVENANCE] = self.provenance

    def state_dict(self) -> dict[str, Any]:
        """What was best so far."""
        return {
            "best_metric": self.best_metric,
            "best_value": self.best_value,
            "best_step": self.best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was best, if it is in this folder and was judged by the same metric."""
        if not self.best.exists():
            return
        self.best_step = state_dict["best_step"]
        before = state_dict.get("best_metric", FIRST_BEST_METRIC)
        if before == self.best_metric:
            self.best_value = state_dict["best_value"]
        else:
            log.info(
                "best.ckpt (step %d) was chosen by %s. From here on run.best_metric=%s chooses: "
                "the next validation replaces it.",
                self.best_step,
                before,
                self.best_metric,
            )

    def save_last(self, trainer: Trainer) -> None:
        """Save between two steps, unless this very state was saved before."""
        if trainer.global_step != self._saved_step:
            trainer.save_checkpoint(self.last)
            self._saved_step = trainer.global_step

    def _is_better(self, value: float) -> bool:
        return value > self.best_value if self.higher_is_better else value < self.best_value
