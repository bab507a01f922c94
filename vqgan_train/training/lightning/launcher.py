"""The first rank starts the others on its machine, and none outlives another's failure."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from vqgan_train.system.processes import LOST_RANK, STOPPED, in_words
from vqgan_train.training.run.folder import OUTPUT_DIR_VARIABLE

log = logging.getLogger(__name__)

PARENT_VARIABLE = "VQGAN_TRAIN_FIRST_RANK"
"""Tells the ranks that the first one starts which process that is."""

THREADS_VARIABLE = "OMP_NUM_THREADS"

VARIABLES = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
    THREADS_VARIABLE,
    PARENT_VARIABLE,
    OUTPUT_DIR_VARIABLE,
)
"""What a run leaves in the environment for the ranks that it starts."""

SECONDS_TO_END = 20.0
"""So long ranks may take to notice by themselves that another is gone, and to say so."""

WATCH_SECONDS = 0.5
SECONDS_TO_BE_SEEN = 2.0


class RankStrategy(DDPStrategy):
    """DDP whose first rank starts the others with a command that is given.

    Lightning would repeat sys.argv, which in a sweep is all of the sweep, and in a job of submitit
    is submitit's own.

    Args:
        command: starts one rank; None: what Lightning makes of sys.argv.
        options: of DDP.
    """

    def __init__(self, command: Sequence[str] | None, **options: Any) -> None:
        super().__init__(**options)
        self.command = command

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = RankLauncher(
            self.cluster_environment, self.num_processes, self.num_nodes, self.command
        )


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks of a machine, and ends the run when one of them fails.

    Args:
        environment: Lightning's.
        num_processes: a node.
        num_nodes: of the run.
        command: starts one rank; None: what Lightning makes of sys.argv.
    """

    def __init__(
        self, environment: Any, num_processes: int, num_nodes: int, command: Sequence[str] | None
    ) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self.command = command

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start what is not started yet, then do this rank's part."""
        if not self.cluster_environment.creates_processes_externally:
            self._start_ranks()
        try:
            return function(*args, **kwargs)
        except Exception:
            name_failed(self.procs)
            raise

    def _start_ranks(self) -> None:
        os.environ |= {
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
            PARENT_VARIABLE: str(os.getpid()),
        }
        share_cores(self.num_processes)
        command = self.command or [sys.executable, *sys.orig_argv[1:]]
        self.procs = [
            subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]
        threading.Thread(target=watch_ranks, args=(self.procs,), daemon=True).start()


def share_cores(num_processes: int) -> None:
    """Give each rank of this machine its share of the cores, unless OMP_NUM_THREADS says how many.

    Each would else compute with as many threads as there are cores, and they would wait for each
    other.
    """
    if THREADS_VARIABLE not in os.environ:
        threads = max(len(os.sched_getaffinity(0)) // num_processes, 1)
        os.environ[THREADS_VARIABLE] = str(threads)
        torch.set_num_threads(threads)  # this rank has started with another number


def watch_ranks(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process, and all ranks, some time after one of them has failed.

    A rank that waits for a dead one in a collective may do so for half an hour, deaf to exceptions.
    """
    while not _failed(ranks):
        if all(process.poll() is not None for process in ranks):
            return
        time.sleep(WATCH_SECONDS)
    time.sleep(SECONDS_TO_END)
    name_failed(ranks)
    for process in ranks:
        process.kill()
    log.error("This rank still waited for it after %.0f s, and ends.", SECONDS_TO_END)
    logging.shutdown()
    os._exit(LOST_RANK)


def name_failed(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Say which ranks have failed, if one does in a moment: connections close a little before."""
    end = time.monotonic() + SECONDS_TO_BE_SEEN
    while ranks and not _failed(ranks) and time.monotonic() < end:
        time.sleep(0.1)
    for rank, code in _failed(ranks):
        log.error("Rank %d has ended with %s.", rank, in_words(code))


def _failed(ranks: Sequence["subprocess.Popen[bytes]"]) -> list[tuple[int, int]]:
    """Numbers and exit codes of the ranks that have ended otherwise than they should."""
    codes = {number: process.poll() for number, process in enumerate(ranks, start=1)}
    return [(number, code) for number, code in codes.items() if code and code not in STOPPED]


def follow_first_rank() -> None:
    """End this process when the one that has started it as a rank is gone."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    threading.Thread(target=_follow, args=(int(parent),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    time.sleep(SECONDS_TO_END)
    log.error("The first rank is gone. This one still waited for it, and ends.")
    logging.shutdown()
    os._exit(LOST_RANK)


@contextmanager
def restore_process_state() -> Iterator[None]:
    """Leave the process as it was: in a sweep, the next run in it starts ranks of its own."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    threads = torch.get_num_threads()
    try:
        yield
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except SystemExit as stop:
        # Ranks that were told to stop leave together: launchers end those that stay behind, and
        # the first rank may still have something to upload.
        if stop.code in STOPPED and torch.distributed.is_initialized():
            torch.distributed.barrier()
        raise
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
