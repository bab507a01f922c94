"""The members of a tar and the bytes they take: tarfile's reading, with a short cut.

tarfile decodes and checks every field of a header, in Python. Nearly all headers in shards are of
one plain kind, which a few calls recognise and understand; tarfile reads all others, and so it
decides about everything unusual: long and foreign names, links, damage, the end.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import ShardError

BLOCK_BYTES = 512

NUMBER = rb"(?:[0-7]{7}[\0 ]|[0-7]{6} \0)"
LONG_NUMBER = rb"[0-7]{11}[\0 ]"
PLAIN_NUMBERS = re.compile(
    # mode, user, group; size; time; checksum
    NUMBER * 3 + rb"([0-7]{11})[\0 ]" + LONG_NUMBER + rb"([0-7]{6})\0 "
)
PLAIN_DEVICE = re.compile(rb"\0{16}|" + NUMBER * 2)
"""Numbers of a header as Python, GNU tar and bsdtar write them."""

TIME_RECORD = re.compile(rb"(([0-9]{1,3}) mtime=[0-9]+(?:\.[0-9]+)?\n)\0*")
"""The decimals of a time, for which WebDataset's writer puts two blocks before every member."""


class Member(NamedTuple):
    """One entry of a tar."""

    name: str
    is_file: bool
    """Whether it is a regular file."""

    start: int
    """Byte at which its headers begin."""

    content: int
    """Byte at which its content begins."""

    num_bytes: int
    """Length of the content."""

    end: int
    """Byte after its last block."""


def read_members(tar: tarfile.TarFile, path: Path) -> Iterator[Member]:
    """Go through a tar that has just been opened; `tar.offset` is where this stands.

    Args:
        tar: opened with mode `r:`.
        path: its file.

    Raises:
        tarfile.TarError, ArithmeticError, ValueError: the file is damaged.
    """
    with path.open("rb") as file:
        while (info := tar.next()) is not None:
            if info.size < 0:  # tarfile would go back, and read the same header for ever
                raise tarfile.ReadError(f"{info.name!a} has a negative size")
            if info.issparse():  # a few bytes that say they are terabytes of zeros
                raise tarfile.ReadError(f"{info.name!a} is a sparse file")
            # Else tarfile remembers every member of a shard of any size.
            tar.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
            yield Member(
                info.name, info.isreg(), info.offset, info.offset_data, info.size, tar.offset
            )
            if tar.pax_headers:  # a header that changes all members after it
                continue
            # From a file of its own: tarfile takes a position that it finds for one it has read.
            while (
                member := _read_plain(file.seek(tar.offset), file.read(3 * BLOCK_BYTES))
            ) is not None:
                tar.offset = member.end
                yield member


def read_plain_files(piece: bytes) -> list[tuple[str, bytes]] | None:
    """Read the names and contents in a piece of a tar, from a header on to the end of a member.

    Returns:
        None if a header is not of the plain kind: tarfile has to look at it.
    """
    files = []
    place = 0
    while place < len(piece):
        member = _read_plain(place, piece[place : place + 3 * BLOCK_BYTES])
        if member is None or member.end > len(piece):
            return None
        files.append((member.name, piece[member.content : member.content + member.num_bytes]))
        place = member.end
    return files


def _read_plain(start: int, blocks: bytes) -> Member | None:
    """Understand a member whose headers are of the plain kind.

    Args:
        start: byte of the tar at which its headers begin.
        blocks: three blocks from there on, or what there is of them.

    Returns:
        None if tarfile has to look at it.
    """
    content = BLOCK_BYTES
    header = blocks[:BLOCK_BYTES]
    kind = header[156:157]
    if kind == b"x":
        record = TIME_RECORD.fullmatch(blocks, BLOCK_BYTES, 2 * BLOCK_BYTES)
        if not record or not _plain_size(header) == int(record[2]) == len(record[1]):
            return None
        content = 3 * BLOCK_BYTES
        header = blocks[2 * BLOCK_BYTES : content]
        kind = header[156:157]
    size = _plain_size(header)
    if size is None or kind != b"0":
        return None
    content += start
    name = header[:100].partition(b"\0")[0].decode("ascii")
    end = content + -(-size // BLOCK_BYTES) * BLOCK_BYTES
    return Member(name, True, start, content, size, end)


def _plain_size(header: bytes) -> int | None:
    """Check a header and read the size in it; None if it is not plain, or not a header."""
    numbers = PLAIN_NUMBERS.fullmatch(header, 100, 156)
    if (
        not numbers
        or not header.isascii()
        or header[345:346] != b"\0"  # the first half of a long name
        or not PLAIN_DEVICE.fullmatch(header, 329, 345)
    ):
        return None
    # The sum of all bytes with the checksum's own eight as spaces. The lower half of Adler-32 is
    # 1 + the sum modulo 65521, which 512 bytes of ASCII stay below.
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * ord(" ")
    return (
        int(numbers[1], 8) if len(header) == BLOCK_BYTES and total == int(numbers[2], 8) else None
    )


KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's rule: the key ends at the first dot of the file name, the rest is the field."""

METADATA = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset reads past."""

IMAGE_FIELDS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm"})
MOST_PADDING_BYTES = 2**20
"""More zeros than any tar program writes at the end are a hole in the file."""


class Field(NamedTuple):
    """A file of a sample."""

    key: str
    name: str
    """In lower case, as WebDataset has it: jpg, txt, json, ..."""

    member: Member

    @property
    def is_image(self) -> bool:
        """Whether it is what a model would be trained on."""
        return self.name in IMAGE_FIELDS


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that the headers of a shard say."""

    path: Path
    num_bytes: int
    """Size of the file."""

    samples: list[list[Field]]
    """Those that are whole, with and without images; never empty ones."""

    others: list[Member]
    """Members that belong to no sample: folders, links, hidden files."""

    problem: str
    """What is wrong with the file; empty if nothing is."""


def list_shard(path: Path) -> Listing:
    """Keep all that `walk_shard` finds: about 1.5 kB a sample of three fields.

    Raises:
        ShardError: the file cannot be read.
    """
    samples: list[list[Field]] = []
    others: list[Member] = []
    num_bytes, problem = walk_shard(path, samples.append, others.append)
    return Listing(path, num_bytes, samples, others, problem)


def walk_shard(
    path: Path, take_sample: Callable[[list[Field]], None], take_other: Callable[[Member], None]
) -> tuple[int, str]:
    """Read a shard's headers and group its members into samples.

    A damaged end costs the samples after the damage and the one it cuts.

    Args:
        path: the shard.
        take_sample: gets each whole sample, in their order.
        take_other: gets each member that belongs to none.

    Returns:
        The size of the file in bytes, and what is wrong with it; empty if nothing is.

    Raises:
        ShardError: the file cannot be read.
    """
    sample: list[Field] = []
    num_bytes = 0
    try:
        num_bytes = path.stat().st_size
        with tarfile.open(path, mode="r:") as tar:
            for member in read_members(tar, path):
                match = KEY_AND_FIELD.match(member.name)
                if not match or not member.is_file or METADATA.match(member.name):
                    take_other(member)
                    continue
                field = Field(match[1], match[2].lower(), member)
                if sample and _begins_sample(field, sample):
                    take_sample(sample)
                    sample = []
                sample.append(field)
            is_whole, problem = _look_at_end(path, tar.offset)
    except (tarfile.TarError, ArithmeticError, ValueError, RecursionError) as error:
        is_whole, problem = False, f"damaged ({error}); the samples after the damage are lost"
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    if sample and is_whole:
        take_sample(sample)
    return num_bytes, problem


def _begins_sample(field: Field, sample: list[Field]) -> bool:
    """Whether a field belongs to the next sample: by its key, or as a second file of one name."""
    return field.key != sample[0].key or field.name in [f.name for f in sample]


def _look_at_end(path: Path, offset: int) -> tuple[bool, str]:
    """Judge a tar by what follows its last member, which tarfile itself lets pass.

    Returns:
        Whether the last sample is whole, and what is wrong.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block, padding, more = (file.read(n) for n in (BLOCK_BYTES, MOST_PADDING_BYTES, 1))
    if len(block) < BLOCK_BYTES:
        return False, "cut off: it has no end marker; its last sample is left out"
    if any(block):
        return False, f"damaged at byte {offset}; the samples from there on and one before are lost"
    if any(padding) or more:
        return True, f"goes on after its end marker at byte {offset}; what follows is not read"
    return True, ""
