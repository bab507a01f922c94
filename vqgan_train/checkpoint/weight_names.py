"""Convert between our names of weights and the original's, those of taming-transformers.

Code uses our names. Files use the original's, because other programs expect them.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

_PREFIXES = (
    ("generator.encoder.levels.#.blocks.#.", "encoder.down.#.block.#."),
    ("generator.encoder.levels.#.attentions.#.", "encoder.down.#.attn.#."),
    ("generator.encoder.levels.#.resample.", "encoder.down.#.downsample."),
    ("generator.encoder.", "encoder."),
    ("generator.decoder.levels.#.blocks.#.", "decoder.up.#.block.#."),
    ("generator.decoder.levels.#.attentions.#.", "decoder.up.#.attn.#."),
    ("generator.decoder.levels.#.resample.", "decoder.up.#.upsample."),
    ("generator.decoder.", "decoder."),
    ("generator.quantizer.codebook.", "quantize.embedding."),
    ("generator.quant_conv.", "quant_conv."),
    ("generator.post_quant_conv.", "post_quant_conv."),
    ("discriminator.layers.#.", "loss.discriminator.main.#."),
)
"""Our prefix and the original's; each `#` is a number, the same in both."""

_INNER = (
    ("middle.block1.", "mid.block_1."),
    ("middle.attention.", "mid.attn_1."),
    ("middle.block2.", "mid.block_2."),
    ("shortcut.", "nin_shortcut."),
    ("query.", "q."),
    ("key.", "k."),
    ("value.", "v."),
    ("output.", "proj_out."),
)
_BLOCK = r"(norm1|conv1|norm2|conv2|shortcut)"
_ATTENTION = r"(norm|query|key|value|output)"
_WITH_BIAS = rf"""
    generator\.(encoder|decoder)\.(
        conv_in | norm_out | conv_out
        | middle\.block[12]\.{_BLOCK} | middle\.attention\.{_ATTENTION}
        | levels\.[0-9]+\.(blocks\.[0-9]+\.{_BLOCK} | attentions\.[0-9]+\.{_ATTENTION})
        | levels\.[0-9]+\.resample\.conv
    )
    | generator\.(quant_conv | post_quant_conv)
"""
_OURS = re.compile(
    rf"""({_WITH_BIAS})\.(weight|bias)
    | generator\.quantizer\.codebook\.weight
    | discriminator\.layers\.[0-9]+\.(weight|bias|running_mean|running_var|num_batches_tracked)
    """,
    re.VERBOSE,
)
"""All names that weights of our networks can have, with any number of levels and blocks."""


def to_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights (`generator.*`, `discriminator.*`) to the original's names.

    Raises:
        KeyError: a name does not belong to our networks.
    """
    for name in weights:
        _require_ours(name, name)
    return {_translate(name, backwards=False): tensor for name, tensor in weights.items()}


def to_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the original's weights to ours.

    Raises:
        KeyError: a name does not belong to the original's generator or discriminator.
    """
    ours = {_translate(name, backwards=True): name for name in weights}
    for our_name, name in ours.items():
        _require_ours(our_name, name)
    return {our_name: weights[name] for our_name, name in ours.items()}


def _require_ours(our_name: str, name: str) -> None:
    # The prefix rules alone would accept any ending.
    if not _OURS.fullmatch(our_name):
        raise KeyError(name)


def _translate(name: str, *, backwards: bool) -> str:
    for pattern, replacement in _rules(backwards=backwards):
        match = pattern.match(name)
        if match:
            prefix = replacement.replace("#", "{}").format(*match.groups())
            return prefix + _translate_inner(name[match.end() :], backwards=backwards)
    raise KeyError(name)


def _translate_inner(rest: str, *, backwards: bool) -> str:
    for source, target in _directed(_INNER, backwards=backwards):
        if rest.startswith(source):
            return target + _translate_inner(rest[len(source) :], backwards=backwards)
    return rest


@cache
def _rules(*, backwards: bool) -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(re.escape(source).replace(r"\#", r"([0-9]+)")), target)
        for source, target in _directed(_PREFIXES, backwards=backwards)
    ]


def _directed(pairs: Iterable[tuple[str, str]], *, backwards: bool) -> Iterable[tuple[str, str]]:
    return ((original, ours) if backwards else (ours, original) for ours, original in pairs)
