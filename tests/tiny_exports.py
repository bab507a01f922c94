"""Checkpoints to export, and the architectures that an export has to carry."""

import re
from pathlib import Path
from typing import Any

import torch
from factories import TINY_ARCHITECTURE, tiny_discriminator, tiny_vqgan
from torch import Tensor

from vqgan_train.checkpoint.architecture import ASSUMED_ARGUMENTS
from vqgan_train.checkpoint.reading import CheckpointWeights
from vqgan_train.checkpoint.weight_names import to_original

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "one level": {"channel_multipliers": [1], "attention_resolutions": [32]},
    "attention at two levels": {
        "channel_multipliers": [1, 1, 2],
        "attention_resolutions": [8, 16],
        "num_residual_blocks": 2,
    },
    "no attention, narrower after wider": {
        "channel_multipliers": [1, 3, 2],
        "attention_resolutions": [],
    },
    "codes of other sizes": {"latent_channels": 24, "code_dim": 8, "codebook_size": 100},
    "grey in, RGBA out": {"in_channels": 1, "out_channels": 4},
}
WIDE_AT_ONCE = {"channel_multipliers": [2, 1, 3]}
PLAIN_RESAMPLING = {"resample_with_convolution": False}
"""Two that diffusers cannot hold."""


def tiny_networks(*, discriminator: bool = True, **overrides: Any) -> CheckpointWeights:
    """Return weights as `read_networks` does."""
    architecture = {
        "in_channels": 3,
        "out_channels": 3,
        **ASSUMED_ARGUMENTS,
        **TINY_ARCHITECTURE,
        **overrides,
    }
    judge = tiny_discriminator(in_channels=architecture["out_channels"]) if discriminator else None
    return CheckpointWeights(
        architecture=architecture,
        generator=without_gradient(tiny_vqgan(**overrides)),
        discriminator=without_gradient(judge) if judge else {},
    )


def without_gradient(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in network.state_dict().items()}


def original_weights(networks: CheckpointWeights) -> dict[str, Tensor]:
    """The weights as the original calls them."""
    return to_original(
        {f"generator.{name}": weight for name, weight in networks.generator.items()}
        | {f"discriminator.{name}": weight for name, weight in networks.discriminator.items()}
    )


def old_diffusers_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the layers of diffusers' attention to their names until 2023."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {
        re.sub(r"(to_q|to_k|to_v|to_out\.0)", lambda match: old[match[1]], name): weight
        for name, weight in weights.items()
    }


def write_checkpoint(path: Path, networks: CheckpointWeights, **beside: Any) -> Path:
    """Write networks as the original does, with whatever lies beside."""
    torch.save({"state_dict": original_weights(networks), **beside}, path)
    return path


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        weight.dtype == second[name].dtype
        and weight.shape == second[name].shape
        and weight.numpy().tobytes() == second[name].numpy().tobytes()
        for name, weight in first.items()
    )
