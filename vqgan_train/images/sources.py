"""Sources of images for a command: shards, a folder or parquet tables, divided into chunks."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.images.folders import image_files, replace_undecodable, scan_folders
from vqgan_train.images.locations import (
    FileLocation,
    ImageLocation,
    RemoteLocation,
    ShardLocation,
)
from vqgan_train.shards.index import ShardIndex
from vqgan_train.shards.remote.opening import fingerprint as shards_fingerprint
from vqgan_train.shards.remote.opening import open_to_stream
from vqgan_train.shards.remote.store import RemoteShard, ShardStore
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.packages import require_packages

MIN_DIGITS = 3
"""Least number of digits in a chunk's name."""


class Chunk(NamedTuple):
    """Samples that are written to one file, or measured in one batch."""

    name: str
    """Number of the chunk from 001 on; all chunks have equally many digits, at least 3."""

    locations: list[ImageLocation]


class Damage(NamedTuple):
    """Damage to the shards of a source, known before any sample is read."""

    num_shards: int
    """Number of all shards, intact ones included."""

    dead: list[str]
    """Name and problem of each shard without any readable sample."""

    partly: list[str]
    """Name and problem of each shard that has lost some of its samples."""


NO_DAMAGE = Damage(0, [], [])
"""For sources that are not shards."""


class ImageSource(NamedTuple):
    """Samples in a fixed order, divided into chunks."""

    fingerprint: str
    """Hash of shards (see `remote.opening.fingerprint`), or of paths, sizes and times of files."""

    sizes: list[int]
    """Number of samples of each chunk."""

    locations: Callable[[], Iterator[ImageLocation]]
    """Iterates over the locations of all samples."""

    changed: Callable[[], str]
    """Names the first local file, or the folder, that has changed since the listing; else empty."""

    damage: Damage

    def chunk_names(self) -> list[str]:
        """Return the name of each chunk."""
        digits = max(MIN_DIGITS, len(str(len(self.sizes))))
        return [f"{number:0{digits}d}" for number in range(1, len(self.sizes) + 1)]

    def chunks(self, names: set[str]) -> Iterator[Chunk]:
        """Iterate over the chunks of these names; only one at a time is in memory.

        Raises:
            UserError: there are more or fewer samples than in the listing.
        """
        locations = self.locations()
        for name, size in zip(self.chunk_names(), self.sizes, strict=True):
            chunk = list(islice(locations, size))
            if len(chunk) != size:
                raise _changed_error(self.changed() or "The source")
            if name in names:
                yield Chunk(name, chunk)
        if next(locations, None) is not None:
            raise _changed_error(self.changed() or "The source")

    def require_unchanged(self) -> None:
        """Check that the files are still those of the listing.

        Raises:
            UserError: a file was added, removed or modified.
        """
        changed = self.changed()
        if changed:
            raise _changed_error(changed)


def _changed_error(changed: str) -> UserError:
    return UserError(
        f"{changed} has changed since the command began: samples may be missing from the output, "
        "or be in it twice. Start again with another output, and do not change the source "
        "meanwhile."
    )


def from_shards(
    shards: Sequence[Path | str],
    samples_per_chunk: int,
    store: ShardStore | None = None,
    image_field: str | None = None,
) -> ImageSource:
    """List the samples of shards; no chunk holds samples of two shards.

    Args:
        shards: paths of local shards, and addresses of remote ones.
        samples_per_chunk: largest number of samples of a chunk.
        store: downloads the remote shards; None if there are none.
        image_field: field of each sample's image, see `image_bytes`.

    Raises:
        ShardError: local shards are all dead, a remote one cannot be counted, or all are empty.
    """
    opened = open_to_stream(shards, store)
    local = [shard.path for shard in opened if isinstance(shard, ShardIndex)]
    sizes = [size for shard in opened for size in _sizes(shard.num_samples, samples_per_chunk)]
    return ImageSource(
        " ".join([shards_fingerprint(opened), *([image_field] if image_field else [])]),
        sizes,
        partial(_shard_locations, opened, image_field),
        partial(_changed_file, local, _signatures(local)),
        _damage(opened),
    )


def from_folder(folder: Path, samples_per_chunk: int) -> ImageSource:
    """List the image files of a folder and its subfolders; captions are in text files beside them.

    Raises:
        UserError: the folder is missing, cannot be read, or has no image in it.
    """
    scan = scan_folders([folder])
    return ImageSource(
        scan.fingerprint,
        _sizes(scan.images, samples_per_chunk),
        partial(_folder_locations, folder),
        partial(_changed_folder, folder, scan.fingerprint),
        NO_DAMAGE,
    )


def from_tables(
    tables: Sequence[Path], path_column: str, caption_column: str | None, samples_per_chunk: int
) -> ImageSource:
    """List the image files that parquet tables name by paths relative to the table's folder.

    Args:
        tables: parquet files.
        path_column: column of the image paths.
        caption_column: column of the captions. None: captions are in text files next to the images.
        samples_per_chunk: largest number of samples of a chunk.

    Raises:
        UserError: a table cannot be read, or lacks a column of text of that name; no table has a
            row; or pyarrow is not installed.
    """
    require_packages("parquet", "Parquet files need", "pyarrow")
    columns = [path_column, *([caption_column] if caption_column is not None else [])]
    rows = sum(_count_rows(table, columns) for table in tables)
    if not rows:
        raise UserError(
            f"None of the {len(tables)} tables has a row (first: {tables[0]}). Set tables to "
            "parquet files that list images."
        )
    signatures = _signatures(tables)
    return ImageSource(
        fingerprint([*signatures, columns]),
        _sizes(rows, samples_per_chunk),
        partial(_table_locations, tables, columns),
        partial(_changed_file, tables, signatures),
        NO_DAMAGE,
    )


def _sizes(count: int, max_size: int) -> list[int]:
    return [min(max_size, count - first) for first in range(0, count, max_size)]


def _damage(shards: Sequence[ShardIndex | RemoteShard]) -> Damage:
    damaged = [shard for shard in shards if isinstance(shard, ShardIndex) and shard.problem]
    problems = {shard.path: f"{shard.path.name}: {shard.problem}" for shard in damaged}
    return Damage(
        num_shards=len(shards),
        dead=[problems[shard.path] for shard in damaged if not shard.num_samples],
        partly=[problems[shard.path] for shard in damaged if shard.num_samples],
    )


# Changes since the listing.

Signature = tuple[str, int, int] | None
"""Path, size and time of a file (see `file_signature`); None if there is no such file."""


def _signatures(files: Sequence[Path]) -> list[Signature]:
    return [file_signature(file) if file.exists() else None for file in files]


def _changed_file(files: Sequence[Path], before: Sequence[Signature]) -> str:
    compared = zip(files, before, _signatures(files), strict=True)
    return next((str(file) for file, then, now in compared if then != now), "")


def _changed_folder(folder: Path, before: str) -> str:
    try:
        return "" if scan_folders([folder]).fingerprint == before else str(folder)
    except UserError:  # the folder, or its last image, was removed
        return str(folder)


# Locations of the samples.


def _shard_locations(
    shards: Sequence[ShardIndex | RemoteShard], image_field: str | None
) -> Iterator[ImageLocation]:
    for shard in shards:
        if isinstance(shard, ShardIndex):
            for start, end in zip(shard.starts, shard.ends, strict=True):
                yield ShardLocation(shard.path, int(start), int(end), image_field)
        else:
            for number in range(shard.num_samples):
                yield RemoteLocation(shard, number, image_field)


def _folder_locations(folder: Path) -> Iterator[ImageLocation]:
    for file in image_files([folder], None):
        yield FileLocation(file.number, folder / file.name, replace_undecodable(file.name), None)


def _table_locations(tables: Sequence[Path], columns: Sequence[str]) -> Iterator[ImageLocation]:
    number = 0
    for table in tables:
        for row in _rows(table, columns):
            path, *captions = (row[name] or "" for name in columns)
            caption = captions[0].strip() if captions else None
            yield FileLocation(number, table.parent / path, path, caption)
            number += 1


def _rows(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches(columns=[*columns]):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{table} cannot be read any more: {error}") from error


def _count_rows(table: Path, columns: Sequence[str]) -> int:
    """Count the rows of a table, and check that it has these columns and that they are strings."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (ArrowException, OSError) as error:
        raise UserError(f"{table} cannot be read as parquet: {error}") from error
    for column in columns:
        if column not in schema.names:
            raise UserError(
                f"{table} has the columns {', '.join(schema.names)}, and no {column}. "
                "Set path_column and caption_column."
            )
        column_type = str(schema.field(column).type)
        if column_type not in ("string", "large_string"):
            raise UserError(
                f"The column {column} of {table} holds {column_type}, not strings. Set path_column "
                "and caption_column to columns of text."
            )
    return int(rows)
