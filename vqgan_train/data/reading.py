"""One sample out of a shard on disk: its byte range, grouped by WebDataset."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.data.index import ShardIndex
from vqgan_train.data.listing import METADATA
from vqgan_train.data.members import read_plain_files
from vqgan_train.data.shards import ShardError


def read_sample(shard: ShardIndex, place: int) -> dict[str, Any]:
    """Read one sample's fields: `__key__` and bytes under `jpg`, `txt`, `json`, ...

    Raises:
        ShardError: the shard is another file than the one that was indexed.
    """
    return read_range(shard.path, int(shard.starts[place]), int(shard.ends[place]))


def read_range(path: Path, start: int, end: int) -> dict[str, Any]:
    """Read the fields of the sample that lies between two bytes of a shard.

    Raises:
        ShardError: no sample begins there.
    """
    with path.open("rb") as file:
        file.seek(start)
        piece = file.read(end - start)
    try:
        return next(iter(group_by_keys(_members(piece, str(path)))))
    except (tarfile.TarError, ValueError, RecursionError, StopIteration) as error:
        raise ShardError(
            f"{path} has changed since it was indexed: no sample begins at byte {start}. "
            "Leave shards alone while a run reads them, and start it again."
        ) from error


def _members(piece: bytes, url: str) -> Iterable[dict[str, Any]]:
    """What WebDataset finds in a piece of a shard, an end marker included; at once if it is plain.

    tarfile, which WebDataset asks, takes a tenth of the time of a training image.
    """
    files = read_plain_files(piece)
    if not files:
        return tar_file_expander([{"url": url, "stream": io.BytesIO(piece)}])
    named = [(name, data) for name, data in files if not METADATA.match(name)]
    return [*({"fname": name, "data": data, "__url__": url} for name, data in named), {}]
