"""Uploads of checkpoints to Weights & Biases, as versions of one artifact per run."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import wandb
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.lightning.loggers import BEST, LAST, WandbRun

log = logging.getLogger(__name__)


# A subclass of Lightning's Checkpoint, because Lightning calls these after all other callbacks and
# in the order of the trainer's list: `Checkpoints` has then written the files.
class Artifacts(Checkpoint):
    """Uploads last.ckpt and best.ckpt as versions of the artifact `model-<run id>`.

    Versions have the aliases `last`, `best` and `step-<step>`. Errors of W&B are logged as
    warnings; training continues.

    Args:
        checkpoints: writes the files that are uploaded.
        run: W&B run that the artifact belongs to.
        every_steps: steps between uploads; None uploads at the end only.
        keep_versions: number of versions to keep besides `last` and `best`, the newest ones; None
            keeps all.
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
        """Store the W&B run in the checkpoints, and declare its input artifacts to W&B."""
        self._sent_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        self.checkpoints.provenance["wandb"] = self.run.identity
        if self.run.is_online:
            for name in self.used:
                _attempt(f"record {name} as input of the run", self.run.use_artifact, name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start an upload at the configured steps, right after last.ckpt was written."""
        is_due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if is_due and trainer.is_global_zero and trainer.global_step != self._sent_step:
            self._sent_step = trainer.global_step
            _attempt("delete old versions", self._delete_old)
            _attempt("take the checkpoints", self._send, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Upload the last state."""
        if trainer.is_global_zero:
            self.finish(trainer.global_step)

    def finish_interrupted(self, step: int) -> None:
        """Upload the last state of a run that was killed after its last step."""
        if self.checkpoints.best.exists():
            self.checkpoints.best_step = read_checkpoint(self.checkpoints.best)["global_step"]
        self.finish(step)

    def finish(self, step: int) -> None:
        """Upload the last state and wait for its arrival, unless W&B has it."""
        if step > self.run.uploaded_step:
            _attempt("take the checkpoints", self._send_and_wait, step)
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
    """Call `action`; on an error warn that W&B did not do `what`."""
    try:
        action(*arguments)
    # W&B raises errors of many kinds, and none of them may end a run.
    except Exception as error:
        log.warning("W&B did not %s: %s", what, error)
