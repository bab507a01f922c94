"""Images that cannot be read: counted, named, and the end of the command when too many."""

import sys
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from vqgan_train.images.sources import Damage
from vqgan_train.system.errors import TokenError


@dataclass(slots=True)
class PartReport:
    """What became of the samples of one part, or of many."""

    seen: int = 0
    encoded: int = 0
    without_caption: int = 0
    bad: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    def add(self, other: "PartReport") -> None:
        """Count in another part."""
        self.seen += other.seen
        self.encoded += other.encoded
        self.without_caption += other.without_caption
        self.bad += other.bad


NAMED_AT_MOST = 20
"""Images that are named as soon as they could not be read; the folder's ledger names all."""


def require_few_dead(damage: Damage, max_fraction: float) -> None:
    """Refuse to begin without a large part of the shards.

    Raises:
        TokenError: of too many nothing is left; so many as a fraction of all, or of 100.
    """
    dead = damage.dead
    if len(dead) > max_fraction * max(damage.shards, 100):
        raise TokenError(
            f"{len(dead)} of {damage.shards} shards hold nothing to read, more than "
            f"max_bad_fraction={max_fraction} allows. The first: {dead[0]}"
        )


class BadImages:
    """Counts what could be read and what not.

    Args:
        before: what became of the samples of parts that are done.
        max_fraction: of the images seen, once that are 100; beyond it the command stops.
        bar: the first ones are named above it.
        remedy: what to do where there are too many.
    """

    def __init__(
        self, before: PartReport, max_fraction: float, bar: "tqdm[Any]", remedy: str
    ) -> None:
        self.seen, self.bad = before.seen, len(before.bad)
        self.max_fraction = max_fraction
        self.bar = bar
        self.remedy = remedy
        self._named = 0

    def count(self, report: PartReport) -> None:
        """Take in some more.

        Raises:
            TokenError: there are too many.
        """
        for name in report.bad[: NAMED_AT_MOST - self._named]:
            self.bar.write(f"cannot be read: {name}", file=sys.stderr)
            self._named += 1
        self.seen += report.seen
        self.bad += len(report.bad)
        if report.bad:
            self.require_few(f"The last: {report.bad[-1]}.")

    def require_few(self, which: str) -> None:
        """Compare what was counted with what is allowed.

        Args:
            which: names some, or says where they are named.

        Raises:
            TokenError: there are too many.
        """
        if self.bad > self.max_fraction * max(self.seen, 100):
            raise TokenError(
                f"{self.bad} of {self.seen} images could not be read, more than "
                f"max_bad_fraction={self.max_fraction} allows. {which} {self.remedy}"
            )
