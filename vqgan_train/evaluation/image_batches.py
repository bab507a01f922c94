"""Slices of the dataset: the images whose caption, or another column, matches a pattern."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqgan_train.images.loading import read_ahead, read_image, stack_pixels
from vqgan_train.images.locations import EncodedImage, ImageLocation
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.metrics.faces import FaceFinder
from vqgan_train.system.errors import UserError


class SliceError(UserError):
    """A slice cannot be made; the message says why."""


class SliceRule(NamedTuple):
    """Which images belong to a slice."""

    column: str
    """caption, key, source, or a key of the sample's json."""

    pattern: re.Pattern[str]
    """Found anywhere in the column's text."""


def slice_rule(name: str, column: str, pattern: str) -> SliceRule:
    """Compile a rule; upper and lower case are the same to it.

    Raises:
        SliceError: the pattern is no regular expression.
    """
    try:
        return SliceRule(column, re.compile(pattern, re.IGNORECASE))
    except re.error as error:
        raise SliceError(
            f"slices.{name}.pattern is {pattern!r}, no regular expression: {error}."
        ) from error


def columns_of(caption: str, key: str, source: str, metadata: bytes) -> Mapping[str, Any]:
    """The columns of one sample; those of its json, if it has one, and the three that all have.

    Args:
        caption: its caption.
        key: its key.
        source: its shard or file.
        metadata: the json field, perhaps empty or damaged.
    """
    try:
        read = json.loads(metadata) if metadata else {}
    except ValueError:
        read = {}
    said = read if isinstance(read, dict) else {}
    return {**said, "caption": caption, "key": key, "source": source}


def belongs(rule: SliceRule, columns: Mapping[str, Any]) -> bool | None:
    """Whether a sample is in a slice; None if it has no such column."""
    value = columns.get(rule.column)
    return None if value is None else bool(rule.pattern.search(str(value)))


class Row(NamedTuple):
    """One image, besides its pixels."""

    number: int
    """Its place among all, unreadable ones included."""

    key: str
    caption: str
    source: str
    width: int
    height: int
    """Before scaling and cropping."""

    slices: tuple[bool | None, ...]
    """Whether it belongs to each slice; None: it has no such column."""

    boxes: NDArray[np.int64]
    """(F, 4) of faces in the crop; none where they were not looked for."""


class Batch(NamedTuple):
    """Images that could be read, and the others by name."""

    rows: list[Row]
    pixels: Tensor
    """(B, 3, H, W) uint8, perhaps B = 0."""

    bad: list[tuple[int, str]]
    """Number, name and reason."""


class ReadingRules(NamedTuple):
    """What becomes of an image before a model sees it, and what is looked for in it."""

    transform: ImageTransform
    slices: Mapping[str, SliceRule]
    faces: FaceFinder | None


Request = Sequence[tuple[int, ImageLocation]]
"""Places and their numbers."""


NO_BOXES = np.zeros((0, 4), dtype=np.int64)


def load_batches(
    requests: Iterable[Request], rules: ReadingRules, *, num_workers: int
) -> Iterator[Batch]:
    """Read requests in their order, each into a batch; as `read_ahead`.

    Args:
        requests: drawn a little ahead of what is read.
        rules: how.
        num_workers: loader processes; 0 reads in this one.
    """
    return read_ahead(requests, partial(_read, rules), num_workers=num_workers)


def _read(rules: ReadingRules, request: Request) -> Batch:
    rows, stack, bad = [], [], []
    for number, place in request:
        read = read_image(place, partial(_decode, rules.transform))
        if isinstance(read, str):
            bad.append((number, read))
        else:
            encoded, (pixels, size) = read
            rows.append(_row(rules, number, encoded, pixels, size))
            stack.append(pixels)
    return Batch(rows, stack_pixels(stack), bad)


def _decode(transform: ImageTransform, image: bytes) -> tuple[Tensor, tuple[int, int]]:
    """Pixels (3, H, W) uint8 as a model will see them; width and height before."""
    pixels = transform.pixels(image)
    with Image.open(io.BytesIO(image)) as opened:
        return pixels, opened.size


def _row(
    rules: ReadingRules, number: int, encoded: EncodedImage, pixels: Tensor, size: tuple[int, int]
) -> Row:
    columns = columns_of(encoded.caption, encoded.key, encoded.source, encoded.metadata)
    width, height = size
    return Row(
        number=number,
        key=encoded.key,
        caption=encoded.caption,
        source=encoded.source,
        width=width,
        height=height,
        slices=tuple(belongs(rule, columns) for rule in rules.slices.values()),
        boxes=rules.faces(pixels) if rules.faces else NO_BOXES,
    )
