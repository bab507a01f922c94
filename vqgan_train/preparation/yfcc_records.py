"""Records of YFCC100M's OpenAI subset, as published: parquet with images, or jsonl with zips."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.system.errors import UserError
from vqgan_train.system.packages import require_packages

Record = Mapping[str, Any]
"""Fields of one photo, by name."""

REQUIRED_FIELDS = ("key", "title_clean", "description_clean")
KEPT_FIELDS = ("photoid", "uid", "unickname", "licensename", "licenseurl", "pageurl", "downloadurl")
"""Fields copied into a sample's json: the photo's author and license."""

IMAGE = "img"
"""Field of the image file in parquet."""

METADATA_PREFIX = "metadata_"
"""The records of the images in 3d1.zip are in metadata_3d1.jsonl.gz."""

PARQUET_ROWS = 64
"""Rows read at once; each has a photo of 130 kB on average."""


class RecordFile(NamedTuple):
    """A file of records, and the zip file of its images."""

    path: Path
    images: Path | None
    """Zip file; None if the records contain the images."""


def caption_of(record: Record) -> str:
    """Join title and description as DALL-E mini did, with a full stop after the title."""
    title = (record["title_clean"] or "").strip()
    description = (record["description_clean"] or "").strip()
    if title and not title.endswith("."):
        title += "."
    return f"{title} {description}".strip()


def pair_with_images(records: Sequence[Path], folder: Path | None) -> list[RecordFile]:
    """Find the zip file of each jsonl file; parquet files contain their images.

    Raises:
        UserError: a file has an unknown suffix, two files have the same name, a zip file is missing
            or `folder` is None, or parquet is given and pyarrow is not installed.
    """
    endings = (".parquet", ".jsonl", ".jsonl.gz")
    unknown = [path for path in records if not path.name.endswith(endings)]
    if unknown:
        raise UserError(
            f"{unknown[0]} is not a file of records: give files that end with .parquet, .jsonl or "
            ".jsonl.gz."
        )
    repeated = [stem for stem, count in Counter(map(stem_of, records)).items() if count > 1]
    if repeated:
        raise UserError(
            f"Several files are named {', '.join(sorted(repeated))}, so their shards would have "
            "the same names. Prepare them separately, each with its own output."
        )
    if any(map(is_parquet, records)):
        require_packages("parquet", "Parquet files need", "pyarrow")
    return [RecordFile(path, None if is_parquet(path) else _zip(path, folder)) for path in records]


def _zip(records: Path, folder: Path | None) -> Path:
    if folder is None:
        raise UserError(
            f"{records} contains no images: give the folder of the zip files as images=FOLDER. "
            "To download the images one by one instead: python -m vqgan_train.prepare_yfcc_links."
        )
    images = folder / f"{stem_of(records).removeprefix(METADATA_PREFIX)}.zip"
    if not images.is_file():
        raise UserError(f"The images of {records} should be in {images}, which does not exist.")
    return images


def read_records(file: RecordFile) -> Iterator[Record]:
    """Read the records of one file, a few at a time.

    Raises:
        UserError: the file is damaged, or lacks a required field.
    """
    if is_parquet(file.path):
        return _read_parquet(file.path)
    return read_jsonl(file.path, REQUIRED_FIELDS)


def read_jsonl(path: Path, required: Sequence[str]) -> Iterator[Record]:
    """Read records from lines of JSON, compressed if the file ends with .gz.

    Raises:
        UserError: the file is damaged, or a record lacks a required field.
    """
    num_records = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for line in lines:
                record = json.loads(line)
                _require_fields(path, record, required)
                num_records += 1
                yield record
    except UserError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path} is damaged after line {num_records} ({error}). Download it again."
        ) from error


def _read_parquet(path: Path) -> Iterator[Record]:
    from pyarrow import ArrowException, parquet

    required = (*REQUIRED_FIELDS, IMAGE)
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require_fields(path, names, required)
            columns = [name for name in (*required, *KEPT_FIELDS) if name in names]
            for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}). Download it again.") from error


def _require_fields(path: Path, names: Record | Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(
            f"{path} has the fields {', '.join(names)}, but no {', '.join(missing)}: it is not a "
            "file of the OpenAI subset of YFCC100M."
        )


def is_parquet(path: Path) -> bool:
    """Return whether a file's name ends with .parquet."""
    return path.suffix == ".parquet"


def stem_of(path: Path) -> str:
    """Return a file's name up to the first dot."""
    return path.name.split(".", 1)[0]
