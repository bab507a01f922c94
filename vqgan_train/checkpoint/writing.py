"""Write checkpoints so that a crash at any moment leaves a complete file, new or old."""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

PARTIAL_SUFFIX = ".partial"


def write_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a temporary file beside the target, fsync it, verify it and rename it to the target.

    Args:
        checkpoint: tensors and plain containers.
        path: the target; its folder is created if missing.

    Raises:
        OSError: the disk is full or the folder is not writable. The old file is unchanged and the
            temporary file removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _verify(partial)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch's zip writer closes itself on the way out and covers what stopped it by a
        # RuntimeError about its position.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.filename is None:
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise
    _sync_folder(path.parent)


def remove_partial(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder or its subfolders."""
    for partial in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)


def _verify(path: Path) -> None:
    """Compare every part of the file with its checksum: 0.5 s a gigabyte."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:  # the list of parts, at the end of the file, is missing
        damaged = path.name
    if damaged is not None:
        raise OSError(errno.EIO, f"{damaged} was not written as it was meant to be", str(path))


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
