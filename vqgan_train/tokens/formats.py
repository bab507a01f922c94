"""The formats of token files: each file is written whole, and says how its tokens were made."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.cache import write_whole
from vqgan_train.data.writing import write_shard
from vqgan_train.preparation.records import require_pyarrow
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.loading import Labels
from vqgan_train.tokens.metadata import METADATA_KEY, TokenMetadata

HIDDEN_KEY = "__metadata__/vqgan_train"
"""WebDataset reads past names like this."""

ROWS_AT_ONCE = 256


class Row(NamedTuple):
    """One image."""

    labels: Labels
    tokens: NDArray[np.int32]
    """(N,), row by row of the grid."""


Rows = list[Row]
Reading = tuple[TokenMetadata, Iterator[Row]]


class TokenFormat(NamedTuple):
    """One way to keep tokens in files."""

    ending: str
    """Of a file's name."""

    write: Callable[[Path, Rows, TokenMetadata], None]
    """Writes a file; what it leaves is whole, whenever it is killed."""

    read: Callable[[Path], Reading]
    """Reads a file, a few rows at a time; raises TokenError if it is no such file."""


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
    return TokenMetadata.from_plain(json.loads(said) if said else {}, path), _parquet_rows(path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*Labels._fields, "encoding"]):
            for row in batch.to_pylist():
                tokens = np.array(row.pop("encoding"), np.int32)
                yield Row(Labels(**row), tokens)


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
        beside: dict[str, Any] = json.loads(table.read_bytes())
    except (ValueError, OSError) as error:
        raise TokenError(
            f"{path} needs {table} beside it, which says what its rows are: {error}"
        ) from error
    return TokenMetadata.from_plain(beside.get(METADATA_KEY, {}), path), _npy_rows(path)


def _npy_rows(path: Path) -> Iterator[Row]:
    beside = json.loads(path.with_suffix(".json").read_bytes())
    columns = [beside[name] for name in Labels._fields]
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        for *said, own in zip(*columns, tokens, strict=True):
            yield Row(Labels(*said), own)
    except (ValueError, OSError) as error:
        raise TokenError(f"{path} holds no tokens, or not those of its .json: {error}") from error


def _write_webdataset(path: Path, rows: Rows, metadata: TokenMetadata) -> None:
    for (one, _), (next_one, _) in pairwise(rows):
        if one.key == next_one.key:
            raise TokenError(
                f"Two samples that follow one another are called {one.key}, in {one.source} and "
                f"{next_one.source}: WebDataset would take them for one. Take format=parquet."
            )
    write_shard(path, _samples(rows, metadata))


def _samples(rows: Rows, metadata: TokenMetadata) -> Iterator[dict[str, str | bytes]]:
    yield {"__key__": HIDDEN_KEY, "json": metadata.to_json()}
    for labels, tokens in rows:
        encoded = io.BytesIO()
        np.save(encoded, tokens)
        yield {
            "__key__": labels.key,
            "npy": encoded.getvalue(),
            "txt": labels.caption,
            "json": json.dumps({"source": labels.source}, ensure_ascii=False),
        }


def _read_webdataset(path: Path) -> Reading:
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            file = tar.extractfile(first) if first and first.name == f"{HIDDEN_KEY}.json" else None
            said = json.load(file) if file else {}
    except (tarfile.TarError, ValueError, OSError) as error:
        raise TokenError(f"{path} is no shard of tokens: {error}") from error
    return TokenMetadata.from_plain(said, path), _webdataset_rows(path)


def _webdataset_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        members = tar_file_expander([{"url": str(path), "stream": stream}])
        for sample in group_by_keys(members):
            source = json.loads(sample["json"])["source"]
            labels = Labels(sample["__key__"], sample["txt"].decode("utf-8"), source)
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


def open_tokens(path: Path) -> Reading:
    """Read a file of tokens by its ending.

    Raises:
        TokenError: it is no such file.
        PreparationError: it is parquet, and pyarrow is not installed.
    """
    for token_format in FORMATS.values():
        if path.suffix == token_format.ending:
            require_installed(token_format)
            return token_format.read(path)
    endings = ", ".join(token_format.ending for token_format in FORMATS.values())
    raise TokenError(f"{path} is no file of tokens: their names end with {endings}.")
