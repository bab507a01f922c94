"""Count and name images that cannot be read, and stop a command at too many of them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from vqgan_train.system.errors import ShardError, UserError

MIN_COUNT = 100
"""Smaller totals count as this many, because one bad image of ten is no reason to stop."""

MAX_NAMED = 20
"""Most bad images that a command names while it runs; encode's output folder names all."""


def are_too_many(bad: int, total: int, max_fraction: float) -> bool:
    """Return whether `bad` is more than `max_fraction` of `total`; less than 100 counts as 100.

    This is the rule of `max_bad_fraction` in every command.
    """
    return bad > max_fraction * max(total, MIN_COUNT)


def require_few_dead(
    dead: Sequence[str], num_shards: int, max_fraction: float, setting: str = "max_bad_fraction"
) -> None:
    """Refuse to start if too many shards are dead, which means that nothing in them can be read.

    Raises:
        ShardError: too many are dead; the message names `setting`, and quotes the first of `dead`.
    """
    if are_too_many(len(dead), num_shards, max_fraction):
        raise ShardError(
            f"{len(dead)} of {num_shards} shards hold nothing to read, more than "
            f"{setting}={max_fraction} allows. The first: {dead[0]}"
        )


@dataclass(slots=True)
class ChunkReport:
    """Counts of the samples of one chunk, or of several."""

    seen: int = 0
    encoded: int = 0
    without_caption: int = 0
    bad: list[str] = field(default_factory=list)
    """Name of each unreadable image, with the reason."""

    def add(self, other: "ChunkReport") -> None:
        """Add another chunk's counts to these."""
        self.seen += other.seen
        self.encoded += other.encoded
        self.without_caption += other.without_caption
        self.bad += other.bad


class BadImages:
    """Counts readable and unreadable images, and stops the command at too many unreadable ones.

    Args:
        before: counts of the chunks that earlier starts of the command have finished.
        max_fraction: fraction of the images seen that may be bad, see `are_too_many`.
        bar: progress bar; the first bad images are named above it.
        remedy: advice to the user who has too many bad images.
    """

    def __init__(
        self, before: ChunkReport, max_fraction: float, bar: "tqdm[Any]", remedy: str
    ) -> None:
        self.seen, self.bad = before.seen, len(before.bad)
        self.max_fraction = max_fraction
        self.bar = bar
        self.remedy = remedy
        self._named = 0

    def count(self, report: ChunkReport) -> None:
        """Add a batch's counts, and name its bad images above the bar, up to MAX_NAMED in all.

        Raises:
            UserError: there are too many bad images.
        """
        for name in report.bad[: MAX_NAMED - self._named]:
            self.bar.write(f"cannot be read: {name}", file=sys.stderr)
            self._named += 1
        self.seen += report.seen
        self.bad += len(report.bad)
        if report.bad:
            self.require_few(f"The last: {report.bad[-1]}.")

    def require_few(self, example: str) -> None:
        """Check that not too many of the counted images are bad.

        Args:
            example: sentence of the message that names a bad image, or says where they are named.

        Raises:
            UserError: there are too many bad images.
        """
        if are_too_many(self.bad, self.seen, self.max_fraction):
            raise UserError(
                f"{self.bad} of {self.seen} images could not be read, more than "
                f"max_bad_fraction={self.max_fraction} allows. {example} {self.remedy}"
            )
