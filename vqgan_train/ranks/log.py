"""What each rank says, in a file of its own; only the first one speaks on the console."""

import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.runtime import is_first_rank

LOGS = "logs"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ROOTS = ("vqgan_train", "vqgan_train-file", "pytorch_lightning", "lightning_fabric", "torch")
MOST_KEPT = 10_000
"""Messages from before the file is known."""

file_only = logging.getLogger("vqgan_train-file")
"""What the console is told in another way."""
file_only.propagate = False
file_only.setLevel(logging.INFO)


class RankLog:
    """This rank's file, and the messages from before it was known where it lies."""

    def __init__(self) -> None:
        self._kept = MemoryHandler(MOST_KEPT, flushLevel=logging.CRITICAL + 1, flushOnClose=True)
        self._file: logging.FileHandler | None = None
        for name in ROOTS:
            logging.getLogger(name).addHandler(self._kept)

    def open(self, folder: Path) -> None:
        """Write from now on into `logs/rank_<rank>.log` of the run's folder, and what was kept."""
        if self._file is not None:
            return
        path = folder / LOGS / f"rank_{getattr(rank_zero_only, 'rank', 0)}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = logging.FileHandler(path, delay=False)
        self._file.setFormatter(logging.Formatter(FORMAT))
        self._kept.setTarget(self._file)
        self._kept.flush()
        self._kept.capacity = 1  # each message goes on at once

    @property
    def place(self) -> str:
        """Where all ranks' files are."""
        folder = Path(self._file.baseFilename).parent if self._file else Path(LOGS)
        return str(folder / "rank_*.log")

    def close(self) -> None:
        """Leave the loggers as they were."""
        for name in ROOTS:
            logging.getLogger(name).removeHandler(self._kept)
        self._kept.close()
        if self._file is not None:
            self._file.close()


@rank_zero_only
def open_first(rank_log: RankLog, folder: Path) -> None:
    """Open the first rank's file as soon as the folder is there; the others are told later."""
    rank_log.open(folder)


@contextmanager
def rank_log() -> Iterator[RankLog]:
    """Keep what this rank says, warnings and the traceback of what ends it included."""
    file = RankLog()
    shown = warnings.showwarning

    def show(message: Any, category: Any, name: str, line: int, *rest: Any) -> None:
        file_only.warning(warnings.formatwarning(message, category, name, line).rstrip())
        if is_first_rank():
            shown(message, category, name, line, *rest)

    warnings.showwarning = show  # type: ignore[assignment]  # as the standard library's own logging
    file_only.info("process %d of %s begins: %s", os.getpid(), platform.node(), " ".join(sys.argv))
    try:
        yield file
        file_only.info("ends")
    except BaseException:
        file_only.exception("ends with an exception")
        raise
    finally:
        warnings.showwarning = shown
        file.close()
