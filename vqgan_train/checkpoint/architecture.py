"""Read the architecture of generator and discriminator off the shapes of their weights.

Weights do not show `dropout`. They show which levels have attention, but not the resolutions by
which settings name these levels, so `resolution` is assumed.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

NOMINAL_RESOLUTION = 256
"""Assumed `resolution` in pixels, as in the f16 model; larger only with more than nine levels."""

ASSUMED_ARGUMENTS: Mapping[str, Any] = {"dropout": 0.0, "resample_with_convolution": True}
"""Arguments of `VQGAN` that weights may not show, with their values in taming-transformers."""

END_CONVOLUTIONS = 2
"""Convolutions that a discriminator's `num_layers` does not count: the first and the last."""


def generator_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of `VQGAN` off its weights.

    Args:
        weights: the generator's weights, under our names without the leading `generator.`.

    Raises:
        KeyError: a weight that every VQGAN has is missing; its name is the key.
        IndexError: a weight has too few dimensions.
        ArithmeticError: the first convolution has no channels.
    """
    channels = weights["encoder.conv_in.weight"].shape[0]
    levels = count_numbers(weights, r"encoder\.levels\.(\d+)\.blocks")
    widths = [weights[f"encoder.levels.{i}.blocks.0.conv1.weight"].shape[0] for i in range(levels)]
    resolution = max(NOMINAL_RESOLUTION, 2 ** max(levels - 1, 0))
    architecture = {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "num_residual_blocks": count_numbers(weights, r"encoder\.levels\.0\.blocks\.(\d+)"),
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
        weights: the discriminator's weights, under our names without the leading
            `discriminator.`.

    Raises:
        LookupError: the first weight is missing or has too few dimensions, or there are fewer than
            three convolutions.
    """
    first = weights["layers.0.weight"]
    convolutions = sum(weight.dim() == first.dim() for weight in weights.values())
    if convolutions <= END_CONVOLUTIONS:
        raise LookupError("a convolution between the first and the last one")
    return {
        "in_channels": first.shape[1],
        "channels": first.shape[0],
        "num_layers": convolutions - END_CONVOLUTIONS,
    }


def architecture_differences(settings: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    """Describe where settings contradict weights; the text is empty if they agree.

    Args:
        settings: arguments of a network; some may be missing.
        actual: the result of `generator_architecture` or `discriminator_architecture`.

    Returns:
        Each setting that differs, with both values. Attention differs if it is on other levels;
        `resolution` by itself is not compared.
    """
    differences = [
        f"{name} is {settings[name]}, but {actual[name]} in the weights"
        for name in actual
        if name in settings
        and name not in ("attention_resolutions", "resolution")
        and _as_list(settings[name]) != _as_list(actual[name])
    ]
    if {"attention_resolutions", "resolution"} <= settings.keys():
        set_levels = _attention_levels({**actual, **settings})
        actual_levels = _attention_levels(actual)
        if set_levels != actual_levels:
            differences.append(
                f"attention_resolutions is {_as_list(settings['attention_resolutions'])} with "
                f"resolution {settings['resolution']}, which puts attention on levels {set_levels},"
                f" but it is on levels {actual_levels} in the weights"
            )
    return "; ".join(differences)


def network_differences(
    weights: Mapping[str, Tensor], *, model: Mapping[str, Any], discriminator: Mapping[str, Any]
) -> str:
    """Describe where the settings of both networks contradict a file's weights.

    Args:
        weights: under our names. A network that is missing or incomplete is not compared.
        model: arguments of `VQGAN`.
        discriminator: arguments of `PatchDiscriminator`.

    Returns:
        The texts of `architecture_differences` for both networks, joined; empty if all agree.
    """
    differences = []
    for prefix, settings, read_architecture in (
        ("generator.", model, generator_architecture),
        ("discriminator.", discriminator, discriminator_architecture),
    ):
        network = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        with suppress(LookupError, ArithmeticError):
            differences.append(architecture_differences(settings, read_architecture(network)))
    return "; ".join(filter(None, differences))


def _attention_levels(architecture: Mapping[str, Any]) -> list[int]:
    resolutions = architecture["attention_resolutions"]
    levels = range(len(architecture["channel_multipliers"]))
    return [i for i in levels if architecture["resolution"] // 2**i in resolutions]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def count_numbers(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different texts that a pattern's first group matches at the start of names."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
