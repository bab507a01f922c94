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

from vqgan_train.system.errors import LostRankError, first_line
from vqgan_train.system.process_group import CONNECTION_LOST, is_of_lost_rank


def configure_logging() -> None:
    """Send our log to the terminal, from the first rank only, and hush Lightning's advice."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if is_first_rank() else logging.ERROR)
    package = logging.getLogger("vqgan_train")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)  # each rank has a file of its own, too
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for shown in logger.handlers:
            shown.setLevel(logging.WARNING if is_first_rank() else logging.ERROR)
    # Lightning 2.6 asks torch 2.14 in a way that later versions will not answer.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # Wherever Slurm is installed, used or not; what matters of it system/processes.py checks.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # The progress bar shows the loader's wait; a general advice for more workers helps no CPU.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # What is logged in validation was summed over ranks by the module itself.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # torch 2.14 deprecates switching it off, which is still the only way to do without.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")


def is_first_rank() -> bool:
    """Whether this process speaks and writes for all."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


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


@contextmanager
def lost_ranks_named(rank_log: RankLog) -> Iterator[None]:
    """Say that another rank is gone, instead of what the connection to it noticed.

    Args:
        rank_log: this rank's; the others' lie beside it.

    Raises:
        LostRankError: one is.
    """
    try:
        yield
    except Exception as error:
        if not is_of_lost_rank(error):
            raise
        raise LostRankError(
            "Another rank of the run is gone, so this one ends, too. Why it went is said by that "
            f"rank: above, or at the end of its log among {rank_log.place}; one that was "
            "killed says nothing (out of memory?). The same command goes on from the newest "
            f"checkpoint.{_notice(error)}"
        ) from error


def _notice(error: Exception) -> str:
    """What else it may be, where no connection ended: an address that is taken, say."""
    if CONNECTION_LOST.search(str(error)):
        return ""
    return f" What this rank noticed: {first_line(error)[:300]}"
