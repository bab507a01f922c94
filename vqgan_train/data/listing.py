"""What lies in a shard: samples as WebDataset would group them, and what is wrong with the file."""

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vqgan_train.data.members import BLOCK_BYTES, Member, read_members
from vqgan_train.data.shards import ShardError

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
