"""Checkpoints at Weights & Biases: versions of one artifact a run, and what they came from."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import wandb
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from vqgan_train.callbacks.checkpoints import MONITORED, Checkpoints
from vqgan_train.wandb_run import BEST, LAST, WandbRun

log = logging.getLogger(__name__)


class Artifacts(Checkpoint):
    """Uploads last.ckpt and best.ckpt as versions of the artifact `model-<id of the run>`.

    The versions are called `last`, `best` and `step-<step>`. Whatever W&B answers, training goes
    on. It is a `Checkpoint` since Lightning puts those behind all other callbacks, in their order:
    so it comes after `Checkpoints`, which writes the files.

    Args:
        checkpoints: writes the files.
        run: where they go.
        every_steps: steps between uploads; None: at the end only.
        keep_versions: newest versions that stay beside those called last and best; None: all.
        used: names of the artifacts that the run starts from.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        run: WandbRun,
        *,
        every_steps: int | None,
        keep_versions: int | None,
        used: Sequence[str],
    ) -> None:
        self.checkpoints = checkpoints
        self.run = run
        self.every_steps = every_steps
        self.keep_versions = keep_versions
        self.used = used
        self._last_step = self._best_step = -1
        """Of what was uploaded."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the run in its checkpoints, and what it started from at W&B."""
        self._last_step = trainer.global_step  # written, and uploaded, before
        if not trainer.is_global_zero:
            return
        self.checkpoints.provenance["wandb"] = self.run.identity
        if self.run.is_online:
            for name in self.used:
                _attempt(f"name {name} as what it started from", self.run.use_artifact, name)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Upload between two steps, right after last.ckpt was written."""
        if self.every_steps is not None and trainer.global_step % self.every_steps == 0:
            self._upload(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Upload the end."""
        self._upload(trainer)

    def _upload(self, trainer: Trainer) -> None:
        last, best = self.checkpoints.last, self.checkpoints.best
        step, best_step = trainer.global_step, self.checkpoints.best_step
        if not trainer.is_global_zero or step == self._last_step:
            return
        if best.exists() and best_step != self._best_step:
            self._best_step = best_step
            metadata = {"step": best_step, MONITORED: self.checkpoints.best_value}
            aliases = [BEST, f"step-{best_step}"]
            _attempt("take best.ckpt", self.run.upload_checkpoint, best, metadata, aliases)
        self._last_step = step
        aliases = [LAST, f"step-{step}"]
        _attempt("take last.ckpt", self.run.upload_checkpoint, last, {"step": step}, aliases)
        if self.keep_versions is not None and self.run.is_online:
            keep = self.keep_versions
            _attempt("delete old versions", self.run.delete_old_checkpoints, keep)


def _attempt(what: str, action: Callable[..., Any], *arguments: Any) -> None:
    """Ask W&B for something that training can do without."""
    try:
        action(*arguments)
    except (wandb.Error, ValueError, OSError) as error:
        log.warning("W&B did not %s: %s", what, error)
