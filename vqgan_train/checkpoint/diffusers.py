"""Convert weights between taming-transformers, the original, and diffusers' VQModel.

diffusers numbers the decoder's levels from the smallest resolution, the original from the largest.
The attention's 1x1 convolutions (C, C, 1, 1) are linear layers (C, C) in diffusers.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from vqgan_train.checkpoint.architecture import count_numbers
from vqgan_train.checkpoint.unpickling import printable_text
from vqgan_train.checkpoint.weight_names import PrefixRule, match_prefix, prefix_rules

CODEBOOK = "quantize.embedding.weight"
DOWN = "encoder.down_blocks."
MATRIX_DIMENSIONS = 2

_PREFIXES = (
    ("encoder.down.#.block.#.", "encoder.down_blocks.#.resnets.#."),
    ("encoder.down.#.attn.#.", "encoder.down_blocks.#.attentions.#."),
    ("encoder.down.#.downsample.", "encoder.down_blocks.#.downsamplers.0."),
    ("decoder.up.#.block.#.", "decoder.up_blocks.#.resnets.#."),
    ("decoder.up.#.attn.#.", "decoder.up_blocks.#.attentions.#."),
    ("decoder.up.#.upsample.", "decoder.up_blocks.#.upsamplers.0."),
    ("encoder.mid.block_1.", "encoder.mid_block.resnets.0."),
    ("encoder.mid.attn_1.", "encoder.mid_block.attentions.0."),
    ("encoder.mid.block_2.", "encoder.mid_block.resnets.1."),
    ("decoder.mid.block_1.", "decoder.mid_block.resnets.0."),
    ("decoder.mid.attn_1.", "decoder.mid_block.attentions.0."),
    ("decoder.mid.block_2.", "decoder.mid_block.resnets.1."),
    ("encoder.norm_out.", "encoder.conv_norm_out."),
    ("decoder.norm_out.", "decoder.conv_norm_out."),
)
"""The original's prefix and diffusers'; each `#` is a number."""

_LAYERS = {
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
"""diffusers' names of layers, by the original's."""

_OLD_LAYERS = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
"""The original's names of layers, by those in diffusers until 2023."""

_TO_DIFFUSERS = prefix_rules(_PREFIXES)
_TO_ORIGINAL = prefix_rules((diffusers, original) for original, diffusers in _PREFIXES)


def is_diffusers(weights: Iterable[str]) -> bool:
    """Return whether names are those of diffusers' VQModel, not its KL-VAE without a codebook."""
    names = set(weights)
    return CODEBOOK in names and any(name.startswith(DOWN) for name in names)


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the generator's weights from the original's names and shapes to VQModel's."""
    levels = count_numbers(weights, r"encoder\.down\.([0-9]+)\.")
    renamed = {_translate(name, levels, _TO_DIFFUSERS, _LAYERS): w for name, w in weights.items()}
    return {
        name: weight.flatten(1) if _is_projection(name) else weight
        for name, weight in renamed.items()
    }


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a VQModel's weights to the original's names and shapes; unknown names are kept.

    Raises:
        ValueError: two weights get the same name.
    """
    levels = count_numbers(weights, r"encoder\.down_blocks\.([0-9]+)\.")
    layers = {diffusers: original for original, diffusers in _LAYERS.items()} | _OLD_LAYERS
    original: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original_name = _translate(name, levels, _TO_ORIGINAL, layers)
        if original_name in original:
            raise ValueError(f"it has two weights for taming's {printable_text(original_name)}")
        is_matrix = _is_projection(name) and weight.dim() == MATRIX_DIMENSIONS
        original[original_name] = weight[..., None, None] if is_matrix else weight
    return original


def _is_projection(name: str) -> bool:
    """Return whether a name in diffusers is that of an attention's linear layer."""
    layer = r"(to_(q|k|v|out\.0)|query|key|value|proj_attn)"
    return bool(re.search(rf"\.attentions\.[0-9]+\.{layer}\.weight$", name))


def _translate(name: str, levels: int, rules: list[PrefixRule], layers: Mapping[str, str]) -> str:
    match = match_prefix(name, rules)
    if match is None:
        return name
    replacement, numbers, rest = match
    if replacement.startswith("decoder.up"):
        numbers[0] = str(levels - 1 - int(numbers[0]))
    layer, dot, leaf = rest.rpartition(".")
    return f"{replacement.format(*numbers)}{layers.get(layer, layer)}{dot}{leaf}"
