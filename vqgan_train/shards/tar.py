"""Read the headers of a tar and group its members into samples."""

import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import PARTIAL

BLOCK_BYTES = 512

KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's rule: the key ends at the first dot of the file name; the field name follows it."""

METADATA = re.compile(r"__[^/]*__($|/)")
"""Pattern of the member names that WebDataset skips."""

IMAGE_FIELDS = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif", "bmp", "gif", "tif",
    "tiff", "ppm",
})  # fmt: skip

MAX_SPARSE_BYTES = 2**28
"""Largest file with holes that is read. 512 bytes can claim to be terabytes of zeros."""

COMPRESSIONS = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz",
}  # fmt: skip
"""Programs that compress files, by the first bytes of these."""

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
        """Whether training can read this field as an image."""
        return is_image_field(self.name)


def is_image_field(name: str) -> bool:
    """Return whether a field such as `jpg` or `0.image.jpg` is an image, by its last suffix."""
    return name.rpartition(".")[2] in IMAGE_FIELDS


def is_hidden(name: str) -> bool:
    """Return whether a path is that of a hidden file, or of what macOS adds beside files.

    Archives from a Mac hold `._x.jpg` beside `x.jpg`, which is no image, and folders __MACOSX.
    """
    *folders, file = name.split("/")
    return file.startswith(".") or "__MACOSX" in (*folders, file)


def walk_shard(
    path: Path, take_sample: Callable[[list[Field]], None], take_other: Callable[[str], None]
) -> tuple[int, str]:
    """Read a shard's headers and group its members into samples.

    Damage costs the samples after it, and the one before it, which may be incomplete. Links cost
    the fields that they stand for, as in WebDataset.

    Args:
        path: the shard.
        take_sample: called with each complete sample, in order.
        take_other: called with the name of each member that belongs to no sample.

    Returns:
        The size of the file in bytes; and its damage as text, empty if there is none.

    Raises:
        ShardError: the file cannot be read, or is compressed.
    """
    sample: list[Field] = []
    num_bytes, num_links = 0, 0
    try:
        num_bytes = path.stat().st_size
        with tarfile.open(path, mode="r:") as tar:
            for info in _members(tar):
                match = None if is_hidden(info.name) else KEY_AND_FIELD.match(info.name)
                if not match or not info.isreg() or METADATA.match(info.name):
                    num_links += info.islnk() or info.issym()
                    take_other(info.name)
                    continue
                field = Field(match[1], match[2].lower(), info.name, info.offset, tar.offset)
                if sample and _begins_sample(field, sample):
                    take_sample(sample)
                    sample = []
                sample.append(field)
            is_complete, problem = _check_end(path, tar.offset)
            if num_links and not problem:
                problem = (
                    f"{num_links} of its files are links, which are not followed. Write it again "
                    "with: tar --hard-dereference --dereference"
                )
    except (tarfile.TarError, ArithmeticError, ValueError, RecursionError) as error:
        _refuse_compressed(path)
        is_complete, problem = False, f"damaged ({error}); samples after it and one before are lost"
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}.") from error
    if sample and is_complete:
        take_sample(sample)
    return num_bytes, problem


def _refuse_compressed(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(6)
    for magic, program in COMPRESSIONS.items():
        if head.startswith(magic):
            stem = path.name.removesuffix(PARTIAL).partition(".")[0]
            raise ShardError(
                f"{path} is compressed by {program}, so its samples cannot be read in any order. "
                f"Unpack it: {program} -dc '{path}' > '{path.with_name(f'{stem}-unpacked.tar')}'"
                f" (an address: 'pipe:curl -sSfL ADDRESS | {program} -dc')"
            )


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members; `tar.offset` is then the offset after the member's last block."""
    while (info := tar.next()) is not None:
        if info.size < 0:  # tarfile would seek back and read the same header for ever
            raise tarfile.ReadError(f"{info.name!a} has a negative size")
        if info.issparse() and info.size > MAX_SPARSE_BYTES:
            raise tarfile.ReadError(f"{info.name!a} is a sparse file of {info.size} bytes")
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
