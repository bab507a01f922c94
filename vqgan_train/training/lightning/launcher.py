"""Launching of ranks on one machine by the first rank, and their exit when one of them fails."""

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
from torch import Tensor
from torch.distributed import ReduceOp

from vqgan_train.system.exit_codes import LOST_RANK, STOPPED, describe_exit_code

log = logging.getLogger(__name__)

PARENT_VARIABLE = "VQGAN_TRAIN_FIRST_RANK"
"""Environment variable with the first rank's process id, set for the ranks that it starts."""

THREADS_VARIABLE = "OMP_NUM_THREADS"

GRACE_SECONDS = 20.0
"""Time for ranks to report a lost peer and exit by themselves, before they are killed."""

POLL_SECONDS = 0.5
EXIT_CODE_SECONDS = 2.0
"""Longest wait for a failed rank's exit code; its connections close a little before it exits."""


class RankStrategy(DDPStrategy):
    """DDP whose first rank starts the others with a given command.

    Lightning would repeat sys.argv, which in a sweep starts the whole sweep, and in a submitit job
    is submitit's own command.

    Args:
        command: the command that starts a rank; None repeats that of this process.
        options: keyword arguments of `DDPStrategy`.
    """

    def __init__(self, command: Sequence[str] | None, **options: Any) -> None:
        super().__init__(**options)
        self.command = command

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = RankLauncher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.command = self.command

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Average, sum or otherwise combine a tensor over ranks; other values are returned as is.

        Lightning's own method enters a barrier first. NCCL's barrier blocks the host until the
        GPU has finished all work before it, so that one in every step would cost the overlap of
        loading and computing.
        """
        if not isinstance(tensor, Tensor):
            return tensor
        is_mean = reduce_op in ("mean", "avg")
        name = "sum" if is_mean else reduce_op
        op = getattr(ReduceOp, name.upper()) if isinstance(name, str) else name
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, op=op, group=group)
        return total / self.world_size if is_mean else total


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks on this machine, and ends all ranks when one of them fails."""

    command: Sequence[str] | None = None
    """The command that starts a rank; None repeats that of this process."""

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start the other ranks, unless they are started already; then call `function`."""
        if not self.cluster_environment.creates_processes_externally:
            self._start_ranks()
        try:
            return function(*args, **kwargs)
        except Exception:
            log_failed_ranks(self.procs)
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
    """Divide this machine's cores among its ranks, unless OMP_NUM_THREADS is set.

    Undivided, each rank would use as many threads as there are cores, and these would compete.
    """
    if THREADS_VARIABLE not in os.environ:
        threads = max(len(os.sched_getaffinity(0)) // num_processes, 1)
        os.environ[THREADS_VARIABLE] = str(threads)
        torch.set_num_threads(threads)  # this rank read the variable at its start


def watch_ranks(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Kill all ranks and exit this process, `GRACE_SECONDS` after one of them failed.

    Returns once all ranks have ended without failing. A rank that waits in a collective operation
    for a dead one may hang for half an hour, and an exception cannot interrupt it.

    Args:
        ranks: processes of the ranks 1, 2, ...
    """
    while not _failed(ranks):
        if all(process.poll() is not None for process in ranks):
            return
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    log_failed_ranks(ranks)
    for process in ranks:
        process.kill()
    _exit_as_lost("Another rank has failed")


def log_failed_ranks(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Log failed ranks and their exit codes; wait up to `EXIT_CODE_SECONDS` for the first."""
    deadline = time.monotonic() + EXIT_CODE_SECONDS
    while ranks and not _failed(ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    for rank, code in _failed(ranks):
        log.error("Rank %d has ended with %s.", rank, describe_exit_code(code))


def _failed(ranks: Sequence["subprocess.Popen[bytes]"]) -> list[tuple[int, int]]:
    """List rank and exit code of each process that ended neither well nor by a graceful stop."""
    codes = {rank: process.poll() for rank, process in enumerate(ranks, start=1)}
    return [(rank, code) for rank, code in codes.items() if code and code not in STOPPED]


def exit_with_first_rank() -> None:
    """Watch the first rank if it started this process, and exit soon after it has ended."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    threading.Thread(target=_follow, args=(int(parent),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    _exit_as_lost("The first rank has ended")


def _exit_as_lost(reason: str) -> None:
    """Log `reason` and exit at once; an exception cannot interrupt a collective operation."""
    log.error("%s. This rank still waits for it after %.0f s, and exits.", reason, GRACE_SECONDS)
    logging.shutdown()
    os._exit(LOST_RANK)


@contextmanager
def restore_process_state() -> Iterator[None]:
    """Undo a run's changes to environment, threads and process group for a sweep's next run."""
    before = dict(os.environ)
    threads = torch.get_num_threads()
    try:
        yield
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except SystemExit as stop:
        # Ranks that stop gracefully exit together, because launchers kill the others once one has
        # exited, and the first rank may still be uploading.
        if stop.code in STOPPED and torch.distributed.is_initialized():
            torch.distributed.barrier()
        raise
    finally:
        torch.set_num_threads(threads)
        for added in os.environ.keys() - before.keys():
            del os.environ[added]
        os.environ |= before
