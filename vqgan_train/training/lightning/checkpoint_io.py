"""Writing and reading of checkpoint files, as Lightning's plugin for it."""

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from vqgan_train.checkpoint.writing import save_atomically
from vqgan_train.training.run.saved_state import read_state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads them without running code stored in them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; after a crash, `path` is the old file or the whole new one."""
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read tensors and plain values onto the CPU.

        Raises:
            CheckpointError: the file is missing or damaged, or holds more than these.
        """
        return read_state(Path(path))
