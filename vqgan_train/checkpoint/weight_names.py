"""Convert between our names of weights and the original's, those of taming-transformers.

Code uses our names. Files use the original's, because other programs expect them.
"""

import re
from collections.abc import Iterable, Mapping

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


PrefixRule = tuple[re.Pattern[str], str]


def prefix_rules(prefixes: Iterable[tuple[str, str]]) -> list[PrefixRule]:
    """Compile pairs (prefix, replacement), in which each `#` stands for a number."""
    return [
        (re.compile(re.escape(prefix).replace(r"\#", "([0-9]+)")), replacement.replace("#", "{}"))
        for prefix, replacement in prefixes
    ]


def match_prefix(name: str, rules: list[PrefixRule]) -> tuple[str, list[str], str] | None:
    """Return the first matching rule's replacement, the numbers in the prefix, and the rest."""
    for prefix, replacement in rules:
        if match := prefix.match(name):
            return replacement, list(match.groups()), name[match.end() :]
    return None


_TO_ORIGINAL = prefix_rules(_PREFIXES)
_TO_OURS = prefix_rules((original, ours) for ours, original in _PREFIXES)


def to_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights (`generator.*`, `discriminator.*`) to the original's names.

    Raises:
        KeyError: a name does not belong to our networks.
    """
    for name in weights:
        _require_ours(name, name)
    return {_translate(name, _TO_ORIGINAL, _INNER): tensor for name, tensor in weights.items()}


def to_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the original's weights to ours.

    Raises:
        KeyError: a name does not belong to the original's generator or discriminator.
    """
    inner = [(original, ours) for ours, original in _INNER]
    names = {_translate(name, _TO_OURS, inner): name for name in weights}
    for our_name, name in names.items():
        _require_ours(our_name, name)
    return {our_name: weights[name] for our_name, name in names.items()}


def _require_ours(our_name: str, name: str) -> None:
    # The prefix rules alone would accept any ending.
    if not _OURS.fullmatch(our_name):
        raise KeyError(name)


def _translate(name: str, rules: list[PrefixRule], inner: Iterable[tuple[str, str]]) -> str:
    match = match_prefix(name, rules)
    if match is None:
        raise KeyError(name)
    replacement, numbers, rest = match
    return replacement.format(*numbers) + _translate_inner(rest, inner)


def _translate_inner(rest: str, inner: Iterable[tuple[str, str]]) -> str:
    for source, target in inner:
        if rest.startswith(source):
            return target + _translate_inner(rest[len(source) :], inner)
    return rest
