"""Writing shards: the same samples give the same bytes, and a file is there whole or not at all."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from webdataset import TarWriter

from vqgan_train.system.files import write_atomically


def write_shard(path: Path, samples: Iterable[Mapping[str, str | bytes]]) -> int:
    """Write samples into one tar file.

    Args:
        path: the shard; its folder is made if need be.
        samples: `__key__`, and what each field holds.

    Returns:
        How many samples it has.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    count = 0
    # A time of writing would make two runs differ.
    with write_atomically(path) as partial, TarWriter(partial, mtime=0) as tar:
        for sample in samples:
            tar.write(dict(sample))
            count += 1
    return count
