"""Loader workers and the signals that are meant for the run."""

import os
import signal
from types import FrameType


def leave_signals_to_the_run(_worker: int) -> None:
    """Let a worker outlive what a terminal or a scheduler sends to the whole process group.

    The run still needs its workers for the step at which it saves. Their end comes from the run:
    they are told, or get a second SIGTERM, or see that it is gone.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)


def _end_next_time(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
