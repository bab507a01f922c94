"""Flax's files: nested dicts of arrays in msgpack, in Flax's names and layout."""

import math
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import torch
from torch import Tensor

from vqgan_train.checkpoint.errors import shown
from vqgan_train.checkpoint.flax_layout import original_layout, original_name, to_flax
from vqgan_train.checkpoint.tensors import MAX_DIMENSIONS

ARRAY = 1
"""Flax's msgpack extension for an array: (shape, name of the dtype, bytes)."""

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
MAX_CONTAINERS = 10_000
"""An empty array is one byte in the file and 56 in memory; the f16-16384 model has 250 dicts."""


def read_flax_msgpack(path: Path) -> dict[str, Tensor]:
    """Read weights, under the original's names and in its layout.

    Raises:
        ValueError: the file is damaged, or not what Flax writes.
    """
    with path.open("rb") as file:
        unpacker = _Unpacking(path.stat().st_size).unpacker(file)
        tree = unpacker.unpack()
        if unpacker.read_bytes(1):
            raise ValueError("something follows its weights")
    weights: dict[str, Tensor] = {}
    for flax_path, array in _leaves(tree, ()):
        name = original_name(flax_path)
        if name in weights:
            raise ValueError(f"it has the weight {shown(name)} twice")
        weights[name] = original_layout(flax_path, array)
    return weights


def write_flax_msgpack(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the generator's weights as `flax.serialization.msgpack_serialize` does, to the byte.

    Args:
        weights: under the original's names, of the types in `DTYPES`.
        path: the file, which is overwritten.
    """
    tree: dict[str, Any] = {}
    for (*modules, leaf), array in sorted(to_flax(weights).items(), key=itemgetter(0)):
        branch = tree
        for module in modules:
            branch = branch.setdefault(module, {})
        branch[leaf] = array
    path.write_bytes(msgpack.packb(tree, default=_packed, strict_types=True))


def _packed(array: Tensor) -> msgpack.ExtType:
    dtype = str(array.dtype).removeprefix("torch.")
    assert dtype in DTYPES
    content = array.flatten().view(torch.uint8).numpy().tobytes()
    return msgpack.ExtType(ARRAY, msgpack.packb((tuple(array.shape), dtype, content)))


class _Unpacking:
    """What msgpack may find in a file of so many bytes: dicts, text and arrays, not too many."""

    def __init__(self, file_bytes: int) -> None:
        self.limits = {"max_buffer_size": max(file_bytes, 1), "strict_map_key": True}
        self.num_containers = 0

    def unpacker(self, file: Any = None) -> Any:
        return msgpack.Unpacker(
            file,
            ext_hook=self.array,
            list_hook=self.count,
            object_pairs_hook=self.unique,
            max_array_len=MAX_CONTAINERS,
            max_map_len=MAX_CONTAINERS,
            **self.limits,
        )

    def count(self, container: Any) -> Any:
        self.num_containers += 1
        if self.num_containers > MAX_CONTAINERS:
            raise ValueError(f"it has more than {MAX_CONTAINERS} arrays and dicts")
        return container

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("it has a name twice")
        return dict(self.count(pairs))

    def array(self, code: int, data: bytes) -> Tensor:
        inner = self.unpacker()
        inner.feed(data)
        match inner.unpack() if code == ARRAY else None:
            case [[*shape], str(dtype), bytes(content)] if dtype in DTYPES:
                pass
            case _:
                raise ValueError("it holds something other than arrays of numbers")
        possible = all(isinstance(length, int) and length >= 0 for length in shape)
        if not possible or len(shape) > MAX_DIMENSIONS:
            raise ValueError("it has an array of an impossible shape")
        if math.prod(shape) * DTYPES[dtype].itemsize != len(content):
            raise ValueError(f"it has an array of shape {shape} in {len(content)} bytes")
        return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).view(shape)


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """All arrays of nested dicts, each with its path; msgpack bounds how deep they are."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _leaves(branch, (*path, str(key)))
    else:
        raise ValueError(f"{shown('/'.join(path)) or 'it'} is a {type(tree).__name__}, no array")
