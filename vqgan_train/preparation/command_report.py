"""Reports of the preparation commands: printed lines that are also saved beside the results."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vqgan_train.system.addresses import redact
from vqgan_train.system.files import write_atomically

MAX_COUNTS = 8
"""Counts that a line or a list shows; the others are summed up."""

NAME_WIDTH = 18


def report_line(name: str, value: object) -> str:
    """Format one line: a name, then its value in a column of its own."""
    return f"{name:<{NAME_WIDTH}}{value}"


def format_counts(counts: Counter[str]) -> str:
    """Join the most frequent entries: `12 x .txt, 1 x .csv and 3 other kinds`."""
    shown = [f"{count} x {name}" for name, count in counts.most_common(MAX_COUNTS)]
    num_others = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {num_others} other kinds" if num_others > 0 else "")


def publish_report(output: Path, lines: Sequence[str]) -> None:
    """Print a report and save it as report.txt in the output folder."""
    write_lines(output / "report.txt", lines)
    sys.stdout.write(redact("\n".join(lines)) + "\n")


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write lines of text to a file; return its path."""
    with write_atomically(path) as file:
        file.writelines(f"{redact(text)}\n".encode("utf-8", "backslashreplace") for text in lines)
    return path
