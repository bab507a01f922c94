"""Image files in folders of any depth: which there are, and what their captions say."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vqgan_train.config import PackConfig
from vqgan_train.images.folders import (
    ImageFile,
    image_files,
    printable_name,
    read_captions,
    scan_folders,
    text_beside,
    without_image,
)
from vqgan_train.preparation.command_report import line, listed, packed, write_report
from vqgan_train.preparation.packing import (
    PackReport,
    Picture,
    in_chunks,
    pack_shard,
    require_pictures,
    stored_report,
)
from vqgan_train.system.files import file_signature
from vqgan_train.system.jobs import open_job
from vqgan_train.system.workers import run_tasks


class _PackTask(NamedTuple):
    shard: Path
    source: str
    files: list[ImageFile]


def pack_folders(
    files: Iterator[ImageFile],
    output: Path,
    *,
    source: str,
    samples_per_shard: int,
    num_workers: int,
    bar: "tqdm[Any]",
) -> PackReport:
    """Pack image files into shards 00000.tar, 00001.tar, ... and report on each beside it.

    Args:
        files: in their order.
        output: folder of the shards; those that are there are kept.
        source: fingerprint of all the files.
        samples_per_shard: files a shard, at most.
        num_workers: processes; 0 works in this one.
        bar: the progress bar.
    """
    chunks = in_chunks(files, samples_per_shard)
    tasks = (
        _PackTask(output / f"{number:05d}.tar", source, chunk)
        for number, chunk in enumerate(chunks)
    )
    report = PackReport()
    for part in run_tasks(
        _pack,
        tasks,
        stored=lambda task: stored_report(task.shard, task.source),
        num_workers=num_workers,
        bar=bar,
        size_of=lambda part: part.seen,
    ):
        report.add(part)
    return report


def _pack(task: _PackTask) -> PackReport:
    return pack_shard(task.shard, task.files, _name, _load, source=task.source)


def _name(file: ImageFile) -> str:
    return printable_name(str(file.folder / file.name))


def _load(file: ImageFile) -> Picture:
    path = file.folder / file.name
    caption = text_beside(path) if file.caption is None else file.caption
    return Picture(
        key=f"{file.number:09d}",
        encoded=path.read_bytes(),
        caption=caption or None,
        metadata={"file": printable_name(file.name)},
    )


def pack(config: PackConfig) -> None:
    """Look through the folders, pack what can be read, say what could not."""
    inputs, output = (
        [Path(folder).expanduser() for folder in config.inputs],
        Path(config.output).expanduser(),
    )
    table = None if config.captions is None else Path(config.captions)
    columns = config.captions_path_column, config.captions_text_column
    captions = None if table is None else read_captions(table, *columns)
    found = scan_folders(inputs)
    job = {
        "command": "pack",
        "inputs": [str(folder.resolve()) for folder in inputs],
        "images": found.images,
        "images_fingerprint": found.fingerprint,
        "samples_per_shard": config.samples_per_shard,
        "captions": None if table is None else [file_signature(table), columns],
    }
    open_job(output, job)
    with tqdm(total=found.images, desc="packing", unit="image") as bar:
        report = pack_folders(
            image_files(inputs, captions),
            output,
            source=found.fingerprint,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            bar=bar,
        )
    require_pictures(output, report)
    lines = packed(report, output)
    if found.others:
        lines.append(line("other files", listed(found.others)))
    unused = without_image(captions or {}, image_files(inputs, None))
    if unused:
        lines.append(line("no image for", f"{len(unused)} captions, for example {min(unused)}"))
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")
