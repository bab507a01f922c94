"""Write shards. Equal samples give equal bytes, and a file appears only when it is complete."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from webdataset import TarWriter

from vqgan_train.system.files import write_atomically


def write_shard(path: Path, samples: Iterable[Mapping[str, str | bytes]]) -> int:
    """Write samples into one tar file.

    Args:
        path: the shard; its folder is created if missing.
        samples: mappings of `__key__` and of field names (jpg, txt, ...) to contents.

    Returns:
        The number of samples.

    Raises:
        OSError: the disk is full, or the folder is not writable; no partial file remains.
    """
    count = 0
    # Without mtime=0 the time of writing would make equal shards differ.
    with write_atomically(path) as partial, TarWriter(partial, mtime=0) as tar:
        for sample in samples:
            tar.write(dict(sample))
            count += 1
    return count
