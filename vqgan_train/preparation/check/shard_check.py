"""Look through one shard: what training would lose, and what else is worth a word."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.preparation.check.headers import Look
from vqgan_train.shards.index import cache_index, index_listing
from vqgan_train.shards.naming import printable_name
from vqgan_train.shards.tar import IMAGE_FIELDS, Field, Listing, list_shard
from vqgan_train.system.errors import ShardError

USUAL_SHARE = 0.8
"""A field that this share of a shard's samples has is missed in the others."""

MOST_EXAMPLES = 20
"""Names kept of each kind and shard."""

SIDE_STEPS = (0, 64, 128, 192, 256, 384, 512, 768, 1024, 2048)
"""Where the classes of the shorter side begin, in pixels."""


class Kind(Enum):
    """What can be found. Problems cost samples or tell of a broken copy; notes do neither."""

    unusable = "shards that training refuses"
    damaged = "damaged shards"
    unreadable = "images that cannot be read"
    without_image = "samples without an image"
    incomplete = "samples without a field that their neighbours have"
    same_key = "samples whose key another one of their shard has"
    unsafe_name = "names that leave their folder or cannot be shown"
    dotted = "images whose name has another dot, so that they are not seen"
    upper_case = "images with a field in capitals, read all the same"
    missing_number = "numbers between those of the shards that no shard has"
    small = "images smaller than image_size, which are enlarged"
    same_key_elsewhere = "samples whose key another shard has"
    same_content = "images that occur more than once"

    @property
    def is_problem(self) -> bool:
        """Whether it is more than a note."""
        return self in PROBLEMS


PROBLEMS = frozenset(
    {
        Kind.unusable,
        Kind.damaged,
        Kind.unreadable,
        Kind.without_image,
        Kind.incomplete,
        Kind.same_key,
        Kind.unsafe_name,
    }
)


@dataclass(slots=True)
class ShardFindings:
    """What one shard holds."""

    path: Path
    num_bytes: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    """Up to 20 of each kind: shard/key, and what is wrong with it."""

    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    """Of the images that can be read, in PIL's words."""

    shorter_sides: Counter[int] = field(default_factory=Counter)
    """How many images begin at each of SIDE_STEPS."""

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """(N,) hashes of the keys of the samples with an image, in their order."""

    contents: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """(N,) hashes of their images; 0 where one cannot be read."""

    def found(self, kind: Kind, name: str) -> None:
        """Count something, and remember it as an example."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(printable_name(name))


@dataclass(frozen=True, slots=True)
class ShardChecks(Dataset[ShardFindings]):
    """What each of some shards holds, for a loader's processes.

    Args:
        paths: the shards.
        look: what to do with each image.
        image_size: of the model, in pixels.
    """

    paths: Sequence[Path]
    look: Look
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> ShardFindings:
        return check_shard(self.paths[number], self.look, self.image_size)


def check_shard(path: Path, look: Look, image_size: int) -> ShardFindings:
    """Look through a shard, and leave its index in the cache for training.

    Args:
        path: the shard.
        look: what to do with each image.
        image_size: of the model, in pixels.
    """
    findings = ShardFindings(path)
    try:
        _look_through(findings, look, image_size)
    except (ShardError, OSError) as error:  # of the file; what an image raises is caught below
        findings.found(Kind.unusable, str(error))
    return findings


def _look_through(findings: ShardFindings, look: Look, image_size: int) -> None:
    listing = list_shard(findings.path)
    findings.num_bytes = listing.num_bytes
    _judge_names(listing, findings)
    _judge_samples(listing, findings)
    index = index_listing(listing)
    if listing.problem:
        findings.found(Kind.damaged, f"{listing.path}: {listing.problem}")
    cache_index(index)
    images = [image for sample in listing.samples if (image := _image_of(sample))]
    findings.keys = np.array([_hash(image.key) for image in images], np.uint64)
    findings.contents = np.zeros(len(images), np.uint64)
    for place, image in enumerate(images):
        name = f"{listing.path}/{image.key}"
        try:
            picture = look(index, place, image.member)
        except ShardError:  # a ValueError, too
            raise
        except UNREADABLE as error:
            findings.found(Kind.unreadable, f"{name}: {reason(error)}")
            continue
        shorter = min(picture.width, picture.height)
        if shorter < image_size:
            findings.found(Kind.small, f"{name}: {picture.width} x {picture.height}")
        findings.formats[picture.file_format] += 1
        findings.modes[picture.mode] += 1
        findings.shorter_sides[max(step for step in SIDE_STEPS if step <= shorter)] += 1
        findings.contents[place] = int.from_bytes(picture.content, "little")


def _judge_names(listing: Listing, findings: ShardFindings) -> None:
    fields = (part for sample in listing.samples for part in sample)
    for member in (*listing.others, *(part.member for part in fields)):
        if _is_unsafe(member.name):
            findings.found(Kind.unsafe_name, f"{listing.path}/{member.name}")


def _is_unsafe(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()


def _judge_samples(listing: Listing, findings: ShardFindings) -> None:
    having = Counter(name for sample in listing.samples for name in _names(sample))
    usual = {name for name, count in having.items() if count >= USUAL_SHARE * len(listing.samples)}
    usual -= IMAGE_FIELDS  # a png among jpgs misses nothing
    keys: set[str] = set()
    for sample in listing.samples:
        name = f"{listing.path}/{sample[0].key}"
        missing = sorted(usual - _names(sample))
        image = _image_of(sample)
        if image is None:
            findings.found(Kind.without_image, f"{name}: {', '.join(sorted(_names(sample)))}")
            for part in _dotted_images(sample):
                findings.found(Kind.dotted, f"{name}: {part.name}")
        elif missing:
            findings.found(Kind.incomplete, f"{name}: no {', '.join(missing)}")
        if image is not None and not image.member.name.endswith(image.name):
            findings.found(Kind.upper_case, f"{listing.path}/{image.member.name}")
        if sample[0].key in keys:
            findings.found(Kind.same_key, name)
        keys.add(sample[0].key)


def _names(sample: Sequence[Field]) -> set[str]:
    return {part.name for part in sample}


def _image_of(sample: Sequence[Field]) -> Field | None:
    return next((part for part in sample if part.is_image), None)


def _dotted_images(sample: Sequence[Field]) -> Iterator[Field]:
    return (part for part in sample if part.name.rpartition(".")[2] in IMAGE_FIELDS)


def _hash(text: str) -> int:
    encoded = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
