"""Read the headers of a tar and group its members into samples."""

import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import ShardError

BLOCK_BYTES = 512

KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's rule: the key ends at the first dot of the file name; the field name follows it."""

METADATA = re.compile(r"__[^/]*__($|/)")
"""Pattern of the member names that WebDataset skips."""

IMAGE_FIELDS = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif", "bmp", "gif", "tif",
    "tiff", "ppm",
})  # fmt: skip

MAX_PADDING_BYTES = 2**20
"""Most zeros with which a tar program pads the end of a file; more mean a hole in the file."""


class Field(NamedTuple):
    """File of a sample; offsets are bytes from the start of the tar."""

    key: str
    name: str
    """Field name in lower case, as in WebDataset: jpg, txt, json, ..."""

    member: str
    """Name of the file in the tar."""

    start: int
    """Offset of the file's first header."""

    end: int
    """Offset after the file's last block, where the next member starts."""

    @property
    def is_image(self) -> bool:
        """Whether training reads this field as an image."""
        return self.name in IMAGE_FIELDS


def walk_shard(
    path: Path, take_sample: Callable[[list[Field]], None], take_other: Callable[[str], None]
) -> tuple[int, str]:
    """Read a shard's headers and group its members into samples.

    Damage costs the samples after it, and the one before it, which may be incomplete.

    Args:
        path: the shard.
        take_sample: called with each complete sample, in order.
        take_other: called with the name of each member that belongs to no sample.

    Returns:
        The size of the file in bytes; and its damage as text, empty if there is none.

    Raises:
        ShardError: the file cannot be read.
    """
    sample: list[Field] = []
    num_bytes = 0
    try:
        num_bytes = path.stat().st_size
        with tarfile.open(path, mode="r:") as tar:
            for info in _members(tar):
                match = KEY_AND_FIELD.match(info.name)
                if not match or not info.isreg() or METADATA.match(info.name):
                    take_other(info.name)
                    continue
                field = Field(match[1], match[2].lower(), info.name, info.offset, tar.offset)
                if sample and _begins_sample(field, sample):
                    take_sample(sample)
                    sample = []
                sample.append(field)
            is_complete, problem = _check_end(path, tar.offset)
    except (tarfile.TarError, ArithmeticError, ValueError, RecursionError) as error:
        is_complete, problem = False, f"damaged ({error}); samples after it and one before are lost"
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}.") from error
    if sample and is_complete:
        take_sample(sample)
    return num_bytes, problem


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members; `tar.offset` is then the offset after the member's last block."""
    while (info := tar.next()) is not None:
        if info.size < 0:  # tarfile would seek back and read the same header for ever
            raise tarfile.ReadError(f"{info.name!a} has a negative size")
        if info.issparse():  # 512 bytes can claim to be terabytes of zeros
            raise tarfile.ReadError(f"{info.name!a} is a sparse file")
        # tarfile would keep every member in memory.
        tar.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        yield info


def _begins_sample(field: Field, sample: list[Field]) -> bool:
    """Return whether a field starts a new sample: its key is new, or the sample has its name."""
    return field.key != sample[0].key or field.name in [f.name for f in sample]


def _check_end(path: Path, offset: int) -> tuple[bool, str]:
    """Check the bytes after the last member, which tarfile ignores.

    Returns:
        Whether the last sample is complete; and the damage as text, empty if there is none.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block, padding, more = (file.read(n) for n in (BLOCK_BYTES, MAX_PADDING_BYTES, 1))
    if len(block) < BLOCK_BYTES:
        return False, "cut off: the end marker is missing, so the last sample is left out"
    if any(block):
        return False, f"damaged at byte {offset}; samples after it and one before are lost"
    if any(padding) or more:
        return True, f"has data after its end marker at byte {offset}; that data is not read"
    return True, ""
