"""`python -m vqgan_train.pack`: pack folders of image files into shards."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vqgan_train.config.preparation import PackConfig
from vqgan_train.images.folders import (
    ImageFile,
    image_files,
    read_captions,
    replace_undecodable,
    scan_folders,
    text_beside,
)
from vqgan_train.preparation.command_report import format_counts, report_line
from vqgan_train.preparation.packing import (
    ImageToPack,
    PackReport,
    in_chunks,
    pack_in_parallel,
    pack_shard,
)
from vqgan_train.system.files import file_signature
from vqgan_train.system.job_file import open_job


class _PackTask(NamedTuple):
    """One shard and the files to pack into it."""

    shard: Path
    files: Sequence[ImageFile]
    source: str
    """Fingerprint of all image files of the command."""


def pack(config: PackConfig) -> None:
    """Pack every readable image of the input folders and report the others."""
    folders = [Path(folder).expanduser() for folder in config.inputs]
    output = Path(config.output).expanduser()
    table = None if config.captions is None else Path(config.captions)
    columns = config.captions_path_column, config.captions_text_column
    captions = None if table is None else read_captions(table, *columns)
    found = scan_folders(folders)
    job = {
        "command": "pack",
        "inputs": [str(folder.resolve()) for folder in folders],
        "images": found.images,
        "images_fingerprint": found.fingerprint,
        "samples_per_shard": config.samples_per_shard,
        "captions": None if table is None else [file_signature(table), columns],
    }
    open_job(output, job)
    chunks = in_chunks(image_files(folders, captions), config.samples_per_shard)
    tasks = (
        _PackTask(output / f"{number:05d}.tar", chunk, found.fingerprint)
        for number, chunk in enumerate(chunks)
    )
    lines = []
    if found.others:
        lines.append(report_line("other files", format_counts(found.others)))
    if captions is not None:
        names = {file.name for file in image_files(folders, None)}
        for name, noun, lone in (
            ("no image for", "captions", captions.keys() - names),
            ("not in the table", "images", names - captions.keys()),
        ):
            if lone:
                lines.append(report_line(name, f"{len(lone)} {noun}, for example {min(lone)}"))
    pack_in_parallel(
        _pack,
        tasks,
        output,
        num_workers=config.num_workers,
        num_images=found.images,
        more_lines=lines,
    )


def _pack(task: _PackTask) -> PackReport:
    images = [
        (replace_undecodable(str(file.folder / file.name)), partial(_load, file))
        for file in task.files
    ]
    return pack_shard(task.shard, images, source=task.source)


def _load(file: ImageFile) -> ImageToPack:
    path = file.folder / file.name
    caption = text_beside(path) if file.caption is None else file.caption
    return ImageToPack(
        key=f"{file.number:09d}",
        content=path.read_bytes(),
        caption=caption or None,
        metadata={"file": replace_undecodable(file.name)},
    )
