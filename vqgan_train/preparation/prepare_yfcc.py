"""`python -m vqgan_train.prepare_yfcc`: pack YFCC100M's records and images into shards."""

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vqgan_train.config.preparation import PrepareYfccConfig
from vqgan_train.preparation.packing import (
    ImageToPack,
    PackReport,
    in_chunks,
    pack_in_parallel,
    pack_shard,
)
from vqgan_train.preparation.yfcc_records import (
    IMAGE,
    KEPT_FIELDS,
    Record,
    RecordFile,
    caption_of,
    pair_with_images,
    read_records,
    stem_of,
)
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.job_file import open_job


class _PackTask(NamedTuple):
    """One record file, which becomes shards named after it."""

    records: RecordFile
    output: Path
    samples_per_shard: int


def prepare_yfcc(config: PrepareYfccConfig) -> None:
    """Pack the image of each record with its caption and report the images left out."""
    output = Path(config.output).expanduser()
    images = None if config.images is None else Path(config.images)
    paths = expand_shards(config.records, noun="files of records", ending="")
    files = pair_with_images(paths, images)
    # The files are not part of the job, so that later runs can add more: few disks hold all 1.9 TB.
    open_job(output, {"command": "prepare_yfcc", "samples_per_shard": config.samples_per_shard})
    tasks = (_PackTask(file, output, config.samples_per_shard) for file in files)
    pack_in_parallel(_pack, tasks, output, num_workers=config.num_workers, num_images=None)


def _pack(task: _PackTask) -> PackReport:
    report = PackReport()
    # Shards are packed again if their record file or its zip file has changed.
    source = fingerprint(file_signature(path) for path in task.records if path is not None)
    archive = None if task.records.images is None else _Archive(task.records.images)
    path = task.records.path
    for number, chunk in enumerate(in_chunks(read_records(task.records), task.samples_per_shard)):
        shard = task.output / f"{stem_of(path)}-{number:05d}.tar"
        images = [
            (f"{path.name}/{record['key']}", partial(_load, archive, record)) for record in chunk
        ]
        report.add(pack_shard(shard, images, source=source))
    return report


class _Archive:
    """Zip file of images, whose members are named KEY.jpg, in any folder.

    Raises:
        UserError: the file is not a complete zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{path} is not a complete zip file ({error}). Download it again."
            ) from error
        self.names = {Path(name).stem: name for name in self.file.namelist()}

    def read(self, key: str) -> bytes | None:
        """Return the image file of a record by its key; None if there is no such member.

        Raises:
            ValueError: the member is damaged, or the zip file cannot be read.
        """
        try:
            return self.file.read(self.names[key]) if key in self.names else None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"damaged in {self.path}: {error}") from error


def _load(archive: _Archive | None, record: Record) -> ImageToPack:
    content = record[IMAGE] if archive is None else archive.read(record["key"])
    # The image type of the `datasets` library stores a path beside the bytes.
    content = content["bytes"] if isinstance(content, Mapping) else content
    if not content:
        raise LookupError("the record has no image")
    return ImageToPack(
        key=str(record["key"]).replace(".", "_"),
        content=bytes(content),
        caption=caption_of(record),
        metadata={name: record[name] for name in KEPT_FIELDS if name in record},
    )
