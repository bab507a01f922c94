"""One sample out of a shard on disk: its byte range, grouped by WebDataset."""

import io
import tarfile
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from vqgan_train.data.index import ShardIndex
from vqgan_train.data.shards import ShardError


def read_sample(shard: ShardIndex, place: int) -> dict[str, Any]:
    """Read one sample's fields: `__key__` and bytes under `jpg`, `txt`, `json`, ...

    Raises:
        ShardError: the shard is another file than the one that was indexed.
    """
    start, end = int(shard.starts[place]), int(shard.ends[place])
    with shard.path.open("rb") as file:
        file.seek(start)
        stream = io.BytesIO(file.read(end - start))
    members = tar_file_expander([{"url": str(shard.path), "stream": stream}])
    try:
        return next(iter(group_by_keys(members)))
    except (tarfile.TarError, StopIteration) as error:
        raise ShardError(
            f"{shard.path} has changed since it was indexed: no sample begins at byte {start}. "
            "Leave shards alone while a run reads them, and start it again."
        ) from error
