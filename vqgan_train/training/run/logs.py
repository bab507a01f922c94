"""Logging: a file for each rank; the console shows the first rank's messages and all errors."""

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

from vqgan_train.system.addresses import redact


class RedactedFormatter(logging.Formatter):
    """Removes secrets from messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text that may be shown."""
        return redact(super().format(record))


def configure_logging() -> None:
    """Send the first rank's log to the terminal, and silence advice that does not apply.

    Other ranks only show their errors.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RedactedFormatter("%(message)s"))
    handler.setLevel(logging.INFO if is_first_rank() else logging.ERROR)
    package = logging.getLogger("vqgan_train")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)  # each rank also has a file of its own
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for shown in logger.handlers:
            shown.setLevel(logging.WARNING if is_first_rank() else logging.ERROR)
    # Lightning 2.6 checks isinstance(treespec, LeafSpec), which torch 2.14 deprecates.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # Shown wherever Slurm is installed; system/launch.py checks whether srun is needed.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # The progress bar shows the time spent waiting for data, which tells whether to add workers.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The module itself has summed what it logs in validation over the ranks.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # torch 2.14 deprecates broadcast_buffers=False, but has no other way yet to stop the broadcast.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")


def is_first_rank() -> bool:
    """Return whether this process is rank 0, which logs to the console and writes the files."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


LOGS = "logs"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ROOTS = ("vqgan_train", "vqgan_train-file", "pytorch_lightning", "lightning_fabric", "torch")
MAX_BUFFERED = 10_000
"""Capacity of the buffer that keeps messages until the run's folder, and so the file, is known."""

file_only = logging.getLogger("vqgan_train-file")
"""Logger for messages that go to the file only, because the console shows them in another way."""
file_only.propagate = False
file_only.setLevel(logging.INFO)


class RankLog:
    """Log file of this rank, and a buffer for messages from before its folder is known."""

    def __init__(self) -> None:
        self._kept = MemoryHandler(MAX_BUFFERED, flushLevel=logging.CRITICAL + 1, flushOnClose=True)
        self._file: logging.FileHandler | None = None
        for name in ROOTS:
            logging.getLogger(name).addHandler(self._kept)

    def open(self, folder: Path) -> None:
        """Write all messages, buffered ones first, to `logs/rank_<rank>.log` in the folder."""
        if self._file is not None:
            return
        path = folder / LOGS / f"rank_{getattr(rank_zero_only, 'rank', 0)}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = logging.FileHandler(path, delay=False)
        self._file.setFormatter(RedactedFormatter(FORMAT))
        self._kept.setTarget(self._file)
        self._kept.flush()
        self._kept.capacity = 1  # each message goes on at once

    @property
    def place(self) -> str:
        """Pattern of all ranks' files, for messages."""
        folder = Path(self._file.baseFilename).parent if self._file else Path(LOGS)
        return str(folder / "rank_*.log")

    def close(self) -> None:
        """Close the file and remove the handlers."""
        for name in ROOTS:
            logging.getLogger(name).removeHandler(self._kept)
        self._kept.close()
        if self._file is not None:
            self._file.close()


@contextmanager
def rank_log() -> Iterator[RankLog]:
    """Log this rank's messages, warnings, and the traceback of the exception that ends it."""
    file = RankLog()
    shown = warnings.showwarning

    def show(message: Any, category: Any, name: str, line: int, *rest: Any) -> None:
        file_only.warning(warnings.formatwarning(message, category, name, line).rstrip())
        if is_first_rank():
            shown(message, category, name, line, *rest)

    warnings.showwarning = show  # type: ignore[assignment]  # as the standard library's own logging
    file_only.info("process %d on %s begins: %s", os.getpid(), platform.node(), " ".join(sys.argv))
    try:
        yield file
        file_only.info("the process ends")
    except BaseException:
        file_only.exception("the process ends with an exception")
        raise
    finally:
        warnings.showwarning = shown
        file.close()
