"""Run a function on many tasks in worker processes, with results in the order of the tasks."""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vqgan_train.system.errors import UserError
from vqgan_train.system.loader_processes import exit_if_unsendable, explain_dead_workers

Task = TypeVar("Task")
Result = TypeVar("Result")

_END = object()
"""Stands for the end of the results."""


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, num_workers: int
) -> Iterator[Result]:
    """Call a function on each task and yield the results in the order of the tasks.

    Args:
        function: called in a worker process; it, the tasks and the results must be picklable.
        tasks: drawn up to 2 x `num_workers` ahead of the result that is yielded.
        num_workers: number of worker processes; 0 calls the function in this process.

    Raises:
        UserError, OSError: `function` raised it.
        UserError: a worker process has ended, for lack of shared memory for example.
    """
    loader: DataLoader[Result | UserError | OSError] = DataLoader(
        _Results(function),
        sampler=tasks,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=num_workers,
        worker_init_fn=_begin_worker,
        pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]  # untyped there
    )
    results = iter(loader)
    while True:
        with explain_dead_workers("num_workers"):
            result = next(results, _END)
        if result is _END:
            return
        if isinstance(result, UserError | OSError):
            raise result
        yield result  # type: ignore[misc]  # not _END


class _Results(Dataset[Result | UserError | OSError], Generic[Task, Result]):
    """Dataset whose indices are the tasks and whose items are the results.

    Errors that the user can fix are returned instead of raised, because torch would put a traceback
    in place of their file and error number, and then wait in vain for its worker processes.
    """

    def __init__(self, function: Callable[[Task], Result]) -> None:
        self.function = function

    def __getitem__(self, task: Task) -> Result | UserError | OSError:
        try:
            return self.function(task)
        except (UserError, OSError) as error:
            return error


def _begin_worker(_worker: int) -> None:
    # A terminal sends Ctrl-C to all processes; the command's own process stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_if_unsendable()


def _unchanged(result: Any) -> Any:
    return result
