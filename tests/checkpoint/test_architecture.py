"""Reading the arguments of VQGAN off its weights."""

from typing import Any

import pytest
import torch
from factories import FULL_ARCHITECTURE, TINY_ARCHITECTURE, tiny_images, tiny_vqgan

from vqgan_train.checkpoint.architecture import generator_architecture
from vqgan_train.models import VQGAN

# The weights do not name their resolution: f16's is read, with attention at the same levels.
AT_256 = {"resolution": 256, "attention_resolutions": [128]}

ARCHITECTURES = {
    "tiny": AT_256,
    "one level": {**AT_256, "channel_multipliers": [1], "attention_resolutions": [256]},
    "narrower after wider": {**AT_256, "channel_multipliers": [2, 1, 3]},
    "wide": {**AT_256, "channels": 64},
    "three blocks": {**AT_256, "num_residual_blocks": 3},
    "no attention": {**AT_256, "attention_resolutions": []},
    "attention at every level": {
        **AT_256,
        "channel_multipliers": [1, 1, 2, 2],
        "attention_resolutions": [256, 128, 64, 32],
    },
    "plain resampling": {**AT_256, "resample_with_convolution": False},
    "codes of other sizes": {
        **AT_256,
        "latent_channels": 24,
        "code_dim": 8,
        "codebook_size": 100,
    },
    "grey in, RGBA out": {**AT_256, "in_channels": 1, "out_channels": 4},
    "f16-16384": FULL_ARCHITECTURE,
}
OPTIONAL = {"in_channels": 3, "out_channels": 3, "resample_with_convolution": True}


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_the_arguments_are_read_off_the_weights(overrides: dict[str, Any]) -> None:
    architecture = {**TINY_ARCHITECTURE, **OPTIONAL, **overrides}
    with torch.device("meta"):
        weights = VQGAN(**architecture).state_dict()
    if len(architecture["channel_multipliers"]) == 1:  # no weights of resampling, of either kind
        del architecture["resample_with_convolution"]
    assert generator_architecture(weights) == architecture


@torch.no_grad()
def test_a_model_of_another_nominal_resolution_is_read_as_one_that_computes_the_same() -> None:
    model = tiny_vqgan(resolution=32, attention_resolutions=[16]).eval()
    read = VQGAN(**generator_architecture(model.state_dict())).eval()
    read.load_state_dict(model.state_dict())
    images = tiny_images()
    assert torch.equal(read(images).reconstruction, model(images).reconstruction)


def test_a_missing_weight_is_an_error_with_its_name() -> None:
    weights = tiny_vqgan().state_dict()
    del weights["quantizer.codebook.weight"]
    with pytest.raises(KeyError, match=r"quantizer\.codebook\.weight"):
        generator_architecture(weights)
