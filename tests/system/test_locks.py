"""Locks between processes: who waits is told, and nobody waits for one who is gone."""

import errno
import fcntl
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vqgan_train.system.locks import file_lock

HOLD = """
import sys, time
from pathlib import Path
from vqgan_train.system.locks import file_lock
with file_lock(Path(sys.argv[1]), "testing"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_wait_is_said_and_a_killed_holder_ends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(TimeoutError, match="another process"),
            file_lock(path, "testing", timeout=0.3, say_after=0.1),
        ):
            pass
        assert caplog.messages == [
            f"Waiting for another process that is testing (it holds {path})."
        ]
        holder.kill()
    with file_lock(path, "testing", timeout=60) as has_locks:
        assert has_locks
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_nobody_waits(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "a.lock"
    path.touch()  # as one who was killed leaves it
    with file_lock(path, "testing") as first, file_lock(path, "testing") as second:
        assert not first
        assert not second


def test_one_at_a_time_is_inside_although_the_file_is_removed(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with file_lock(tmp_path / "a.lock", "testing"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
