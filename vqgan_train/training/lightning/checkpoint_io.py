"""Writing and reading of checkpoint files, as Lightning's plugin for it."""

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vqgan_train.checkpoint import save_atomically
from vqgan_train.system.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads them without running code stored in them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a crash leaves the old file or the new one, never half a file."""
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
