"""How long a process has been running, and the exit code with which it ends."""

import os
import signal
import time
from pathlib import Path

USER_ERROR = 2
"""The settings, the data or the machine are wrong; the message says what to change."""

LOST_RANK = 70
"""Another rank of the run exited; its own message says why."""

TIME_IS_UP = 75
"""run.max_hours is over: the state is saved, and the same command resumes the run."""

SIGNAL_BASE = 128
"""A process ended by a signal exits with this plus the signal's number, as shells count."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""Signals that schedulers send before they end a job, and Ctrl-C. A run saves its state first."""

INTERRUPTED = SIGNAL_BASE + signal.SIGINT

STOPPED = (TIME_IS_UP, *(SIGNAL_BASE + number for number in STOP_SIGNALS))
"""Exit codes of a run that was told to stop and saved its state."""


def describe_exit_code(code: int) -> str:
    """Name the signal that ended a process, or say "exit code N".

    Args:
        code: an exit code as shells count, or Python's: minus the number of the signal.
    """
    number = -code if code < 0 else code - SIGNAL_BASE
    if number in {one.value for one in signal.Signals}:
        return signal.Signals(number).name
    return f"exit code {code}"


_IMPORTED_AT = time.monotonic()
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def process_seconds() -> float:
    """Return the seconds since this process started; without /proc, since this file's import."""
    try:
        # Field 22 is the start, in clock ticks since boot; the second field may contain spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED_AT
    return uptime - int(fields[19]) / _CLOCK_TICKS
