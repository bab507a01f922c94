"""Checkpoint files and the step counter, as Lightning writes and restores them."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vqgan_train.checkpoint import write_atomically
from vqgan_train.training.run.saved_state import read_state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and runs nothing that a checkpoint names."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, sync, rename over it."""
        write_atomically(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read tensors and plain values onto the CPU.

        Raises:
            CheckpointError: the file is missing, damaged, or not written by a run.
        """
        return read_state(Path(path))


def set_clock(trainer: Trainer, step: int) -> None:
    """Make a trainer count on from an optimizer step, as if it had made the steps before.

    Lightning's own loop state says where inside its hooks a checkpoint was written, and resuming
    from some of those places repeats or skips a validation. Ours are written between two steps,
    where one number says everything.
    """
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_batches_that_stepped"), "this Lightning counts steps in another place"
    loop._batches_that_stepped = step
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.batch_progress.total.ready = step * trainer.accumulate_grad_batches
