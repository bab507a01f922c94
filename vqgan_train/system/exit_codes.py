"""Exit codes of commands and runs."""

import signal

USER_ERROR = 2
"""The settings, the data or the machine are wrong; the message says what to change."""

SOURCE_UNAVAILABLE = 69
"""A source of shards failed for longer than patience_seconds; start the same command later."""

LOST_RANK = 70
"""Another process of the run or command exited; its message, if it left one, says why."""

TIME_IS_UP = 75
"""run.max_hours is over: the state is saved, and the same command resumes the run."""

SIGNAL_BASE = 128
"""A process ended by a signal exits with this plus the signal's number, as shells count."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""Ctrl-C, and signals that schedulers send before they end a job: a run then saves its state."""

INTERRUPTED = SIGNAL_BASE + signal.SIGINT

STOPPED = (TIME_IS_UP, *(SIGNAL_BASE + number for number in STOP_SIGNALS))
"""Exit codes of a run that was told to stop and saved its state."""


def describe_exit_code(code: int) -> str:
    """Return the name of the signal that ended a process, or `exit code N` if none did.

    Args:
        code: an exit code as shells count, or Python's: minus the number of the signal.
    """
    number = -code if code < 0 else code - SIGNAL_BASE
    if number in {one.value for one in signal.Signals}:
        return signal.Signals(number).name
    return f"exit code {code}"
