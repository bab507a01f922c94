"""How a process ended, in a number: what schedulers and scripts go by."""

import signal

USER_ERROR = 2
"""The settings, the data or the machine are at fault; the message says what to change."""

LOST_RANK = 70
"""Another rank of the run has ended; that one says why."""

TIME_IS_UP = 75
"""run.max_hours: the state is saved, and the same command goes on."""

SIGNAL_BASE = 128
"""A process that a signal ended exits with this plus the signal's number, as shells count."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""What schedulers send before they end a job, and Ctrl-C: the state is saved."""

INTERRUPTED = SIGNAL_BASE + signal.SIGINT

STOPPED = (TIME_IS_UP, *(SIGNAL_BASE + number for number in STOP_SIGNALS))
"""Codes of a run that saved its state because it was told to stop."""


def in_words(code: int) -> str:
    """What an exit code, or of Python's subprocess the negative number of a signal, means."""
    number = -code if code < 0 else code - SIGNAL_BASE
    if number in {one.value for one in signal.Signals}:
        return signal.Signals(number).name
    return f"exit code {code}"
