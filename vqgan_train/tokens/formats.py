"""The formats of token files: each file is written whole, and says how its tokens were made."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.shards.tar import walk_shard
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.errors import TokenError
from vqgan_train.system.files import write_whole
from vqgan_train.system.packages import require_pyarrow
from vqgan_train.tokens.batches import Labels, Row
from vqgan_train.tokens.metadata import METADATA_KEY, TokenMetadata

HIDDEN_KEY = "__metadata__/vqgan_train"
"""WebDataset reads past names like this."""

ROWS_AT_ONCE = 256

NO_LABELS = Labels("", "", "")
"""Of files that others wrote, which may have tokens and nothing else."""

DAMAGED = (OSError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, AttributeError)
"""What reading raises that finds something else than what it looks for."""

Rows = list[Row]
Reading = tuple[Any, Callable[[], Iterator[Row]]]
"""What a file says of how it was made, as plain values, empty if nothing; and what reads it."""


class TokenFormat(NamedTuple):
    """One way to keep tokens in files."""

    ending: str
    """Of a file's name."""

    write: Callable[[Path, Rows, TokenMetadata], None]
    """Writes a file; what it leaves is whole, whenever it is killed."""

    read: Callable[[Path], Reading]
    """Opens a file; raises TokenError if it is no such file. Its rows come a few at a time."""


def _write_parquet(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # DALL-E mini's own files have its two columns first, and its numbers are int64.
    values = np.concatenate([row.tokens for row in rows]).astype(np.int64)
    ends = np.cumsum([0, *(len(row.tokens) for row in rows)]).astype(np.int32)
    columns = {
        "caption": pa.array([row.labels.caption for row in rows], pa.string()),
        "encoding": pa.ListArray.from_arrays(pa.array(ends), pa.array(values)),
        "key": pa.array([row.labels.key for row in rows], pa.string()),
        "source": pa.array([row.labels.source for row in rows], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata.to_json()})
    with write_whole(path) as file:
        parquet.write_table(table, file)


def _read_parquet(path: Path) -> Reading:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            said = (file.schema_arrow.metadata or {}).get(METADATA_KEY.encode())
    except (ArrowException, OSError) as error:
        raise TokenError(f"{path} cannot be read as parquet: {error}") from error
    return _parsed(said, path) if said else {}, partial(_parquet_rows, path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            there = [name for name in Labels._fields if name in names]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*there, "encoding"]):
                for row in batch.to_pylist():
                    tokens = np.array(row.pop("encoding"), np.int32)
                    yield Row(Labels(**{**NO_LABELS._asdict(), **row}), tokens)
    except ArrowException as error:
        raise ValueError(str(error)) from error


def _write_npy(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    beside = {
        METADATA_KEY: json.loads(metadata.to_json()),
        **{name: [getattr(row.labels, name) for row in rows] for name in Labels._fields},
    }
    with write_whole(path.with_suffix(".json")) as file:
        file.write(json.dumps(beside, ensure_ascii=False).encode("utf-8", "replace"))
    with write_whole(path) as file:
        np.save(file, np.stack([row.tokens for row in rows]))


def _read_npy(path: Path) -> Reading:
    table = path.with_suffix(".json")
    try:
        beside: dict[str, Any] = dict(json.loads(table.read_bytes()))
    except (ValueError, TypeError, OSError) as error:
        raise TokenError(
            f"{path} needs {table} beside it, which says what its rows are: {error}"
        ) from error
    return beside.get(METADATA_KEY, {}), partial(_npy_rows, path)


def _npy_rows(path: Path) -> Iterator[Row]:
    beside = json.loads(path.with_suffix(".json").read_bytes())
    columns = [beside[name] for name in Labels._fields]
    tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if any(len(column) != len(tokens) for column in columns):
        raise ValueError(f"its .json is of {len(columns[0])} rows, and not of {len(tokens)}")
    for *said, own in zip(*columns, tokens, strict=True):
        yield Row(Labels(*said), own)


def _write_webdataset(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    write_shard(path, _samples(rows, metadata))


def _samples(rows: Rows, metadata: TokenMetadata) -> Iterator[dict[str, str | bytes]]:
    yield {"__key__": HIDDEN_KEY, "json": metadata.to_json()}
    name = ""
    for labels, tokens in rows:
        # WebDataset takes neighbours of one name for one sample.
        name = labels.key if labels.key != name else f"{labels.key}_"
        encoded = io.BytesIO()
        np.save(encoded, tokens)
        yield {
            "__key__": name,
            "npy": encoded.getvalue(),
            "txt": labels.caption,
            "json": json.dumps({"key": labels.key, "source": labels.source}, ensure_ascii=False),
        }


def _read_webdataset(path: Path) -> Reading:
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            file = tar.extractfile(first) if first and first.name == f"{HIDDEN_KEY}.json" else None
            said = json.load(file) if file else {}
    except (tarfile.TarError, ValueError, OSError) as error:
        raise TokenError(f"{path} is no shard of tokens: {error}") from error
    return said, partial(_webdataset_rows, path)


def _webdataset_rows(path: Path) -> Iterator[Row]:
    # WebDataset says nothing where a tar ends too soon between two members.
    _, problem = walk_shard(path, lambda _sample: None, lambda _other: None)
    if problem:
        raise ValueError(problem)
    with path.open("rb") as stream:
        members = tar_file_expander([{"url": str(path), "stream": stream}])
        for sample in group_by_keys(members):
            said = json.loads(sample["json"])
            labels = Labels(said["key"], sample["txt"].decode("utf-8"), said["source"])
            yield Row(labels, np.load(io.BytesIO(sample["npy"]), allow_pickle=False))


FORMATS = {
    "parquet": TokenFormat(".parquet", _write_parquet, _read_parquet),
    "npy": TokenFormat(".npy", _write_npy, _read_npy),
    "webdataset": TokenFormat(".tar", _write_webdataset, _read_webdataset),
}
"""By the names that `format=` takes; docs/tokens.md says what is in a file of each."""


def require_installed(token_format: TokenFormat) -> None:
    """Refuse a format before hours are spent, if what writes it is not there.

    Raises:
        PreparationError: it is parquet, and pyarrow is not installed.
    """
    if token_format is FORMATS["parquet"]:
        require_pyarrow()


def open_any(path: Path) -> tuple[TokenMetadata | None, Callable[[], Iterator[Row]]]:
    """Open a file of tokens by its ending.

    Returns:
        How it was made, None if it does not say; and what reads its rows.

    Raises:
        TokenError: it is no such file.
        PreparationError: it is parquet, and pyarrow is not installed.
    """
    for token_format in FORMATS.values():
        if path.suffix == token_format.ending:
            require_installed(token_format)
            said, rows = token_format.read(path)
            metadata = TokenMetadata.from_plain(said, path) if said else None
            return metadata, partial(_whole_rows, path, rows)
    endings = ", ".join(token_format.ending for token_format in FORMATS.values())
    raise TokenError(f"{path} is no file of tokens: their names end with {endings}.")


def _whole_rows(path: Path, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Read a file's rows, and say in one way what is wrong with it."""
    number = 0
    try:
        for row in rows():
            if row.tokens.ndim != 1 or row.tokens.dtype.kind not in "iu":
                raise ValueError(f"it holds {row.tokens.dtype} of shape {row.tokens.shape}")
            number += 1
            yield row
    except (*DAMAGED, tarfile.TarError) as error:
        raise TokenError(
            f"{path} is damaged, or holds no tokens, after the first {number} rows "
            f"({type(error).__name__}: {error}). Encode its images again, or leave it out."
        ) from error


def _parsed(said: bytes, path: Path) -> Any:
    try:
        return json.loads(said)
    except ValueError as error:
        raise TokenError(f"{path} is damaged: {error}") from error
