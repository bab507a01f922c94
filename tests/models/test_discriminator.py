"""The PatchGAN discriminator equals the original's."""

import pytest
import torch
from factories import tiny_discriminator, tiny_images
from reference import NLayerDiscriminator
from torch import nn

from vqgan_train.checkpoint.weight_names import to_ours
from vqgan_train.models import PatchDiscriminator


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("num_layers", "in_channels"), [(2, 3), (3, 3), (4, 3), (2, 1)])
@torch.no_grad()
def test_logits_equal_the_original(num_layers: int, in_channels: int, training: bool) -> None:
    ours = tiny_discriminator(in_channels=in_channels, num_layers=num_layers).train(training)
    peer = NLayerDiscriminator(input_nc=in_channels, ndf=8, n_layers=num_layers).train(training)
    for name, statistic in peer.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(statistic, 0.5, 2.0)
    ours.load_state_dict(
        {
            name.removeprefix("discriminator."): weight
            for name, weight in to_ours(
                {f"loss.discriminator.{name}": w for name, w in peer.state_dict().items()}
            ).items()
        }
    )
    images = tiny_images(height=64, width=80, channels=in_channels)
    torch.testing.assert_close(ours(images), peer(images), rtol=1e-5, atol=1e-6)


def test_each_layer_less_two_doubles_the_size_of_the_patches() -> None:
    images = tiny_images(1, 64, 64)
    assert tiny_discriminator(num_layers=2)(images).shape == (1, 1, 14, 14)
    assert tiny_discriminator(num_layers=3)(images).shape == (1, 1, 6, 6)


def test_new_weights_are_drawn_as_pix2pix_draws_them() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(in_channels=3, channels=64, num_layers=3)
    for layer in discriminator.layers:
        if isinstance(layer, nn.Conv2d):
            # The fewest weights of a layer are 3,072: 5 % is four standard errors.
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(layer.weight.mean().item()) < 0.0015
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.008)
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.25)
            assert not layer.bias.any()
