"""Packs image files into shards; shared by the commands pack and prepare_yfcc."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image
from tqdm import tqdm

from vqgan_train.images.decoding import is_turned
from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.images.transforms import decode_for_training
from vqgan_train.preparation.command_report import (
    format_counts,
    publish_report,
    report_line,
    write_lines,
)
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.addresses import redact
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import write_atomically
from vqgan_train.system.workers import run_tasks

FIELDS = {
    "AVIF": "avif", "BMP": "bmp", "GIF": "gif", "HEIF": "heic", "JPEG": "jpg", "MPO": "jpg",
    "PNG": "png", "PPM": "ppm", "TIFF": "tif", "WEBP": "webp",
}  # fmt: skip
"""Name of a sample's image field, by PIL's name of the image's format."""

Item = TypeVar("Item")
Task = TypeVar("Task")


class ImageToPack(NamedTuple):
    """An image file, its caption and its metadata."""

    key: str
    """Key of the sample, without dots, because webdataset ends a key at the first dot."""

    content: bytes
    """The image file, which is copied unchanged."""

    caption: str | None
    metadata: Mapping[str, Any]
    """Values for the sample's json field, which also gets the image's width and height."""


NamedLoader = tuple[str, Callable[[], ImageToPack]]
"""Name of an image for the report, and a function that reads the image. It raises one of
`UNREADABLE` if that fails."""


@dataclass(slots=True)
class PackReport:
    """Counts of packed images of one or more shards; stored as JSON beside each shard."""

    source: str = ""
    """Fingerprint of the files that the images came from."""

    seen: int = 0
    packed: int = 0
    with_caption: int = 0
    turned: int = 0
    """Packed images that are stored as they were, and that EXIF turns or mirrors."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Reason for each image that was left out, by its name."""

    def add(self, other: "PackReport") -> None:
        """Add the counts of another shard."""
        self.seen += other.seen
        self.packed += other.packed
        self.with_caption += other.with_caption
        self.turned += other.turned
        self.left_out |= other.left_out


def pack_in_parallel(
    pack_task: Callable[[Task], PackReport],
    tasks: Iterable[Task],
    output: Path,
    *,
    num_workers: int,
    num_images: int | None,
    more_lines: Sequence[str] = (),
) -> None:
    """Pack shards in several processes, then report what was packed and what was left out.

    Args:
        pack_task: packs the shards of a task; a module-level function, so workers can call it.
        tasks: arguments of `pack_task`; drawn when a process is free.
        output: folder of the shards. It gets report.txt, and left_out.tsv if images are left out.
        num_workers: processes; 0 packs in this one.
        num_images: length of the progress bar; None if unknown.
        more_lines: printed and saved at the end of the report.

    Raises:
        UserError, OSError: no image was packed, or `pack_task` raised it.
    """
    total = PackReport()
    with tqdm(total=num_images, desc="packing", unit="image") as bar:
        for report in run_tasks(pack_task, tasks, num_workers=num_workers):
            bar.update(report.seen)
            total.add(report)
    _publish(total, output, more_lines)


def pack_shard(shard: Path, images: Sequence[NamedLoader], *, source: str) -> PackReport:
    """Write a shard and then its report, or return the report of an earlier run.

    Args:
        shard: path of the tar file. If no image can be read, only the report is written.
        images: the images to pack.
        source: fingerprint of the files that hold the images. A shard of an earlier run is kept if
            its report has the same fingerprint.
    """
    file = shard.with_suffix(".json")
    if file.exists():
        stored = PackReport(**json.loads(file.read_text()))
        if stored.source == source:
            return stored
    report = PackReport(source, seen=len(images))
    samples = _readable_samples(images, report)
    first = next(samples, None)
    if first is not None:
        report.packed = write_shard(shard, chain([first], samples))
    with write_atomically(file) as partial:
        partial.write(json.dumps(asdict(report), ensure_ascii=False, indent=1).encode())
    return report


def _readable_samples(
    images: Sequence[NamedLoader], report: PackReport
) -> Iterator[dict[str, str | bytes]]:
    for name, load in images:
        try:
            image = load()
            sample = _to_sample(image)
        except UNREADABLE as error:
            report.left_out[redact(name)] = redact(reason(error))
            continue
        report.with_caption += bool(sample.get("txt"))
        report.turned += is_turned(image.content)
        yield sample


def _to_sample(image: ImageToPack) -> dict[str, str | bytes]:
    """Make a sample; its image field follows from the content, because file names can be wrong."""
    with Image.open(io.BytesIO(image.content)) as opened:
        if opened.format not in FIELDS:
            raise ValueError(f"shards cannot hold the image format {opened.format}")
        image_field = FIELDS[opened.format]
    height, width = decode_for_training(image.content).shape[1:]
    metadata = {**image.metadata, "width": width, "height": height}
    sample: dict[str, str | bytes] = {
        "__key__": image.key,
        image_field: image.content,
        "json": json.dumps(metadata, ensure_ascii=False),
    }
    if image.caption is not None:
        sample["txt"] = image.caption
    return sample


def _publish(report: PackReport, output: Path, more_lines: Sequence[str]) -> None:
    reasons = Counter(report.left_out.values())
    if not report.packed:
        raise UserError(
            f"None of the {report.seen} images for {output} could be packed: "
            f"{format_counts(reasons) or 'there are none'}."
        )
    lines = [
        report_line(
            "packed", f"{report.packed} of {report.seen} images, {report.with_caption} captions"
        ),
        report_line("shards", f"{len(list(output.glob('*.tar')))}: '{output}/*.tar'"),
    ]
    if report.turned:
        advice = "turned by their EXIF only if read with exif_rotate=true"
        lines.append(report_line("on their side", f"{report.turned} images, {advice}"))
    if report.left_out:
        rows = [f"{reason}\t{name}" for name, reason in report.left_out.items()]
        file = write_lines(output / "left_out.tsv", rows)
        lines.append(report_line("left out", f"{len(rows)}: {format_counts(reasons)}"))
        lines.append(report_line("", f"by name in {file}"))
    publish_report(output, [*lines, *more_lines])


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Split items into lists of `size`; the last list may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
