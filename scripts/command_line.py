"""Command lines of the scripts: help, errors in one line, and clean exits on signals."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from vqgan_train.system.exit_codes import SIGNAL_BASE, USER_ERROR


class Parser(argparse.ArgumentParser):
    """Argument parser that shows a script's docstring unchanged and reports errors in one line."""

    def __init__(self, description: str | None) -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=as_written)

    def add_output(self, results: str, page: str) -> None:
        """Add the option --output, which writes the results to another file than the docs.

        Args:
            results: the JSON file that is written by default.
            page: the page whose table is not updated if --output is given.
        """
        text = f"JSON file to write instead of {results}; {page} is then not updated"
        self.add_argument("--output", type=output_file, metavar="FILE", help=text)

    def error(self, message: str) -> NoReturn:
        """Print an error in one line and exit."""
        self.exit(USER_ERROR, f"Error: {message}. See --help.\n")


def count(text: str) -> int:
    """Parse an integer that must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def output_file(text: str) -> Path:
    """Parse the path of an output file; refuse a folder before hours of measuring."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file in it")
    return path


def exit_on_signals() -> None:
    """Make SIGTERM, SIGHUP and Ctrl-C raise SystemExit, so that children and folders are removed.

    By default, SIGTERM ends Python at once and leaves its child processes running.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the clean-up
    sys.stderr.write(f"{signal.Signals(number).name}: stopped.\n")
    sys.exit(SIGNAL_BASE + number)
