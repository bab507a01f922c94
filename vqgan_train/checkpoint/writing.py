"""Writing a checkpoint so that a crash at any moment leaves a whole file, new or old."""

import os
from pathlib import Path
from typing import Any

import torch

PARTIAL_SUFFIX = ".partial"


def write_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write beside the target, fsync, rename over it.

    Args:
        checkpoint: tensors and plain containers.
        path: the target; its folder is made if need be.

    Raises:
        OSError: the disk is full or the folder cannot be written. The old file is as it was and no
            partial one is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch's zip writer closes itself on the way out and covers what stopped it by a
        # RuntimeError about its position.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
