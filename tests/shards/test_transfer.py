"""A transfer is given up when too little comes for too long, and not before."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vqgan_train.shards.remote import transfer
from vqgan_train.shards.remote.transfer import TransferError


def wait(
    monkeypatch: pytest.MonkeyPatch, progress: Callable[[float], float], *, ends_at: float
) -> float:
    """Wait for a process by a clock of its own, with a limit of 10 units in 3 s.

    Args:
        monkeypatch: replaces clock and process.
        progress: what has come after so many seconds.
        ends_at: second in which the process ends.

    Returns:
        The second in which the waiting has ended.
    """
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(transfer, "time", clock)
    monkeypatch.setattr(os, "waitid", lambda *_: None if now < ends_at else "ended")
    process: Any = SimpleNamespace(pid=1)
    try:
        transfer._wait(process, lambda: progress(now), min_progress=10, stall_seconds=3)
    except TransferError as error:
        raise TransferError(f"{error}; after {now:.0f} s") from None
    return now


def test_what_is_slow_but_comes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, lambda now: 4 * now, ends_at=100) == pytest.approx(100, abs=0.1)


def test_what_comes_in_pieces_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def piece_by_piece(now: float) -> float:
        return 10 * (now // 2.5)

    assert wait(monkeypatch, piece_by_piece, ends_at=100) == pytest.approx(100, abs=0.1)


def test_what_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransferError, match="next to nothing arrived in 3 s; after 3 s"):
        wait(monkeypatch, lambda now: 3 * now, ends_at=100)


def test_what_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransferError, match="after 23 s"):
        wait(monkeypatch, lambda now: 20 * min(now, 20), ends_at=100)
