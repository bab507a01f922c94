"""One sample out of a shard on disk: its byte range, grouped by WebDataset."""

import io
import tarfile
from pathlib import Path
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.data.index import ShardIndex
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
        stream = io.BytesIO(file.read(end - start))
    members = tar_file_expander([{"url": str(path), "stream": stream}])
    try:
        return next(iter(group_by_keys(members)))
    except (tarfile.TarError, ValueError, RecursionError, StopIteration) as error:
        raise ShardError(
            f"{path} has changed since it was indexed: no sample begins at byte {start}. "
            "Leave shards alone while a run reads them, and start it again."
        ) from error
