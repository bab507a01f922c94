"""Convert between the original's weights and those of diffusers' VQModel.

diffusers numbers the decoder's levels from the smallest resolution, the original from the largest.
The attention's 1x1 convolutions (C, C, 1, 1) are linear layers (C, C) in diffusers.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

from vqgan_train.checkpoint.unpickling import printable_text

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

_INNER = {"nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def is_diffusers(weights: Iterable[str]) -> bool:
    """Tell whether these names are those of diffusers' VQModel; its KL-VAE has no codebook."""
    names = set(weights)
    return CODEBOOK in names and any(name.startswith(DOWN) for name in names)


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the generator's weights from the original's names and shapes to VQModel's."""
    levels = _levels(weights, r"encoder\.down\.([0-9]+)\.")
    renamed = {_translate(name, levels, backwards=False): w for name, w in weights.items()}
    return {
        name: weight.flatten(1) if _is_projection(name) else weight
        for name, weight in renamed.items()
    }


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a VQModel's weights to the original's names and shapes; others stay unchanged.

    Raises:
        ValueError: two weights get the same name.
    """
    levels = _levels(weights, r"encoder\.down_blocks\.([0-9]+)\.")
    original: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original_name = _translate(name, levels, backwards=True)
        if original_name in original:
            raise ValueError(f"it has the weight {printable_text(original_name)} twice")
        is_matrix = _is_projection(name) and weight.dim() == MATRIX_DIMENSIONS
        original[original_name] = weight[..., None, None] if is_matrix else weight
    return original


def _is_projection(name: str) -> bool:
    """Tell whether a weight, named as in diffusers, is that of a linear layer."""
    return bool(re.search(r"\.attentions\.[0-9]+\.to_(q|k|v|out\.0)\.weight$", name))


def _levels(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _translate(name: str, levels: int, *, backwards: bool) -> str:
    for pattern, replacement, inner in _rules(backwards=backwards):
        match = pattern.match(name)
        if match:
            numbers = [int(number) for number in match.groups()]
            if replacement.startswith("decoder.up"):
                numbers[0] = levels - 1 - numbers[0]
            layer, dot, leaf = name[match.end() :].rpartition(".")
            prefix = replacement.replace("#", "{}").format(*numbers)
            return f"{prefix}{inner.get(layer, layer)}{dot}{leaf}"
    return name


@cache
def _rules(*, backwards: bool) -> list[tuple[re.Pattern[str], str, dict[str, str]]]:
    rules = []
    for original, diffusers in _PREFIXES:
        source, target = (diffusers, original) if backwards else (original, diffusers)
        inner = _ATTENTION if ".attn" in original else _INNER
        if backwards:
            inner = {diffusers_layer: layer for layer, diffusers_layer in inner.items()}
        rules.append((re.compile(re.escape(source).replace(r"\#", r"([0-9]+)")), target, inner))
    return rules
