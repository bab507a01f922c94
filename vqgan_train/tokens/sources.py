"""What is encoded: samples in their order, cut into parts that become a file each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vqgan_train.data import fingerprint as shards_fingerprint
from vqgan_train.data import index_shards
from vqgan_train.data.index import ShardIndex
from vqgan_train.preparation.folders import image_files, look_through, printable
from vqgan_train.preparation.job import fingerprint, stamp
from vqgan_train.preparation.records import require_pyarrow
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.places import FilePlace, Place, ShardPlace

FEWEST_DIGITS = 3


class Part(NamedTuple):
    """Samples that become one file."""

    name: str
    """001, 002, ...: with as many digits as the last one needs."""

    places: list[Place]


class Source(NamedTuple):
    """Samples in an order that is the same every time."""

    fingerprint: str
    """Changes when they do."""

    sizes: list[int]
    """Samples of each part."""

    places: Callable[[], Iterator[Place]]
    """Goes through all of them."""

    def part_names(self) -> list[str]:
        """One a part."""
        digits = max(FEWEST_DIGITS, len(str(len(self.sizes))))
        return [f"{number:0{digits}d}" for number in range(1, len(self.sizes) + 1)]

    def parts(self, wanted: set[str]) -> Iterator[Part]:
        """Go through some parts, in their order; one is in memory at a time."""
        places = self.places()
        for name, size in zip(self.part_names(), self.sizes, strict=True):
            part = list(islice(places, size))
            if name in wanted:
                yield Part(name, part)


def from_shards(shards: Sequence[Path], samples_per_file: int) -> Source:
    """Take the samples of shards; no part holds samples of two.

    Raises:
        ShardError: a shard cannot be read or holds no image.
    """
    indices = index_shards(shards)
    sizes = [size for index in indices for size in _sizes(len(index.starts), samples_per_file)]
    return Source(shards_fingerprint(indices), sizes, partial(_shard_places, indices))


def from_folder(folder: Path, samples_per_file: int) -> Source:
    """Take the image files of a folder of any depth, with captions from text files beside them.

    Raises:
        PreparationError: it is missing, or there is no image in it.
    """
    found = look_through([folder])
    sizes = _sizes(found.images, samples_per_file)
    return Source(found.fingerprint, sizes, partial(_folder_places, folder))


def from_tables(
    tables: Sequence[Path], path_column: str, caption_column: str | None, samples_per_file: int
) -> Source:
    """Take the image files that parquet tables name, relative to the table's own folder.

    Args:
        tables: parquet files.
        path_column: names the image.
        caption_column: holds the caption. None: text files beside the images.
        samples_per_file: samples a part, at most.

    Raises:
        TokenError: a table cannot be read or lacks a column, or there is no row in any.
        PreparationError: pyarrow is not installed.
    """
    require_pyarrow()
    columns = [path_column, *([caption_column] if caption_column is not None else [])]
    rows = sum(_count_rows(table, columns) for table in tables)
    if not rows:
        raise TokenError(f"{tables[0]} has no row. Give tables of paths of images.")
    return Source(
        fingerprint([*map(stamp, tables), columns]),
        _sizes(rows, samples_per_file),
        partial(_table_places, tables, columns),
    )


def _sizes(count: int, most: int) -> list[int]:
    return [min(most, count - first) for first in range(0, count, most)]


def _shard_places(indices: Sequence[ShardIndex]) -> Iterator[Place]:
    for index in indices:
        for start, end in zip(index.starts, index.ends, strict=True):
            yield ShardPlace(index.path, int(start), int(end))


def _folder_places(folder: Path) -> Iterator[Place]:
    for file in image_files([folder], None):
        yield FilePlace(file.number, folder / file.name, printable(file.name), None)


def _table_places(tables: Sequence[Path], columns: list[str]) -> Iterator[Place]:
    from pyarrow import parquet

    number = 0
    for table in tables:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    path, *captions = (row[name] or "" for name in columns)
                    caption = captions[0].strip() if captions else None
                    yield FilePlace(number, table.parent / path, path, caption)
                    number += 1


def _count_rows(table: Path, columns: Sequence[str]) -> int:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (ArrowException, OSError) as error:
        raise TokenError(f"{table} cannot be read as parquet: {error}") from error
    for column in columns:
        if column not in schema.names:
            raise TokenError(
                f"{table} has the columns {', '.join(schema.names)}, and no {column}. "
                "Set path_column and caption_column."
            )
        kind = str(schema.field(column).type)
        if kind not in ("string", "large_string"):
            raise TokenError(f"The column {column} of {table} holds {kind}, not strings.")
    return int(rows)
