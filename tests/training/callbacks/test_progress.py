"""The progress bar in a terminal and in a log file."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_config

from vqgan_train.training.callbacks import progress
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")

BAR = re.compile(
    r"(?:training|validating): +\d+%\|.*\| (?P<step>\d+)/4 \[\d\d:\d\d<(?:\d\d:\d\d|\?),"
    r" +[\d.?]+ ?(?:s/step|step/s)(?P<metrics>, loss \d+\.\d{3}, [\d.]+ images/s)?\]"
)


def test_a_log_file_gets_whole_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FILE_SECONDS", 0.0)
    train(tiny_config(tmp_path))
    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b" not in err
    found = [BAR.fullmatch(line.strip()) for line in err.splitlines()]
    assert all(found), err
    assert {match["step"] for match in found if match} == {"0", "1", "2", "3", "4"}
    assert all(match["metrics"] for match in found if match and match["step"] != "0")


def test_a_log_file_gets_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_config(tmp_path, "run.max_steps=8", "run.val_every_steps=99"))
    assert len(capsys.readouterr().err.splitlines()) <= 6


def test_a_terminal_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    received: list[bytes] = []
    reader = threading.Thread(target=read_until_closed, args=(master, received))
    reader.start()
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    with open(slave, "w") as terminal:  # noqa: PTH123 - a file descriptor
        monkeypatch.setattr(sys, "stderr", terminal)
        train(tiny_config(tmp_path))
    reader.join(timeout=10)
    os.close(master)
    text = b"".join(received).decode()
    states = [state.strip() for state in text.split("\r") if state.strip()]
    assert len(states) > 4
    assert all(BAR.match(state) for state in states), states
    assert all(len(state) <= 120 for state in states)
    # The bar writes one line feed, when it is closed.
    assert text.count("\n") == 1


def read_until_closed(master: int, received: list[bytes]) -> None:
    while True:
        try:
            received.append(os.read(master, 4096))
        except OSError:  # what a terminal raises when nobody has it open any more
            return


def test_the_bar_is_closed_before_an_error_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[progress.tqdm[None]] = []

    class Remembered(progress.tqdm):  # type: ignore[type-arg]  # it has none at run time
        def __init__(self, **options: Any) -> None:
            opened.append(self)
            super().__init__(**options)

    def fail(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(progress, "tqdm", Remembered)
    monkeypatch.setattr("vqgan_train.training.lightning.module.VQGANModule.training_step", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        train(tiny_config(tmp_path))
    assert "Stopped at step 0; nothing was saved yet" in capsys.readouterr().out
    assert [bar.disable for bar in opened] == [True]  # what closing leaves behind


def test_a_resumed_run_shows_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1"))
    capsys.readouterr()
    train(tiny_config(tmp_path, "run.max_steps=2"))
    first = capsys.readouterr().err.splitlines()[0]
    assert " 1/2 [" in first
