"""What many shards hold together: totals, and what occurs in more than one of them."""

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

MOST_EXAMPLES = 1000
"""Names kept of each kind."""

NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[^0-9]*)")
MOST_OF_A_SERIES = 100_000
"""Numbers further apart than this are dates and the like, not those of shards."""

COPIES_NAMED = 10
MOST_NAMES_OF_A_COPY = 4
"""Names that are looked up of what occurs more than once: only hashes were kept."""


class Shard(NamedTuple):
    """What is kept of each shard."""

    path: Path
    num_bytes: int
    num_images: int
    """Samples with an image, whether it can be read or not."""


class Findings:
    """Grows by 16 bytes a sample, and by a few numbers a shard."""

    def __init__(self) -> None:
        self.shards: list[Shard] = []
        self.counts: Counter[Kind] = Counter()
        self.examples: dict[Kind, list[str]] = {}
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.shorter_sides: Counter[int] = Counter()
        self._keys: list[NDArray[np.uint64]] = []
        self._contents: list[NDArray[np.uint64]] = []

    def add(self, shard: ShardFindings) -> None:
        """Take in another shard."""
        self.shards.append(Shard(shard.path, shard.num_bytes, len(shard.keys)))
        self.counts.update(shard.counts)
        for kind, names in shard.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept += names[: MOST_EXAMPLES - len(kept)]
        self.formats.update(shard.formats)
        self.modes.update(shard.modes)
        self.shorter_sides.update(shard.shorter_sides)
        self._keys.append(shard.keys)
        self._contents.append(shard.contents)

    def compare_shards(self) -> None:
        """Find what more than one shard has, once all are in."""
        missing = _missing_numbers([shard.path for shard in self.shards])
        self.counts[Kind.missing_number] = len(missing)
        self.examples[Kind.missing_number] = missing[:MOST_EXAMPLES]
        self._find_copies(Kind.same_key_elsewhere, [_once(keys) for keys in self._keys])
        self._find_copies(Kind.same_content, self._contents)

    def _find_copies(self, kind: Kind, hashes_of_shards: Sequence[NDArray[np.uint64]]) -> None:
        """Count hashes that were there before, and name some, those that are most often first."""
        hashes = np.concatenate(hashes_of_shards)
        different, counts = np.unique(hashes[hashes > 0], return_counts=True)
        self.counts[kind] = int(counts.sum()) - len(different)
        most = np.argsort(-counts, kind="stable")[:COPIES_NAMED]
        for value in different[most[counts[most] > 1]]:
            places = np.flatnonzero(hashes == value)
            names = [self._name(int(place)) for place in places[:MOST_NAMES_OF_A_COPY]]
            more = len(places) - len(names)
            text = " = ".join(names) + (f" and {more} more" if more else "")
            self.examples.setdefault(kind, []).append(text)

    def _name(self, place: int) -> str:
        """Name a sample by its number among all of them."""
        lasts = np.cumsum([shard.num_images for shard in self.shards])
        number = int(np.searchsorted(lasts, place, side="right"))
        shard = self.shards[number]
        try:
            index = load_index(shard.path)
            key = index.read(place - int(lasts[number]) + shard.num_images)["__key__"]
        except (ShardError, OSError, IndexError):  # it has changed since
            key = "?"
        return printable_name(f"{shard.path}/{key}")


def _missing_numbers(paths: Sequence[Path]) -> list[str]:
    """Names that lie between 00000.tar and 00331.tar, and are not there."""
    series: dict[tuple[Path, str, int, str], set[int]] = {}
    for path in paths:
        if match := NUMBERED.fullmatch(path.name):
            prefix, number, suffix = match.groups()
            kind = path.parent, prefix, len(number), suffix
            series.setdefault(kind, set()).add(int(number))
    return [
        str(folder / f"{prefix}{number:0{width}}{suffix}")
        for (folder, prefix, width, suffix), numbers in series.items()
        if max(numbers) - min(numbers) < MOST_OF_A_SERIES
        for number in range(min(numbers), max(numbers))
        if number not in numbers
    ]


def _once(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Blank what was there before."""
    once = np.zeros_like(hashes)
    _, firsts = np.unique(hashes, return_index=True)
    once[firsts] = hashes[firsts]
    return once
