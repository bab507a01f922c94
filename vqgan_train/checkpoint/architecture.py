"""The architecture that weights betray: every size of the networks can be read off their tensors.

What cannot be read are `dropout` and the nominal resolution, by which settings place attention:
weights show which levels have it.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

NOMINAL_RESOLUTION = 256
"""Weights show which levels have attention, not at which resolution; f16 counts from 256."""

UNREADABLE: Mapping[str, Any] = {"dropout": 0.0, "resample_with_convolution": True}
"""Arguments of `VQGAN` that weights do not tell, or not always, with the original's values."""

END_CONVOLUTIONS = 2
"""The first and the last of a discriminator, which are not counted as its layers."""


def generator_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of `VQGAN` off its weights.

    Args:
        weights: the generator's, under our names without the leading `generator.`.

    Raises:
        LookupError: a weight that every VQGAN has is missing, or of another number of dimensions.
        ArithmeticError: it has a size of zero.
    """
    channels = weights["encoder.conv_in.weight"].shape[0]
    levels = _count(weights, r"encoder\.levels\.(\d+)\.blocks")
    widths = [weights[f"encoder.levels.{i}.blocks.0.conv1.weight"].shape[0] for i in range(levels)]
    resolution = max(NOMINAL_RESOLUTION, 2 ** max(levels - 1, 0))
    architecture = {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "num_residual_blocks": _count(weights, r"encoder\.levels\.0\.blocks\.(\d+)"),
        "attention_resolutions": [
            resolution // 2**i
            for i in range(levels)
            if f"encoder.levels.{i}.attentions.0.norm.weight" in weights
        ],
        "resolution": resolution,
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "latent_channels": weights["encoder.conv_out.weight"].shape[0],
        "code_dim": weights["quantizer.codebook.weight"].shape[1],
        "codebook_size": weights["quantizer.codebook.weight"].shape[0],
    }
    if levels > 1:
        resample = "encoder.levels.0.resample.conv.weight"
        architecture["resample_with_convolution"] = resample in weights
    return architecture


def discriminator_architecture(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the arguments of `PatchDiscriminator` off its weights.

    Args:
        weights: the discriminator's, under our names without the leading `discriminator.`.

    Raises:
        LookupError: its first weight is missing, or of another number of dimensions.
    """
    first = weights["layers.0.weight"]
    convolutions = sum(weight.dim() == first.dim() for weight in weights.values())
    if convolutions <= END_CONVOLUTIONS:
        raise LookupError("a strided layer of the discriminator")
    return {
        "in_channels": first.shape[1],
        "channels": first.shape[0],
        "num_layers": convolutions - END_CONVOLUTIONS,
    }


def architecture_differences(given: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say where settings contradict weights; empty where they do not.

    Args:
        given: settings, which may leave some out.
        found: what `generator_architecture` or `discriminator_architecture` read.

    Returns:
        Each setting that differs, with both values. Attention differs where it is on other levels,
        not where the same levels are called by another nominal resolution.
    """
    differences = [
        f"{name} is {given[name]}, but {found[name]} in the weights"
        for name in found
        if name in given
        and name not in ("attention_resolutions", "resolution")
        and _plain(given[name]) != _plain(found[name])
    ]
    if {"attention_resolutions", "resolution", "channel_multipliers"} <= given.keys():
        placed, there = _attention_levels(given), _attention_levels(found)
        if placed != there:
            differences.append(
                f"attention_resolutions is {_plain(given['attention_resolutions'])} of "
                f"{given['resolution']}, which puts attention on levels {placed}, but it is on "
                f"levels {there} in the weights"
            )
    return "; ".join(differences)


def network_differences(
    weights: Mapping[str, Tensor], *, model: Mapping[str, Any], discriminator: Mapping[str, Any]
) -> str:
    """Say where the settings of both networks contradict the weights of a file.

    Args:
        weights: under our names; a network that is not there, or not whole, contradicts nothing.
        model: arguments of `VQGAN`.
        discriminator: arguments of `PatchDiscriminator`.

    Returns:
        As `architecture_differences`.
    """
    differences = []
    for prefix, given, read in (
        ("generator.", model, generator_architecture),
        ("discriminator.", discriminator, discriminator_architecture),
    ):
        part = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        with suppress(LookupError, ArithmeticError):
            differences.append(architecture_differences(given, read(part)))
    return "; ".join(filter(None, differences))


def _attention_levels(architecture: Mapping[str, Any]) -> list[int]:
    resolutions = architecture["attention_resolutions"]
    levels = range(len(architecture["channel_multipliers"]))
    return [i for i in levels if architecture["resolution"] // 2**i in resolutions]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
