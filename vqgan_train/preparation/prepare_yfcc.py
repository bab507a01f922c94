"""`python -m vqgan_train.prepare_yfcc`: pack YFCC100M's records and images into shards."""

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vqgan_train.config import PrepareYfccConfig
from vqgan_train.preparation.packing import (
    EncodedImage,
    PackReport,
    in_chunks,
    pack_in_parallel,
    pack_shard,
    publish_pack_report,
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
from vqgan_train.system.jobs import open_job


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
    # The files are not part of the job, so that more can be added: few disks hold all 1.9 TB.
    open_job(output, {"command": "prepare_yfcc", "samples_per_shard": config.samples_per_shard})
    tasks = (_PackTask(file, output, config.samples_per_shard) for file in files)
    report = pack_in_parallel(_pack, tasks, num_workers=config.num_workers, num_images=None)
    publish_pack_report(report, output)


def _pack(task: _PackTask) -> PackReport:
    report = PackReport()
    # Shards are packed again if their record file or its zip file has changed.
    source = fingerprint(file_signature(path) for path in task.records if path is not None)
    archive = _Archive(task.records.images)
    stem = stem_of(task.records.path)
    name_of, load = partial(_name, task.records.path.name), partial(_load, archive)
    for number, chunk in enumerate(in_chunks(read_records(task.records), task.samples_per_shard)):
        shard = task.output / f"{stem}-{number:05d}.tar"
        report.add(pack_shard(shard, chunk, name_of, load, source=source))
    return report


class _Archive:
    """Images of records, in a zip file or in the records themselves.

    Args:
        path: zip file whose members are named KEY.jpg, in any folder. None: the images are in the
            records.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file = _open_zip(path) if path is not None else None
        names = self.file.namelist() if self.file is not None else []
        self.names = {Path(name).stem: name for name in names}

    def image(self, record: Record) -> bytes:
        """Return the image file of a record.

        Raises:
            LookupError: the record has no image.
            ValueError: the image's bytes in the zip file are damaged.
        """
        if self.file is None:
            content = record[IMAGE]
            # The image type of the `datasets` library stores a path beside the bytes.
            content = content["bytes"] if isinstance(content, Mapping) else content
        else:
            content = self._unzip(self.file, record["key"])
        if not content:
            raise LookupError("the record has no image")
        return bytes(content)

    def _unzip(self, file: zipfile.ZipFile, key: str) -> bytes | None:
        try:
            return file.read(self.names[key]) if key in self.names else None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"damaged in {self.path}: {error}") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is not a complete zip file ({error}). Download it again."
        ) from error


def _name(file: str, record: Record) -> str:
    return f"{file}/{record['key']}"


def _load(archive: _Archive, record: Record) -> EncodedImage:
    return EncodedImage(
        key=str(record["key"]).replace(".", "_"),
        content=archive.image(record),
        caption=caption_of(record),
        metadata={name: record[name] for name in KEPT_FIELDS if name in record},
    )
