"""The architecture that weights betray: every size of the tokenizer can be read off its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

NOMINAL_RESOLUTION = 256
"""Weights show which levels have attention, not at which resolution; f16 counts from 256."""


def generator_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of `VQGAN` off its weights.

    Args:
        weights: the generator's, under our names without the leading `generator.`.

    Raises:
        KeyError: a weight that every VQGAN has is missing.
    """
    channels = weights["encoder.conv_in.weight"].shape[0]
    levels = _count(weights, r"encoder\.levels\.(\d+)\.blocks")
    widths = [weights[f"encoder.levels.{i}.blocks.0.conv1.weight"].shape[0] for i in range(levels)]
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "num_residual_blocks": _count(weights, r"encoder\.levels\.0\.blocks\.(\d+)"),
        "attention_resolutions": [
            NOMINAL_RESOLUTION // 2**i
            for i in range(levels)
            if f"encoder.levels.{i}.attentions.0.norm.weight" in weights
        ],
        "resolution": NOMINAL_RESOLUTION,
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "latent_channels": weights["encoder.conv_out.weight"].shape[0],
        "code_dim": weights["quantizer.codebook.weight"].shape[1],
        "codebook_size": weights["quantizer.codebook.weight"].shape[0],
        "resample_with_convolution": levels == 1
        or "encoder.levels.0.resample.conv.weight" in weights,
    }


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
