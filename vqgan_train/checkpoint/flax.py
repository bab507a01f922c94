"""Read and write weights in Flax's msgpack files, with the names of patil-suraj/vqgan-jax.

    taming-transformers, "the original"       Flax
    encoder.down.0.block.1.conv1.weight OIHW  encoder/down_0/block_1/conv1/kernel HWIO
    encoder.norm_out.weight (C)               encoder/norm_out/scale (C)
    quantize.embedding.weight                 quantize/embedding/embedding

Files from before Flax 0.3.6, which hold scales and biases of norms as (1, 1, 1, C), are read too.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import torch
from torch import Tensor

from vqgan_train.checkpoint.unpickling import printable_text

FlaxPath = tuple[str, ...]
"""Keys of nested dicts, the outermost first."""

ORIGINAL_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
"""Last part of a weight's name in the original, by the last part in Flax."""

KERNEL_DIMENSIONS = 4
ARRAY = 1
"""Code of Flax's msgpack extension for an array: (shape, name of the dtype, bytes)."""

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
MAX_DIMENSIONS = 64
"""Maximum number of dimensions in torch and numpy."""

MAX_VALUES = 10_000
"""Maximum number of dicts and arrays in a file. It limits the memory that a hostile file takes: an
empty dict is one byte in the file but 64 in memory. The f16-16384 model has 600."""

DICT, TEXT, BYTES, EXTENSION, OTHER = "dict", "text", "bytes", "extension", "another value"
LONG_VALUES = {
    **{0xC4: (BYTES, 1), 0xC5: (BYTES, 2), 0xC6: (BYTES, 4)},
    **{0xC7: (EXTENSION, 1), 0xC8: (EXTENSION, 2), 0xC9: (EXTENSION, 4)},
    **{0xD9: (TEXT, 1), 0xDA: (TEXT, 2), 0xDB: (TEXT, 4), 0xDE: (DICT, 2), 0xDF: (DICT, 4)},
}
"""Kind of a msgpack value, and bytes of its length, by first byte."""

MAX_HEAD_BYTES = 1024
"""Maximum bytes of an array's shape and dtype."""


def to_flax(weights: Mapping[str, Tensor]) -> dict[FlaxPath, Tensor]:
    """Convert the generator's weights from the original's names and layout to Flax's."""
    return {
        _flax_path(name, weight): _flax_layout(weight).contiguous()
        for name, weight in weights.items()
    }


def original_name(path: FlaxPath) -> str:
    """Return the original's name of the weight at `path`; unknown parts stay unchanged."""
    *modules, leaf = path or ("",)
    names = []
    for before, module in zip(["", *modules], modules, strict=False):
        # The original also writes mid.block_1 with an underscore.
        numbered = re.fullmatch(r"(down|up|block|attn)_([0-9]+)", module)
        names.append(f"{numbered[1]}.{numbered[2]}" if numbered and before != "mid" else module)
    return ".".join([*names, ORIGINAL_LEAVES.get(leaf, leaf)])


def original_layout(path: FlaxPath, array: Tensor) -> Tensor:
    """Return the array at `path` in the original's layout: OIHW kernels, flat vectors."""
    if path[-1] == "kernel" and array.dim() == KERNEL_DIMENSIONS:
        return array.permute(3, 2, 0, 1).contiguous()
    if path[-1] in ("scale", "bias") and array.shape[:-1] == (1, 1, 1):
        return array.flatten()
    return array


def _flax_path(name: str, weight: Tensor) -> FlaxPath:
    *modules, leaf = re.sub(r"\.([0-9]+)(?=\.)", r"_\1", name).split(".")
    if leaf == "weight":
        vector = "scale" if weight.dim() == 1 else "embedding"
        leaf = "kernel" if weight.dim() == KERNEL_DIMENSIONS else vector
    return (*modules, leaf)


def _flax_layout(weight: Tensor) -> Tensor:
    return weight.permute(2, 3, 1, 0) if weight.dim() == KERNEL_DIMENSIONS else weight


def read_flax_msgpack(path: Path) -> dict[str, Tensor]:
    """Read weights, under the original's names and in its layout.

    Raises:
        ValueError: the file is damaged, or Flax did not write it.
    """
    with path.open("rb") as file:
        weights: dict[str, Tensor] = {}
        for flax_path, array in _Decoder(file).leaves():
            name = original_name(flax_path)
            if name in weights:
                raise ValueError(f"it has the weight {printable_text(name)} twice")
            weights[name] = original_layout(flax_path, array)
        if file.read(1):
            raise ValueError("it has further bytes after its weights")
    return weights


def write_flax_msgpack(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the same bytes as `flax.serialization.msgpack_serialize`.

    Args:
        weights: the generator's weights under the original's names; dtypes as in `DTYPES`.
        path: the file; an existing one is overwritten.
    """
    tree: dict[str, Any] = {}
    for (*modules, leaf), array in sorted(to_flax(weights).items(), key=itemgetter(0)):
        branch = tree
        for module in modules:
            branch = branch.setdefault(module, {})
        branch[leaf] = array
    path.write_bytes(msgpack.packb(tree, default=_pack_array, strict_types=True))


def _pack_array(array: Tensor) -> msgpack.ExtType:
    dtype = str(array.dtype).removeprefix("torch.")
    assert dtype in DTYPES
    content = array.flatten().view(torch.uint8).numpy().tobytes()
    return msgpack.ExtType(ARRAY, msgpack.packb((tuple(array.shape), dtype, content)))


class _Decoder:
    """Reader of what Flax writes of msgpack: dicts with texts as keys, and float arrays.

    Each array is read from the file to where it stays; msgpack's own reader makes four copies.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.num_values = 0

    def leaves(self, path: FlaxPath = ()) -> Iterator[tuple[FlaxPath, Tensor]]:
        """Yield all arrays of the next value with their paths."""
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} dicts and arrays")
        kind, length = self.head()
        if kind == EXTENSION:
            yield path, self.array(length)
        elif kind == DICT:
            names = set()
            for _ in range(length):
                kind, num_bytes = self.head()
                name = self.content(num_bytes).decode()
                if kind != TEXT or name in names:
                    raise ValueError("it has a name twice in one dict, or one that is no text")
                names.add(name)
                yield from self.leaves((*path, name))
        else:
            raise ValueError(f"{printable_text('/'.join(path)) or 'it'} is {kind}, no array")

    def head(self) -> tuple[str, int]:
        """Read a value's kind and length, in bytes or entries."""
        first = self.content(1)[0]
        if first in LONG_VALUES:
            kind, num_bytes = LONG_VALUES[first]
            return kind, int.from_bytes(self.content(num_bytes))
        if 0x80 <= first < 0x90:
            return DICT, first - 0x80
        if 0xA0 <= first < 0xC0:
            return TEXT, first - 0xA0
        return (EXTENSION, 16) if first == 0xD8 else (OTHER, 0)

    def content(self, num_bytes: int) -> bytes:
        content = self.file.read(num_bytes)
        if len(content) < num_bytes:
            raise ValueError("it was cut short; download or copy it again")
        return content

    def array(self, num_bytes: int) -> Tensor:
        """Read an extension's code, and its array if it has such."""
        code, start = self.content(1)[0], self.file.tell()
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.file.read(min(num_bytes, MAX_HEAD_BYTES)))
        try:
            head = unpacker.read_array_header(), unpacker.unpack(), unpacker.unpack()
        except (ValueError, msgpack.UnpackException):
            head = (0, None, None)
        self.file.seek(start + unpacker.tell())
        match head:
            case [3, [*shape], str(dtype)] if code == ARRAY and dtype in DTYPES:
                pass
            case _:
                raise ValueError("it holds something other than float arrays")
        possible = len(shape) <= MAX_DIMENSIONS and all(isinstance(n, int) for n in shape)
        if not possible or min(shape, default=0) < 0:
            raise ValueError("it has an array of an impossible shape")
        kind, length = self.head()
        left = start + num_bytes - self.file.tell()
        if kind != BYTES or not math.prod(shape) * DTYPES[dtype].itemsize == length == left:
            raise ValueError(f"it has a {dtype} array of shape {shape} in {length} bytes")
        array = torch.empty(shape, dtype=DTYPES[dtype])
        if self.file.readinto(array.view(-1).view(torch.uint8).numpy().data) < length:
            raise ValueError("it was cut short; download or copy it again")
        return array
