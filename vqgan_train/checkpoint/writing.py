"""Write checkpoints so that a crash at any moment leaves a complete file, new or old."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from vqgan_train.system.files import PARTIAL, write_atomically


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain containers.

    Its folder is created if missing.

    Raises:
        OSError: the disk is full, the folder is not writable or the written file is damaged. The
            old file is unchanged and the temporary file removed.
    """
    _write(path, lambda file: torch.save(checkpoint, file))


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a checkpoint; errors as by `save_atomically`, or `source` is missing."""
    with source.open("rb") as original:
        _write(path, lambda file: shutil.copyfileobj(original, file))


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Fill a temporary file beside the target, fsync it, verify it and rename it to the target."""
    # A fixed name, so that the next write replaces the gigabytes that a killed process may leave.
    partial = path.with_name(path.name + PARTIAL)
    try:
        with write_atomically(path, partial) as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            _verify(partial)
    except (OSError, RuntimeError) as error:
        # After a failed write, torch's zip writer still closes its file. That raises a RuntimeError
        # about its position, which hides the cause.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.filename is None:
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise
    _sync_folder(path.parent)


def _verify(path: Path) -> None:
    """Compare every part of the file with its checksum, in about 0.5 s per gigabyte."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:  # the list of parts, at the end of the file, is missing
        damaged = path.name
    if damaged is not None:
        raise OSError(errno.EIO, f"{damaged} is damaged although it was just written", str(path))


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
