"""Adds up the findings of many shards and compares the shards with each other."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.preparation.check.shard_check import Kind, ShardFindings
from vqgan_train.shards.index import load_index
from vqgan_train.shards.naming import printable_name
from vqgan_train.system.errors import ShardError

MAX_EXAMPLES = 1000
"""Examples kept per kind."""

NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[^0-9]*)")
MAX_SERIES_LENGTH = 100_000
"""Numbers in file names that span more than this are dates and the like, not shard numbers."""

MAX_COPIES_NAMED = 10
MAX_NAMES_PER_COPY = 4
"""Few copies are named, because their names have to be read from the shards again."""


class Shard(NamedTuple):
    """A shard and its size."""

    path: Path
    num_images: int
    """Number of samples with an image, readable or not."""


class Findings:
    """Findings of all shards. Their memory grows by 8 bytes per sample and a little per shard."""

    def __init__(self) -> None:
        self.shards: list[Shard] = []
        self.counts: Counter[Kind] = Counter()
        self.examples: dict[Kind, list[str]] = {}
        self.shorter_sides: Counter[int] = Counter()
        self._contents: list[NDArray[np.uint64]] = []

    def add(self, shard: ShardFindings) -> None:
        """Add one shard's findings to the totals."""
        self.shards.append(Shard(shard.path, len(shard.contents)))
        self.counts.update(shard.counts)
        for kind, texts in shard.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept += texts[: MAX_EXAMPLES - len(kept)]
        self.shorter_sides.update(shard.shorter_sides)
        self._contents.append(shard.contents)

    def compare_shards(self) -> None:
        """Find missing shard numbers and copies of images. Call it after all shards are added."""
        missing = _missing_numbers([shard.path for shard in self.shards])
        self.counts[Kind.missing_number] = len(missing)
        self.examples[Kind.missing_number] = missing[:MAX_EXAMPLES]
        hashes = np.concatenate(self._contents)
        different, counts = np.unique(hashes[hashes > 0], return_counts=True)
        self.counts[Kind.same_content] = int(counts.sum()) - len(different)
        most = np.argsort(-counts, kind="stable")[:MAX_COPIES_NAMED]
        self.examples[Kind.same_content] = [
            self._names_of_copies(np.flatnonzero(hashes == value))
            for value in different[most[counts[most] > 1]]
        ]

    def _names_of_copies(self, places: NDArray[np.int64]) -> str:
        names = [self._name(int(place)) for place in places[:MAX_NAMES_PER_COPY]]
        more = len(places) - len(names)
        return " = ".join(names) + (f" and {more} more" if more else "")

    def _name(self, place: int) -> str:
        """Read the name of a sample, given its number among all samples with an image."""
        lasts = np.cumsum([shard.num_images for shard in self.shards])
        number = int(np.searchsorted(lasts, place, side="right"))
        shard = self.shards[number]
        try:
            index = load_index(shard.path)
            key = index.read(place - int(lasts[number]) + shard.num_images)["__key__"]
        except (ShardError, OSError, IndexError):  # the shard has changed since it was checked
            key = "?"
        return printable_name(f"{shard.path}/{key}")


def _missing_numbers(paths: Sequence[Path]) -> list[str]:
    """List the shards that are missing between the first and the last number of each series."""
    series: dict[tuple[Path, str, int, str], set[int]] = {}
    for path in paths:
        if match := NUMBERED.fullmatch(path.name):
            prefix, number, suffix = match.groups()
            kind = path.parent, prefix, len(number), suffix
            series.setdefault(kind, set()).add(int(number))
    return [
        str(folder / f"{prefix}{number:0{width}}{suffix}")
        for (folder, prefix, width, suffix), numbers in series.items()
        if max(numbers) - min(numbers) < MAX_SERIES_LENGTH
        for number in range(min(numbers), max(numbers))
        if number not in numbers
    ]
