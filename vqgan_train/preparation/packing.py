"""One picture on its way into a shard: its bytes stay as they are, and training can read them."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.images.transforms import decode, require_croppable
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import write_atomically

FIELDS = {
    "BMP": "bmp", "GIF": "gif", "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "PPM": "ppm",
    "TIFF": "tif", "WEBP": "webp",
}  # fmt: skip
"""Of PIL's formats the field that shards have for it."""


class Picture(NamedTuple):
    """An image file and what belongs to it."""

    key: str
    """Names the sample; no dots."""

    encoded: bytes
    """The file."""

    caption: str | None
    """What it shows, in words."""

    metadata: Mapping[str, Any]
    """Goes into the json field, besides the picture's size."""


def sample_of(picture: Picture) -> dict[str, str | bytes]:
    """Make a sample of a picture; the field is what its bytes are, whatever it was called.

    Raises:
        Exception: one of data.pipeline.UNREADABLE; training could not read it either.
    """
    with Image.open(io.BytesIO(picture.encoded)) as opened:
        if opened.format not in FIELDS:
            raise ValueError(f"{opened.format} is no format that shards have a field for")
        field = FIELDS[opened.format]
    height, width = decode(picture.encoded).shape[1:]
    require_croppable(height, width)
    metadata = {**picture.metadata, "width": width, "height": height}
    sample: dict[str, str | bytes] = {
        "__key__": picture.key,
        field: picture.encoded,
        "json": json.dumps(metadata, ensure_ascii=False),
    }
    if picture.caption is not None:
        sample["txt"] = picture.caption
    return sample


Item = TypeVar("Item")
REPORT = ".json"
"""The ending of a shard's report."""


@dataclass(slots=True)
class PackReport:
    """What became of the pictures of one shard, or of many."""

    source: str = ""
    """Fingerprint of the files that they were made of."""

    seen: int = 0
    packed: int = 0
    with_caption: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Of each that was left out its name and the reason."""

    def add(self, other: "PackReport") -> None:
        """Count in another shard."""
        self.seen += other.seen
        self.packed += other.packed
        self.with_caption += other.with_caption
        self.left_out |= other.left_out

    def reasons(self) -> Counter[str]:
        """How often each reason was met."""
        return Counter(self.left_out.values())


def stored_report(shard: Path, source: str) -> PackReport | None:
    """The report of a shard that was packed before, to the end and of the same files."""
    file = shard.with_suffix(REPORT)
    report = PackReport(**json.loads(file.read_text())) if file.exists() else None
    return report if report is not None and report.source == source else None


def pack_shard(
    shard: Path,
    items: Sequence[Item],
    name_of: Callable[[Item], str],
    load: Callable[[Item], Picture],
    *,
    source: str,
) -> PackReport:
    """Write one shard, and then its report beside it.

    Args:
        shard: the tar file; where nothing can be read, there is only the report.
        items: what the pictures are made of.
        name_of: what an item is called, for a person.
        load: reads one; raises one of UNREADABLE if it cannot.
        source: fingerprint of the files that the items are from.

    Returns:
        What became of them.
    """
    report = PackReport(source, seen=len(items))
    samples = _readable_samples(items, name_of, load, report)
    first = next(samples, None)
    if first is not None:
        report.packed = write_shard(shard, _joined(first, samples))
    with write_atomically(shard.with_suffix(REPORT)) as partial:
        partial.write(json.dumps(asdict(report), ensure_ascii=False, indent=1).encode())
    return report


def _readable_samples(
    items: Sequence[Item],
    name_of: Callable[[Item], str],
    load: Callable[[Item], Picture],
    report: PackReport,
) -> Iterator[dict[str, str | bytes]]:
    for item in items:
        try:
            sample = sample_of(load(item))
        except UNREADABLE as error:
            report.left_out[name_of(item)] = reason(error)
            continue
        report.with_caption += bool(sample.get("txt"))
        yield sample


def _joined(first: Item, rest: Iterable[Item]) -> Iterator[Item]:
    yield first
    yield from rest


def require_pictures(folder: Path, report: PackReport) -> None:
    """Refuse an end without any picture.

    Raises:
        PreparationError: nothing could be packed.
    """
    if not report.packed:
        reasons = ", ".join(f"{count} x {why}" for why, count in report.reasons().most_common(3))
        raise PreparationError(
            f"None of the {report.seen} pictures for {folder} could be packed: {reasons}."
        )


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a stream into lists of `size`, the last one shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
