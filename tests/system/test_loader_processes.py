"""Loader processes that cannot send their results, or die, end the command in words."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from vqgan_train.system import loader_processes
from vqgan_train.system.errors import UserError
from vqgan_train.system.loader_processes import explain_dead_workers, require_shared_memory
from vqgan_train.system.workers import run_tasks


class Unsendable:
    """A result that cannot be pickled, for the reason that its task gives."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> str:
        raise OSError(self.number, os.strerror(self.number))


def kill_self(number: int) -> torch.Tensor:
    os.kill(os.getpid(), number)
    return torch.zeros(1)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "/dev/shm is full"),
        (errno.EMFILE, "there are too many open files"),
        (errno.EIO, "it could not send a result"),
    ],
)
def test_a_result_that_cannot_be_sent_is_no_hang(number: int, said: str) -> None:
    with pytest.raises(UserError, match=rf"\({said}.*--shm-size.*lower num_workers"):
        list(run_tasks(Unsendable, [number], num_workers=1))


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGBUS, "Bus error"), (signal.SIGKILL, "Killed")]
)
def test_a_worker_that_is_killed_is_no_hang(number: int, said: str) -> None:
    with pytest.raises(UserError, match=rf"killed by signal: {said}.*--shm-size"):
        list(run_tasks(kill_self, [int(number)], num_workers=1))


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="a defect"), explain_dead_workers("num_workers"):
        raise RuntimeError("a defect")


def test_a_small_shared_memory_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_bavail=16_000, f_frsize=4096)
    monkeypatch.setattr(loader_processes.os, "statvfs", lambda _: status)
    require_shared_memory(16_000 * 4096, "data.num_workers")
    with pytest.raises(UserError, match=r"take 65.5 MB, but /dev/shm has 65.5 MB left.*--shm-size"):
        require_shared_memory(16_000 * 4096 + 1, "data.num_workers")
