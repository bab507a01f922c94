"""Uploads of checkpoints to Weights & Biases, as versions of one artifact per run."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import wandb
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.system.errors import first_line
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.lightning.loggers import BEST, LAST, WandbRun

log = logging.getLogger(__name__)


# A subclass of Lightning's Checkpoint, because Lightning calls these after all other callbacks and
# in the order of the trainer's list: `Checkpoints` has then written the files.
class Artifacts(Checkpoint):
    """Uploads last.ckpt and best.ckpt to W&B, as versions of the artifact `model-<W&B run id>`.

    Each version has the alias `step-<step>`; the newest upload of each file also has `last` or
    `best`. Errors of W&B are logged as warnings, and training continues.

    Args:
        checkpoints: writes the files that are uploaded.
        run: W&B run that the artifact belongs to.
        every_steps: steps between uploads; None uploads at the end only.
        keep_versions: how many of the newest versions to keep besides `last` and `best`; the others
            are deleted. None keeps all.
        used: names of the W&B artifacts that the run starts from.
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
        self._sent_step = self._sent_best_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the W&B run in later checkpoints, and at W&B the artifacts that it starts from."""
        self._sent_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        self.checkpoints.provenance["wandb"] = self.run.identity
        if self.run.is_online:
            for name in self.used:
                _attempt(f"record {name} as input of the run", self.run.use_artifact, name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """At the configured steps, start an upload, right after last.ckpt was written."""
        is_due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if is_due and trainer.is_global_zero and trainer.global_step != self._sent_step:
            self._sent_step = trainer.global_step
            _attempt("delete old versions", self._delete_old)
            _attempt("upload the checkpoints", self._send, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Upload the final checkpoints, and wait until W&B has them."""
        if trainer.is_global_zero:
            self.finish(trainer.global_step)

    def finish_interrupted(self, step: int) -> None:
        """Call `finish` for a run that made its last step in an earlier process."""
        if self.checkpoints.best.exists():
            self.checkpoints.best_step = read_checkpoint(self.checkpoints.best)["global_step"]
        self.finish(step)

    def finish(self, step: int) -> None:
        """Upload the final checkpoints and wait until W&B has them, unless it has them already."""
        if step > self.run.uploaded_step:
            _attempt("upload the checkpoints", self._send_and_wait, step)
            _attempt("delete old versions", self._delete_old)

    def _send(self, step: int) -> wandb.Artifact:
        best, best_step = self.checkpoints.best, self.checkpoints.best_step
        if best.exists() and best_step != self._sent_best_step:
            self.run.upload_checkpoint(best, {"step": best_step}, [BEST, f"step-{best_step}"])
            self._sent_best_step = best_step
        aliases = [LAST, f"step-{step}"]
        return self.run.upload_checkpoint(self.checkpoints.last, {"step": step}, aliases)

    def _send_and_wait(self, step: int) -> None:
        sent = self._send(step)
        if self.run.is_online:
            sent.wait()  # raises if the server refuses the upload
        self.run.uploaded_step = step

    def _delete_old(self) -> None:
        if self.keep_versions is not None and self.run.is_online:
            self.run.delete_old_checkpoints(self.keep_versions)


def _attempt(what: str, action: Callable[..., Any], *arguments: Any) -> None:
    """Call `action`; if it raises, log a warning that W&B did not do `what`, and return."""
    try:
        action(*arguments)
    # W&B raises errors of many kinds, and none of them may end a run.
    except Exception as error:
        log.warning("WARNING: W&B did not %s (%s). The run continues.", what, first_line(error))
