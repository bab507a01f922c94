"""Many tasks on a few processes, with a progress bar; what they return comes in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

import torch
from tqdm import tqdm

Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING_TASKS_A_WORKER = 2
"""Tasks that are made ahead of time: a list of millions is never in memory."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    stored: Callable[[Task], Result | None],
    num_workers: int,
    bar: "tqdm[Any]",
    size_of: Callable[[Result], int],
) -> Iterator[Result]:
    """Call a function on each task; give the results in the order of the tasks.

    Args:
        function: known by name to other processes, as are its arguments and results.
        tasks: drawn as they are needed.
        stored: finds the result of a task that was done before; None: it was not.
        num_workers: processes; 0 works in this one.
        bar: the progress bar, moved by each result.
        size_of: how far a result moves it.
    """
    if num_workers:
        results = _results(function, tasks, stored, num_workers)
    else:
        found = ((task, stored(task)) for task in tasks)
        results = (function(task) if result is None else result for task, result in found)
    for result in results:
        bar.update(size_of(result))
        yield result


def _results(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    stored: Callable[[Task], Result | None],
    num_workers: int,
) -> Iterator[Result]:
    # Not forked: torch has threads. A process is started when there is a task for it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            result = stored(task)
            waiting.append(pool.submit(function, task) if result is None else _finished(result))
            if len(waiting) > WAITING_TASKS_A_WORKER * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _start_worker() -> None:
    """Set up a worker: one thread, deaf to Ctrl-C, gone when its parent is."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A parent that was killed tells nobody, and its workers would wait for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
