"""`python -m vqgan_train.prepare_yfcc`: YFCC100M's records and images become shards."""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vqgan_train.config import PrepareYfccConfig
from vqgan_train.preparation.command_report import packed, write_report
from vqgan_train.preparation.packing import (
    PackReport,
    Picture,
    in_chunks,
    pack_shard,
    require_pictures,
    stored_report,
)
from vqgan_train.preparation.yfcc_records import (
    IMAGE,
    KEPT,
    Record,
    RecordFile,
    caption_of,
    pair_with_images,
    read_records,
    stem_of,
)
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.jobs import open_job
from vqgan_train.system.workers import run_tasks


def prepare_yfcc(config: PrepareYfccConfig) -> None:
    """Find the images of the records, pack them with their captions, say what was left out."""
    output = Path(config.output).expanduser()
    images = None if config.images is None else Path(config.images)
    paths = expand_shards(config.records, noun="files of records", ending="")
    files = pair_with_images(paths, images)
    # Which files is not part of the job: few have room for 1.9 TB at once.
    open_job(output, {"command": "prepare_yfcc", "samples_per_shard": config.samples_per_shard})
    with tqdm(desc="packing", unit="image") as bar:
        report = pack_records(
            files,
            output,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            bar=bar,
        )
    require_pictures(output, report)
    lines = packed(report, output)
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")


class _PackTask(NamedTuple):
    records: RecordFile
    output: Path
    samples_per_shard: int


def pack_records(
    files: Sequence[RecordFile],
    output: Path,
    *,
    samples_per_shard: int,
    num_workers: int,
    bar: "tqdm[Any]",
) -> PackReport:
    """Pack the images of each file of records into shards that are called like it.

    Shards that are there are kept, as long as their file of records has not changed since.
    """
    tasks = (_PackTask(file, output, samples_per_shard) for file in files)
    report = PackReport()
    for part in run_tasks(
        _pack,
        tasks,
        stored=lambda _: None,  # how many shards a file makes is known after it was read
        num_workers=num_workers,
        bar=bar,
        size_of=lambda part: part.seen,
    ):
        report.add(part)
    return report


def _pack(task: _PackTask) -> PackReport:
    report = PackReport()
    source = fingerprint(file_signature(path) for path in task.records if path is not None)
    archive = _Archive(task.records.images)
    stem = stem_of(task.records.path)
    name_of, load = partial(_name, task.records.path.name), partial(_load, archive)
    for number, chunk in enumerate(in_chunks(read_records(task.records), task.samples_per_shard)):
        shard = task.output / f"{stem}-{number:05d}.tar"
        part = stored_report(shard, source)
        if part is None:
            part = pack_shard(shard, chunk, name_of, load, source=source)
        report.add(part)
    return report


class _Archive:
    """Images in a zip file, found by their names, whatever folder of it they are in."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file = _open_zip(path) if path is not None else None
        names = self.file.namelist() if self.file is not None else []
        self.names = {Path(name).stem: name for name in names}

    def image(self, record: Record) -> bytes:
        """The image of a record.

        Raises:
            LookupError: there is none.
            ValueError: its bytes in the zip file are damaged.
        """
        if self.file is None:
            found = record[IMAGE]
            # The `datasets` library's type for images holds a path beside the bytes.
            found = found["bytes"] if isinstance(found, Mapping) else found
        else:
            found = self._unzipped(record["key"])
        if not found:
            raise LookupError("the record has no image")
        return bytes(found)

    def _unzipped(self, key: str) -> bytes | None:
        assert self.file is not None
        try:
            return self.file.read(self.names[key]) if key in self.names else None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"damaged in {self.path}: {error}") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise PreparationError(f"{path} is no whole zip file ({error}). Fetch it again.") from error


def _name(file: str, record: Record) -> str:
    return f"{file}/{record['key']}"


def _load(archive: _Archive, record: Record) -> Picture:
    return Picture(
        key=str(record["key"]).replace(".", "_"),
        encoded=archive.image(record),
        caption=caption_of(record),
        metadata={name: record[name] for name in KEPT if name in record},
    )
