"""Parquet tables that name image files, and perhaps their captions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.places import FilePlace, Place


def table_places(tables: Sequence[Path], columns: Sequence[str]) -> Iterator[Place]:
    """Go through the rows of tables.

    Args:
        tables: parquet files.
        columns: of the path, and perhaps of the caption.

    Raises:
        TokenError: a table cannot be read any more.
    """
    number = 0
    for table in tables:
        for row in _rows(table, columns):
            path, *captions = (row[name] or "" for name in columns)
            caption = captions[0].strip() if captions else None
            yield FilePlace(number, table.parent / path, path, caption)
            number += 1


def _rows(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches(columns=[*columns]):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise TokenError(f"{table} cannot be read any more: {error}") from error


def count_rows(table: Path, columns: Sequence[str]) -> int:
    """Count the rows of a table that has certain columns of strings.

    Raises:
        TokenError: it cannot be read, or lacks one.
    """
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
