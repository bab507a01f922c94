"""Records of YFCC100M, OpenAI's subset, as published: parquet with images, or jsonl and zips."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.system.errors import PreparationError
from vqgan_train.system.packages import require_pyarrow

Record = Mapping[str, Any]

NEEDED = ("key", "title_clean", "description_clean")
KEPT = ("photoid", "uid", "unickname", "licensename", "licenseurl", "pageurl", "downloadurl")
"""Fields that go into a sample's json: whose photo it is and what may be done with it."""

IMAGE = "img"
METADATA_NAME = "metadata_"
"""The records of the images in 3d1.zip are called metadata_3d1.jsonl.gz."""

PARQUET_ROWS = 64
"""Rows read at once: photos of 130 kB on average."""


class RecordFile(NamedTuple):
    """Some records and where their images are."""

    path: Path
    images: Path | None
    """A zip file; None: in the records."""


def caption_of(record: Record) -> str:
    """Title, with a full stop, and description: what DALL-E mini's caption was."""
    title = (record["title_clean"] or "").strip()
    description = (record["description_clean"] or "").strip()
    if title and not title.endswith("."):
        title += "."
    return f"{title} {description}".strip()


def pair_with_images(records: Sequence[Path], folder: Path | None) -> list[RecordFile]:
    """Find the zip file of each jsonl file; parquet holds its images itself.

    Raises:
        PreparationError: a file is of neither kind, two are called the same, a zip file is missing,
            or pyarrow is.
    """
    unknown = [path for path in records if not is_parquet(path) and not is_jsonl(path)]
    if unknown:
        raise PreparationError(
            f"{unknown[0]} is no file of records: their names end with .parquet, .jsonl or "
            ".jsonl.gz."
        )
    stems = [stem_of(path) for path in records]
    twice = (
        {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else ()
    )
    if twice:
        raise PreparationError(
            f"Several files are called {', '.join(sorted(twice))}, and so would their shards be. "
            "Prepare them in runs of their own, each with an output of its own."
        )
    if any(map(is_parquet, records)):
        require_pyarrow()
    return [RecordFile(path, None if is_parquet(path) else _zip(path, folder)) for path in records]


def _zip(records: Path, folder: Path | None) -> Path:
    if folder is None:
        raise PreparationError(
            f"{records} has no images in it: name the folder of the zip files, images=... . "
            "To download them one by one instead: python -m vqgan_train.prepare_yfcc_links."
        )
    images = folder / f"{stem_of(records).removeprefix(METADATA_NAME)}.zip"
    if not images.is_file():
        raise PreparationError(
            f"The images of {records} should be in {images}, which does not exist."
        )
    return images


def read_records(file: RecordFile) -> Iterator[Record]:
    """Read the records of one file, a few at a time.

    Raises:
        PreparationError: it is damaged, or lacks a field.
    """
    if is_parquet(file.path):
        return _parquet_records(file.path)
    return read_jsonl(file.path, NEEDED)


def read_jsonl(path: Path, needed: Sequence[str]) -> Iterator[Record]:
    """Read lines of JSON.

    Raises:
        PreparationError: it is damaged, or a record lacks a field that is needed.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for line in lines:
                record = json.loads(line)
                _require_fields(path, record, needed)
                number += 1
                yield record
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, PreparationError):
            raise
        raise PreparationError(
            f"{path} is damaged after line {number} ({error}). Fetch it again."
        ) from error


def _parquet_records(path: Path) -> Iterator[Record]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require_fields(path, names, (*NEEDED, IMAGE))
            columns = [name for name in (*NEEDED, IMAGE, *KEPT) if name in names]
            for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise PreparationError(f"{path} is damaged ({error}). Fetch it again.") from error


def _require_fields(path: Path, found: Record | Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise PreparationError(
            f"{path} has no {', '.join(missing)}, but {', '.join(found)}: it is no file of the "
            "OpenAI subset of YFCC100M."
        )


def is_parquet(path: Path) -> bool:
    """Whether a file is called like parquet."""
    return path.suffix == ".parquet"


def is_jsonl(path: Path) -> bool:
    """Whether a file is called like lines of JSON, perhaps compressed."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def stem_of(path: Path) -> str:
    """A file's name up to the first dot."""
    return path.name.split(".", 1)[0]
