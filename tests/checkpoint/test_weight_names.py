"""Conversion between the original's weight names and ours, one to one."""

from typing import Any

import pytest
import torch
from factories import TINY_ARCHITECTURE
from reference import NLayerDiscriminator, peer_vqgan
from torch import Tensor, nn

from vqgan_train.checkpoint.weight_names import to_original, to_ours
from vqgan_train.models import VQGAN, PatchDiscriminator

ARCHITECTURES = {
    "tiny": {},
    "one level": {"channel_multipliers": [1], "attention_resolutions": [32]},
    "three levels, all with attention": {
        "channel_multipliers": [1, 2, 4],
        "attention_resolutions": [8, 16, 32],
        "num_residual_blocks": 3,
    },
    "no attention": {"attention_resolutions": []},
    "plain resampling": {"resample_with_convolution": False},
    "twelve levels": {"channel_multipliers": [1] * 12, "attention_resolutions": []},
}


def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def original_weights(overrides: dict[str, Any]) -> dict[str, Tensor]:
    """All weights of the original's file except LPIPS, without values."""
    loss = nn.Module()
    with torch.device("meta"):
        loss.discriminator = NLayerDiscriminator(ndf=8, n_layers=2)
        return peer_vqgan(**{**TINY_ARCHITECTURE, **overrides}, loss=loss).state_dict()


def our_weights(overrides: dict[str, Any]) -> dict[str, Tensor]:
    """All weights of our generator and discriminator, without values."""
    with torch.device("meta"):
        networks = nn.ModuleDict(
            {
                "generator": VQGAN(**{**TINY_ARCHITECTURE, **overrides}),
                "discriminator": PatchDiscriminator(in_channels=3, channels=8, num_layers=2),
            }
        )
    return networks.state_dict()


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_the_weights_of_the_original_become_ours(overrides: dict[str, Any]) -> None:
    assert shapes(to_ours(original_weights(overrides))) == shapes(our_weights(overrides))


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_our_weights_become_those_of_the_original(overrides: dict[str, Any]) -> None:
    assert shapes(to_original(our_weights(overrides))) == shapes(original_weights(overrides))


def test_names_survive_the_way_there_and_back() -> None:
    weights = original_weights(ARCHITECTURES["three levels, all with attention"])
    back = to_original(to_ours(weights))
    assert list(back) == list(weights)
    assert all(back[name] is weights[name] for name in weights)


@pytest.mark.parametrize(
    "name",
    [
        *("transformer.wte.weight", "loss.logvar", "quantize.codebook.weight", "Encoder.conv_in"),
        *(
            "encoder.nonsense",
            "encoder.nonsense.weight",
            "encoder.conv_in.gain",
            "quant_conv.scale",
        ),
        *(
            "encoder.down.0.block.0.conv3.weight",
            "encoder.down.0.block.weight",
            "decoder.mid.q.bias",
        ),
        *("encoder.down.\N{SUPERSCRIPT TWO}.block.0.conv1.weight", "quantize.embedding.bias"),
        *("loss.discriminator.main.0.weight.x", "loss.discriminator.main.x.weight", "encoder."),
    ],
)
def test_a_name_that_the_original_does_not_have_is_an_error_with_that_name(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        to_ours({name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["objective.lpips.shift", "encoder.conv_in.weight", "generator.x"])
def test_a_name_that_we_do_not_have_is_an_error_with_that_name(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        to_original({name: torch.zeros(1)})
