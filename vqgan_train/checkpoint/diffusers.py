"""The one mapping between the original's weights and those of diffusers' VQModel, both ways.

diffusers counts the decoder's levels from the smallest, the original from the largest; and it has
the attention's 1x1 convolutions (C, C, 1, 1) as linear layers (C, C).
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

from vqgan_train.checkpoint.unpickling import shown

CODEBOOK = "quantize.embedding.weight"
DOWN = "encoder.down_blocks."
MATRIX_DIMENSIONS = 2

# the original's, diffusers'; numbers in place of #
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
_INNER = {"nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def is_diffusers(weights: Iterable[str]) -> bool:
    """Whether these are the names of a VQModel of diffusers; its KL-VAE has no codebook."""
    names = set(weights)
    return CODEBOOK in names and any(name.startswith(DOWN) for name in names)


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and lay out the generator's weights, which are under the original's names."""
    levels = _levels(weights, r"encoder\.down\.([0-9]+)\.")
    renamed = {_translate(name, levels, backwards=False): w for name, w in weights.items()}
    return {
        name: weight.flatten(1) if _is_projection(name) else weight
        for name, weight in renamed.items()
    }


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and lay out a VQModel's weights as the original's; what is not its stays as it is.

    Raises:
        ValueError: two of them are the same weight of the original's.
    """
    levels = _levels(weights, r"encoder\.down_blocks\.([0-9]+)\.")
    original: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original_name = _translate(name, levels, backwards=True)
        if original_name in original:
            raise ValueError(f"it has the weight {shown(original_name)} twice")
        is_matrix = _is_projection(name) and weight.dim() == MATRIX_DIMENSIONS
        original[original_name] = weight[..., None, None] if is_matrix else weight
    return original


def _is_projection(name: str) -> bool:
    """Whether diffusers' name is that of a linear layer's weight."""
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
            inner = {theirs: ours for ours, theirs in inner.items()}
        rules.append((re.compile(re.escape(source).replace(r"\#", r"([0-9]+)")), target, inner))
    return rules
