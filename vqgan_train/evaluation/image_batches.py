"""Reads the images in batches, with their captions, faces and membership in slices.

A slice is a set of images whose caption, or another column, matches a regular expression.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqgan_train.images.loading import read_image, stack_pixels
from vqgan_train.images.locations import EncodedImage, ImageLocation
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.system.errors import UserError
from vqgan_train.system.workers import run_tasks


class SliceRule(NamedTuple):
    """Rule that decides whether an image belongs to a slice."""

    column: str
    """caption, key, source, or a key of the sample's json."""

    pattern: re.Pattern[str]
    """Searched anywhere in the column's text."""

    def matches(self, columns: Mapping[str, Any]) -> bool | None:
        """Return whether the pattern matches; None if the sample lacks the column."""
        value = columns.get(self.column)
        return None if value is None else bool(self.pattern.search(str(value)))


def slice_rule(name: str, column: str, pattern: str) -> SliceRule:
    """Compile the rule of the slice `name`, whose pattern ignores case.

    Raises:
        UserError: the pattern is not a regular expression.
    """
    try:
        return SliceRule(column, re.compile(pattern, re.IGNORECASE))
    except re.error as error:
        raise UserError(
            f"slices.{name}.pattern is {pattern!r}, which is not a regular expression: {error}."
        ) from error


def sample_columns(encoded: EncodedImage) -> Mapping[str, Any]:
    """Return a sample's caption, key and source, and the entries of its json.

    The json adds nothing if it is invalid or not an object; it never replaces one of the three.
    """
    try:
        metadata = json.loads(encoded.metadata) if encoded.metadata else {}
    except ValueError:
        metadata = {}
    return {
        **(metadata if isinstance(metadata, dict) else {}),
        "caption": encoded.caption,
        "key": encoded.key,
        "source": encoded.source,
    }


class ImageRow(NamedTuple):
    """Everything about one image except its pixels."""

    number: int
    """Position in the dataset, unreadable images included."""

    key: str
    caption: str
    source: str
    width: int
    height: int
    """Width and height are in pixels, before scaling and cropping."""

    slices: tuple[bool | None, ...]
    """Membership in each slice; None if the sample lacks the slice's column."""

    boxes: NDArray[np.int64]
    """(F, 4) left, top, right, bottom of the faces in the crop; (0, 4) if none are looked for."""


class ImageBatch(NamedTuple):
    """Readable images, and the names of the unreadable ones."""

    rows: list[ImageRow]
    pixels: Tensor
    """(B, 3, H, W) uint8; B may be 0."""

    bad: list[tuple[int, str]]
    """Each unreadable image: its number, and a text with its name and the reason."""


class ReadingRules(NamedTuple):
    """How images are scaled and cropped, which slices they may be in, and how faces are found."""

    transform: ImageTransform
    slices: Mapping[str, SliceRule]
    faces: Callable[[Tensor], NDArray[np.int64]] | None
    """Finds the faces, as `find_faces` does; None: faces are not detected."""


Request = Sequence[tuple[int, ImageLocation]]
"""Numbers and locations of the images of a batch."""

NO_BOXES = np.zeros((0, 4), dtype=np.int64)


def load_batches(
    requests: Iterable[Request], rules: ReadingRules, *, num_workers: int
) -> Iterator[ImageBatch]:
    """Yield the images of each request as a batch, in the order of the requests.

    Args:
        requests: drawn 2 x `num_workers` ahead of the batch that is yielded.
        rules: how to read.
        num_workers: number of loader processes; 0 reads in this process.

    Raises:
        UserError: a shard has changed or is unavailable, or the system cannot read a file.
    """
    return run_tasks(partial(_read, rules), requests, num_workers=num_workers)


def _read(rules: ReadingRules, request: Request) -> ImageBatch:
    rows, stack, bad = [], [], []
    for number, place in request:
        image = read_image(place, partial(_decode, rules.transform))
        if isinstance(image, str):
            bad.append((number, image))
        else:
            encoded, (pixels, (width, height)) = image
            columns = sample_columns(encoded)
            row = ImageRow(
                number=number,
                key=encoded.key,
                caption=encoded.caption,
                source=encoded.source,
                width=width,
                height=height,
                slices=tuple(rule.matches(columns) for rule in rules.slices.values()),
                boxes=rules.faces(pixels) if rules.faces else NO_BOXES,
            )
            rows.append(row)
            stack.append(pixels)
    return ImageBatch(rows, stack_pixels(stack), bad)


def _decode(transform: ImageTransform, image: bytes) -> tuple[Tensor, tuple[int, int]]:
    """Return the transformed pixels (3, H, W) uint8, and the original width and height."""
    pixels = transform.pixels(image)
    with Image.open(io.BytesIO(image)) as opened:
        return pixels, opened.size
