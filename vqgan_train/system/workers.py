"""Run a function on many tasks in worker processes, with results in the order of the tasks."""

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

MAX_WAITING_TASKS_PER_WORKER = 2
"""Tasks that are drawn ahead, so that a list of millions is never in memory."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    stored: Callable[[Task], Result | None],
    num_workers: int,
    bar: "tqdm[Any]",
    size_of: Callable[[Result], int],
) -> Iterator[Result]:
    """Call a function on each task and yield the results in the order of the tasks.

    Args:
        function: can be pickled, as can its arguments and results.
        tasks: drawn as workers become free.
        stored: returns the result of a task that was done before, or None.
        num_workers: number of processes; 0 calls the function in this process.
        bar: the progress bar, advanced by each result.
        size_of: number of steps by which a result advances the bar.
    """
    if num_workers:
        results = _results_of_workers(function, tasks, stored, num_workers)
    else:
        with_stored = ((task, stored(task)) for task in tasks)
        results = (function(task) if result is None else result for task, result in with_stored)
    for result in results:
        bar.update(size_of(result))
        yield result


def _results_of_workers(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    stored: Callable[[Task], Result | None],
    num_workers: int,
) -> Iterator[Result]:
    # Not forked, because torch has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            result = stored(task)
            waiting.append(pool.submit(function, task) if result is None else _finished(result))
            if len(waiting) > MAX_WAITING_TASKS_PER_WORKER * num_workers:
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
    """Use one thread, ignore Ctrl-C, and exit together with the parent process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A killed parent sends no message, so its workers would wait for tasks for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
