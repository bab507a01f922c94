"""The process a run happens in: its log, its devices, where its code came from."""

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vqgan_train.checkpoint import save_atomically
from vqgan_train.system.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints: a crash leaves a whole file, and reading one runs nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside, sync, rename."""
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read tensors and plain values.

        Raises:
            CheckpointError: the file holds something else, which is not run.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, so a run does not go on from "
                f"it. To start from its weights, set model.init_from={path}."
            ) from error
        return content


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
