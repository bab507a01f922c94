"""What an output folder is being made of: a killed job goes on, another one is refused."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import write_whole

JOB_FILE = "job.json"


def open_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Begin a job in a folder, or go on with the same one.

    Args:
        folder: where its results are; made if need be.
        job: all that the results depend on, as plain values.

    Raises:
        PreparationError: the folder has the results of another job, or of something else.
    """
    require_free_or_same(folder, job)
    for leftover in folder.glob("**/*.partial"):  # of a process that was killed
        leftover.unlink()
    with write_whole(folder / JOB_FILE) as partial:
        partial.write(json.dumps(dict(job), indent=2, ensure_ascii=False).encode())


def require_free_or_same(folder: Path, job: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else, before hours are spent.

    Raises:
        PreparationError: it does.
    """
    file = folder / JOB_FILE
    if not file.exists():
        _require_free(folder)
        return
    require_same(folder, file, job)


def require_same(folder: Path, file: Path, job: Mapping[str, Any]) -> None:
    """Refuse to go on with another job than the one that a folder's job file names.

    Raises:
        PreparationError: it was another one.
    """
    before = json.loads(file.read_text())
    now = json.loads(json.dumps(dict(job)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise PreparationError(
            f"{folder} was begun with other settings or files: "
            + "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
            + ". To go on, give what was given then; else name another folder, or empty this one."
        )


def _require_free(folder: Path) -> None:
    if folder.is_file():
        raise PreparationError(f"{folder} is a file. Name a folder for the results.")
    if folder.is_dir() and any(folder.iterdir()):
        raise PreparationError(
            f"{folder} holds files that no such job began. Name an empty or a new folder."
        )


def fingerprint(parts: Iterable[object]) -> str:
    """Sum up many values in 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """A file's path, size and time of change: what tells that it is another one."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


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
