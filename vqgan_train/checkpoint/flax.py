"""Read and write weights in Flax's msgpack files, with the names of patil-suraj/vqgan-jax.

    taming-transformers, "the original"       Flax
    encoder.down.0.block.1.conv1.weight OIHW  encoder/down_0/block_1/conv1/kernel HWIO
    encoder.norm_out.weight (C)               encoder/norm_out/scale (C)
    quantize.embedding.weight                 quantize/embedding/embedding

Files from before Flax 0.3.6, which hold scales and biases of norms as (1, 1, 1, C), are read too.
"""

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

MAX_CONTAINERS = 10_000
"""Maximum number of lists and dicts in a file. It limits the memory that a hostile file takes: an
empty list is one byte in the file but 56 in memory. The f16-16384 model has 250 dicts."""


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
        ValueError, msgpack.UnpackException: the file is damaged, or Flax did not write it.
    """
    with path.open("rb") as file:
        unpacker = _Decoder(path.stat().st_size).unpacker(file)
        tree = unpacker.unpack()
        if unpacker.read_bytes(1):
            raise ValueError("it has further bytes after its weights")
    weights: dict[str, Tensor] = {}
    for flax_path, array in _leaves(tree, ()):
        name = original_name(flax_path)
        if name in weights:
            raise ValueError(f"it has the weight {printable_text(name)} twice")
        weights[name] = original_layout(flax_path, array)
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
    """Hooks and limits for msgpack, which refuse damaged and hostile files."""

    def __init__(self, file_bytes: int) -> None:
        self.limits = {"max_buffer_size": max(file_bytes, 1), "strict_map_key": True}
        self.num_containers = 0

    def unpacker(self, file: Any) -> Any:
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
            raise ValueError(f"it has more than {MAX_CONTAINERS} lists and dicts")
        return container

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("it has the same name twice in one dict")
        return dict(self.count(pairs))

    def array(self, code: int, data: bytes) -> Tensor:
        # Arrays hold no further extensions; each level would be one more copy in memory.
        match msgpack.unpackb(data, list_hook=self.count) if code == ARRAY else None:
            case [[*shape], str(dtype), bytes(content)] if dtype in DTYPES:
                pass
            case _:
                raise ValueError("it holds something other than float arrays")
        possible = all(isinstance(length, int) and length >= 0 for length in shape)
        if not possible or len(shape) > MAX_DIMENSIONS:
            raise ValueError("it has an array of an impossible shape")
        if math.prod(shape) * DTYPES[dtype].itemsize != len(content):
            raise ValueError(f"it has a {dtype} array of shape {shape} in {len(content)} bytes")
        return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).view(shape)


def _leaves(tree: Any, path: FlaxPath) -> Iterator[tuple[FlaxPath, Tensor]]:
    """Yield all arrays of nested dicts with their paths; msgpack limits the nesting depth."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _leaves(branch, (*path, str(key)))
    else:
        raise ValueError(
            f"{printable_text('/'.join(path)) or 'it'} is of type {type(tree).__name__}, no array"
        )
