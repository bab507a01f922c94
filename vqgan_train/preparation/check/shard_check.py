"""Checks one shard: what training would lose in it, and what else a user may want to change."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vqgan_train.images.decoding import is_turned
from vqgan_train.images.sample import UNREADABLE, content_hash, image_bytes, reason
from vqgan_train.images.transforms import decode_for_training
from vqgan_train.shards.index import ShardIndex, load_index
from vqgan_train.shards.naming import printable_name
from vqgan_train.shards.tar import Field, is_image_field, walk_shard
from vqgan_train.system.errors import ShardError

MIN_FIELD_FRACTION = 0.8
"""If at least this fraction of a shard's samples has a field, those without it are reported."""

MAX_PLAIN_DEVIATION = 2
"""Largest standard deviation of a channel, of 255, in an image of nearly one colour."""

MAX_EXAMPLES = 20
"""Examples kept per kind and shard."""

SIDE_STEPS = (0, 64, 128, 192, 256, 384, 512, 768, 1024, 2048)
"""Lower bounds, in pixels, of the classes in which shorter sides are counted."""


class Kind(Enum):
    """Kinds of findings. Problems cost samples or indicate a broken copy; notes do neither."""

    unusable = "shards that training refuses"
    damaged = "damaged shards"
    unreadable = "images that training cannot read"
    without_image = "samples without an image"
    several_images = "samples with several images: training uses the first (set data.image_field)"
    incomplete = "samples without a field that most samples of their shard have"
    same_key = "samples with the same key as another sample of their shard"
    unsafe_name = "unsafe member names"
    missing_number = "missing numbers in the series of shards"
    small = "images smaller than image_size, which training enlarges"
    turned = "images that EXIF turns or mirrors; training does so only with data.exif_rotate=true"
    plain = "images of nearly one colour"
    same_content = "copies of images"

    @property
    def is_problem(self) -> bool:
        """Whether the command exits with 1 if there are findings of this kind."""
        notes = Kind.missing_number, Kind.small, Kind.turned, Kind.plain, Kind.same_content
        return self not in notes


@dataclass(slots=True)
class ShardFindings:
    """Everything the check found in one shard."""

    path: Path
    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    """Up to MAX_EXAMPLES texts per kind: shard/key and what is wrong with it."""

    shorter_sides: Counter[int] = field(default_factory=Counter)
    """Number of readable images per class of SIDE_STEPS."""

    contents: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """(N,) hash of each image file, in the order of the index; 0 for unreadable images."""

    def add(self, kind: Kind, text: str) -> None:
        """Count a finding and keep its text as an example."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(printable_name(text))


def check_shard(path: Path, image_size: int, image_field: str | None = None) -> ShardFindings:
    """Check a shard, whose defects become findings; its index stays in the cache for training.

    Args:
        path: the shard.
        image_size: side of the model's images, in pixels.
        image_field: field of the image. None: the first; then samples with several are findings.
    """
    findings = ShardFindings(path)
    try:
        samples: list[list[Field]] = []
        others: list[str] = []
        walk_shard(path, samples.append, others.append)  # about 1 kB of memory per sample
        names = (part.member for sample in samples for part in sample)
        _check_names((*others, *names), findings)
        _check_samples(samples, image_field, findings)
        index = load_index(path)
        if index.problem:
            findings.add(Kind.damaged, f"{path}: {index.problem}")
        _check_images(index, image_size, image_field, findings)
    except (ShardError, OSError) as error:  # _check_images handles the errors of single images
        findings.add(Kind.unusable, str(error))
    return findings


def _check_images(
    index: ShardIndex, image_size: int, image_field: str | None, findings: ShardFindings
) -> None:
    findings.contents = np.zeros(index.num_samples, np.uint64)
    for position in range(index.num_samples):
        sample = index.read(position)
        name = f"{index.path}/{sample['__key__']}"
        try:
            encoded = image_bytes(sample, image_field)
            image = decode_for_training(encoded)
        except UNREADABLE as error:
            findings.add(Kind.unreadable, f"{name}: {reason(error)}")
            continue
        height, width = image.shape[1:]
        shorter = min(height, width)
        if is_turned(encoded):
            findings.add(Kind.turned, name)
        if _is_plain(image):
            findings.add(Kind.plain, name)
        if shorter < image_size:
            findings.add(Kind.small, f"{name}: {width} x {height}")
        findings.shorter_sides[max(step for step in SIDE_STEPS if step <= shorter)] += 1
        findings.contents[position] = content_hash(encoded)


def _is_plain(image: Tensor) -> bool:
    """Return whether about 4,096 pixels of (3, H, W) uint8, on a grid, have nearly one colour."""
    rows, columns = (-(-side // 64) for side in image.shape[1:])
    deviations = image[:, ::rows, ::columns].float().flatten(1).std(1, correction=0)
    return bool(deviations.max() < MAX_PLAIN_DEVIATION)


def _check_names(names: Sequence[str], findings: ShardFindings) -> None:
    for name in names:
        if _is_unsafe(name):
            findings.add(Kind.unsafe_name, f"{findings.path}/{name}")


def _is_unsafe(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()


def _check_samples(
    samples: Sequence[Sequence[Field]], image_field: str | None, findings: ShardFindings
) -> None:
    having = Counter(name for sample in samples for name in _names(sample))
    usual = {name for name, count in having.items() if count >= MIN_FIELD_FRACTION * len(samples)}
    usual = {name for name in usual if not is_image_field(name)}  # a png is no missing jpg
    keys: set[str] = set()
    for sample in samples:
        key, names = sample[0].key, _names(sample)
        name = f"{findings.path}/{key}"
        if not any(part.is_image for part in sample):
            findings.add(Kind.without_image, f"{name}: {', '.join(sorted(names))}")
        elif missing := sorted(usual - names):
            findings.add(Kind.incomplete, f"{name}: no {', '.join(missing)}")
        images = [part.name for part in sample if part.is_image]
        if len(images) > 1 and image_field is None:
            findings.add(Kind.several_images, f"{name}: {', '.join(images)}")
        if key in keys:
            findings.add(Kind.same_key, name)
        keys.add(key)


def _names(sample: Sequence[Field]) -> set[str]:
    return {part.name for part in sample}
