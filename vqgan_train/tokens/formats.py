"""The formats of token files: parquet, npy and WebDataset, each with the metadata of its tokens."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.shards.tar import walk_shard
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import write_atomically
from vqgan_train.system.packages import require_packages
from vqgan_train.tokens.metadata import METADATA_KEY, TokenMetadata

HIDDEN_KEY = "__metadata__/vqgan_train"
"""Key of the metadata in a tar; WebDataset skips keys that begin with `__NAME__/`."""

ROWS_PER_READ = 256

DAMAGED = (OSError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, AttributeError)
"""Exceptions that reading a damaged file raises."""


class Labels(NamedTuple):
    """What a token file stores of an image besides its tokens."""

    key: str
    caption: str
    source: str


class TokenRow(NamedTuple):
    """Tokens and labels of one image."""

    labels: Labels
    tokens: NDArray[np.int32]
    """(N,), row by row of the grid."""


NO_LABELS = Labels("", "", "")
"""Labels of rows that have none: other programs' files may hold nothing but tokens."""

Rows = list[TokenRow]
RowReader = Callable[[], Iterator[TokenRow]]
"""Reads a file from its start, a few rows at a time."""

OpenedFile = tuple[Any, RowReader]
"""Metadata as parsed JSON, empty if the file has none; and the reader of the rows."""


class TokenFormat(NamedTuple):
    """A file format of tokens."""

    ending: str
    """Suffix of the file's name."""

    write: Callable[[Path, Rows, TokenMetadata], None]
    """Writes the rows to the path; a file appears only when it is complete."""

    read: Callable[[Path], OpenedFile]
    """Opens a file; raises UserError if it is not of this format."""


def _write_parquet(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # As in DALL-E mini's own files: its two columns first, numbers of int64.
    values = np.concatenate([row.tokens for row in rows]).astype(np.int64)
    ends = np.cumsum([0, *(len(row.tokens) for row in rows)]).astype(np.int32)
    columns = {
        "caption": pa.array([row.labels.caption for row in rows], pa.string()),
        "encoding": pa.ListArray.from_arrays(pa.array(ends), pa.array(values)),
        "key": pa.array([row.labels.key for row in rows], pa.string()),
        "source": pa.array([row.labels.source for row in rows], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata.to_json()})
    with write_atomically(path) as file:
        parquet.write_table(table, file)


def _read_parquet(path: Path) -> OpenedFile:
    require_packages("parquet", "Parquet files need", "pyarrow")
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            metadata = (file.schema_arrow.metadata or {}).get(METADATA_KEY.encode(), b"{}")
        return json.loads(metadata), partial(_parquet_rows, path)
    except (ArrowException, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error


def _parquet_rows(path: Path) -> Iterator[TokenRow]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            labels = [name for name in Labels._fields if name in names]
            for batch in file.iter_batches(ROWS_PER_READ, columns=[*labels, "encoding"]):
                for row in batch.to_pylist():
                    tokens = np.array(row.pop("encoding"), np.int32)
                    texts = {name: str(text) for name, text in row.items() if text is not None}
                    yield TokenRow(NO_LABELS._replace(**texts), tokens)
    except ArrowException as error:
        raise ValueError(str(error)) from error


def _write_npy(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    table = {
        METADATA_KEY: json.loads(metadata.to_json()),
        **{name: [getattr(row.labels, name) for row in rows] for name in Labels._fields},
    }
    with write_atomically(path.with_suffix(".json")) as file:
        file.write(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace"))
    with write_atomically(path) as file:
        np.save(file, np.stack([row.tokens for row in rows]))


def _read_npy(path: Path) -> OpenedFile:
    file = path.with_suffix(".json")
    try:
        table: dict[str, Any] = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{path} needs {file} beside it, with its labels, but that cannot be read: {error}"
        ) from error
    return table.get(METADATA_KEY, {}), partial(_npy_rows, path)


def _npy_rows(path: Path) -> Iterator[TokenRow]:
    table = json.loads(path.with_suffix(".json").read_bytes())
    columns = [table[name] for name in Labels._fields]
    tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if any(len(column) != len(tokens) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"the columns of its .json have {lengths} rows, not {len(tokens)}")
    for *labels, row in zip(*columns, tokens, strict=True):
        yield TokenRow(Labels(*labels), row)


def _write_webdataset(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    write_shard(path, _samples(rows, metadata))


def _samples(rows: Rows, metadata: TokenMetadata) -> Iterator[dict[str, str | bytes]]:
    yield {"__key__": HIDDEN_KEY, "json": metadata.to_json()}
    name = ""
    for labels, tokens in rows:
        # WebDataset merges neighbours with the same key into one sample.
        name = labels.key if labels.key != name else f"{labels.key}_"
        encoded = io.BytesIO()
        np.save(encoded, tokens)
        yield {
            "__key__": name,
            "npy": encoded.getvalue(),
            "txt": labels.caption,
            "json": json.dumps({"key": labels.key, "source": labels.source}, ensure_ascii=False),
        }


def _read_webdataset(path: Path) -> OpenedFile:
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            file = tar.extractfile(first) if first and first.name == f"{HIDDEN_KEY}.json" else None
            metadata = json.load(file) if file else {}
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a shard of tokens: {error}") from error
    return metadata, partial(_webdataset_rows, path)


def _webdataset_rows(path: Path) -> Iterator[TokenRow]:
    # WebDataset does not notice if a tar is cut off between two members.
    _, problem = walk_shard(path, lambda _sample: None, lambda _other: None)
    if problem:
        raise ValueError(problem)
    with path.open("rb") as stream:
        members = tar_file_expander([{"url": str(path), "stream": stream}])
        for sample in group_by_keys(members):
            fields = json.loads(sample["json"])
            labels = Labels(fields["key"], sample["txt"].decode("utf-8"), fields["source"])
            yield TokenRow(labels, np.load(io.BytesIO(sample["npy"]), allow_pickle=False))


FORMATS = {
    "parquet": TokenFormat(".parquet", _write_parquet, _read_parquet),
    "npy": TokenFormat(".npy", _write_npy, _read_npy),
    "webdataset": TokenFormat(".tar", _write_webdataset, _read_webdataset),
}
"""Formats by the values of the setting `format`; docs/tokens.md describes their files."""


def open_any(path: Path) -> tuple[TokenMetadata | None, RowReader]:
    """Open a token file in the format of its suffix.

    Returns:
        The metadata, None if the file has none; and the reader of the rows, which raises UserError
        if the file is damaged.

    Raises:
        UserError: it is no token file, its metadata are invalid, or it needs pyarrow.
    """
    for token_format in FORMATS.values():
        if path.suffix == token_format.ending:
            metadata, rows = token_format.read(path)
            checked_rows = partial(_checked_rows, path, rows)
            return TokenMetadata.from_plain(metadata, path) if metadata else None, checked_rows
    endings = ", ".join(token_format.ending for token_format in FORMATS.values())
    raise UserError(f"{path} is not a token file: their names end with {endings}.")


def _checked_rows(path: Path, rows: RowReader) -> Iterator[TokenRow]:
    """Read rows, check that their tokens are rows of integers, and raise errors as UserError."""
    number = 0
    try:
        for row in rows():
            if row.tokens.ndim != 1 or row.tokens.dtype.kind not in "iu":
                raise ValueError(f"tokens are {row.tokens.dtype} of shape {row.tokens.shape}")
            number += 1
            yield row
    except (*DAMAGED, tarfile.TarError) as error:
        raise UserError(
            f"{path} is damaged, or holds no tokens: row {number} cannot be read "
            f"({type(error).__name__}: {error}). Encode its images again, or leave it out."
        ) from error
