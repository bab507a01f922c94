"""The one mapping between the original's weights and Flax's (patil-suraj/vqgan-jax), both ways.

    encoder.down.0.block.1.conv1.weight OIHW  encoder/down_0/block_1/conv1/kernel HWIO
    encoder.norm_out.weight (C)               encoder/norm_out/scale (C)
    quantize.embedding.weight                 quantize/embedding/embedding

Files of before Flax 0.3.6 have scales and biases of norms as (1, 1, 1, C), which is read too.
"""

import re
from collections.abc import Mapping

from torch import Tensor

FlaxPath = tuple[str, ...]
"""Keys of nested dicts, from the outermost in."""

ORIGINAL_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
KERNEL_DIMENSIONS = 4


def to_flax(weights: Mapping[str, Tensor]) -> dict[FlaxPath, Tensor]:
    """Rename and lay out the generator's weights, which are under the original's names."""
    return {
        _flax_path(name, weight): _flax_layout(weight).contiguous()
        for name, weight in weights.items()
    }


def original_name(path: FlaxPath) -> str:
    """What the original calls the weight at `path`; whatever is not Flax's stays as it is."""
    *modules, leaf = path or ("",)
    names = []
    for before, module in zip(["", *modules], modules, strict=False):
        # mid.block_1 is called so by the original too.
        numbered = re.fullmatch(r"(down|up|block|attn)_([0-9]+)", module)
        names.append(f"{numbered[1]}.{numbered[2]}" if numbered and before != "mid" else module)
    return ".".join([*names, ORIGINAL_LEAVES.get(leaf, leaf)])


def original_layout(path: FlaxPath, array: Tensor) -> Tensor:
    """The array at `path` as the original has it."""
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
