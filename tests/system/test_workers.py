"""Worker processes: results in order, few tasks drawn ahead, no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from vqgan_train.system.workers import MAX_WAITING_TASKS_PER_WORKER, run_tasks


def double(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    time.sleep(0.02 * (number % 3))
    return 2 * number


def stored(number: int) -> int | None:
    return 1000 + number if number % 5 == 0 else None


def run(tasks: Iterator[int], num_workers: int) -> Iterator[int]:
    bar = tqdm(disable=True)
    return run_tasks(
        double, tasks, stored=stored, num_workers=num_workers, bar=bar, size_of=lambda _: 1
    )


EXPECTED = [1000 + n if n % 5 == 0 else 2 * n for n in range(20)]


def test_results_come_in_order_and_what_is_stored_is_not_done_again() -> None:
    assert list(run(iter(range(20)), 0)) == EXPECTED


def test_processes_give_the_same_and_take_tasks_as_they_need_them() -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for number in (*range(20), -1):
            drawn.append(number)
            yield number

    results = run(tasks(), 1)
    assert next(results) == EXPECTED[0]
    assert len(drawn) == MAX_WAITING_TASKS_PER_WORKER + 1
    assert [next(results) for _ in range(19)] == EXPECTED[1:]
    with pytest.raises(ValueError, match="-1 is negative"):
        next(results)


PARENT = """
import sys
sys.path.insert(0, {folder!r})
from test_workers_child import forever
from tqdm import tqdm
from vqgan_train.system.workers import run_tasks
if __name__ == "__main__":
    list(run_tasks(forever, range(4), stored=lambda _: None, num_workers=2, bar=tqdm(disable=True),
        size_of=int))
"""
CHILD = """
import os, pathlib, time
def forever(number):
    pathlib.Path(__file__).with_name(f"pid{number}").write_text(str(os.getpid()))
    time.sleep(3600)
"""


@pytest.mark.slow
def test_workers_leave_when_their_parent_was_killed(tmp_path: Path) -> None:
    (tmp_path / "test_workers_child.py").write_text(CHILD)
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[2])
    files = [tmp_path / "pid0", tmp_path / "pid1"]
    assert soon(lambda: all(file.exists() and file.read_text() for file in files))
    workers = [int(file.read_text()) for file in files]
    assert all(is_running(worker) for worker in workers)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert soon(lambda: not any(is_running(worker) for worker in workers))


def soon(holds: object) -> bool:
    for _ in range(600):
        if holds():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
