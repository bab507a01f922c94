"""Marks in the cache that keep a machine from asking again for a shard that is unavailable."""

import time
from pathlib import Path
from typing import NoReturn

from vqgan_train.system.errors import DeadShardError, UnavailableShardError
from vqgan_train.system.files import write_atomically

DEAD, AWAY = "dead", "away"
"""Names of the marks: of a failure that is final, and of one that may pass."""

ERRORS = {DEAD: DeadShardError, AWAY: UnavailableShardError}

DEAD_SECONDS = 300
"""Time for which a mark holds; then the shard is tried once more."""


def mark_and_raise(folder: Path, mark: str, message: str) -> NoReturn:
    """Mark the shard of a folder of the cache, and raise the mark's error with a message."""
    with write_atomically(folder / mark) as file:
        file.write(message.encode())
    raise ERRORS[mark](message)


def raise_if_marked(folder: Path) -> bool:
    """Raise the error of a mark that holds; return whether there was one that has expired."""
    was_marked = False
    for mark, kind in ERRORS.items():
        try:
            if time.time() - (folder / mark).stat().st_mtime < DEAD_SECONDS:
                raise kind((folder / mark).read_text())
            (folder / mark).unlink()
            was_marked = True
        except FileNotFoundError:
            pass
    return was_marked


def remove_marks(folder: Path) -> None:
    """Remove the marks of a shard, because its source may work again."""
    for mark in ERRORS:
        (folder / mark).unlink(missing_ok=True)
