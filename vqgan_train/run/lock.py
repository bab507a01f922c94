"""One run a folder at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.run.folder import CHECKPOINTS, RunFolderError, not_writable
from vqgan_train.runtime import is_first_rank

LOCK_FILE = ".lock"
LOCK_SECONDS = 10
"""A job that was ended may need some to go."""


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other runs out of a folder until this one has ended, however it ends.

    Raises:
        RunFolderError: another run is in it, or it cannot be written.
    """
    if not is_first_rank():
        yield
        return
    lock = FileLock(path / LOCK_FILE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise RunFolderError(
            f"run.output_dir={path} is in use by another run. Wait for it to end, stop it, or "
            "choose another folder."
        ) from error
    except OSError as error:
        raise not_writable(path, error) from error
    try:
        yield
    finally:
        (path / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def saved_states(output_dir: str | None) -> list[tuple[str, int]]:
    """Names and times of the checkpoints in a folder."""
    folder = Path(output_dir or os.devnull) / CHECKPOINTS
    return sorted((file.name, file.stat().st_mtime_ns) for file in folder.glob("*.ckpt"))


@rank_zero_only
def require_unmoved(path: Path, saved: list[tuple[str, int]]) -> None:
    """Check that no other run has saved in a folder since it was looked at.

    Raises:
        RunFolderError: one has, and this one would go on from what is no longer the newest.
    """
    if saved_states(str(path)) != saved:
        raise RunFolderError(
            f"Another run has saved its last state in run.output_dir={path} while this one waited "
            "for it. The same command again goes on from there."
        )
