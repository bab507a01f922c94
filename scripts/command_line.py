"""A script at the shell: its usage, errors in one line, and an end that leaves nothing behind."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from vqgan_train.system.processes import SIGNAL_BASE, USER_ERROR


class Parser(argparse.ArgumentParser):
    """Shows a script's docstring as it is written, and errors as the package's commands do."""

    def __init__(self, description: str | None) -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=as_written)

    def add_output(self, results: str, page: str) -> None:
        """Let results go elsewhere than into the docs.

        Args:
            results: the JSON that is written otherwise.
            page: which then keeps its table.
        """
        instead = f"JSON to write instead of {results}; then {page} stays as it is"
        self.add_argument("--output", type=output_file, metavar="FILE", help=instead)

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        self.exit(USER_ERROR, f"Error: {message}. --help shows what there is.\n")


def count(text: str) -> int:
    """Read a number of things, of which there has to be one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"has to be 1 or more, got {number}")
    return number


def output_file(text: str) -> Path:
    """Read where results go; that it cannot be written should be known before they are made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file in it")
    return path


def exit_on_signals() -> None:
    """Let SIGTERM, SIGHUP and Ctrl-C end the script through its `with` and `subprocess.run`.

    Python's own answer to SIGTERM is to be gone, with a child still training.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one would stop the tidying up
    sys.stderr.write(f"{signal.Signals(number).name}: ended.\n")
    sys.exit(SIGNAL_BASE + number)
