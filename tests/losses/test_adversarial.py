"""Hinge losses on numbers computed by hand, and the adaptive weight."""

import pytest
import torch
from factories import tiny_images
from torch import Tensor, nn

from vqgan_train.losses.adversarial import (
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
    gradient_of_mean,
)


def last_convolution(in_channels: int = 4) -> nn.Conv2d:
    """Make the layer at which gradients are balanced, with seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(in_channels, 3, kernel_size=3, padding=1)


def some_gradient(scale: float, seed: int) -> Tensor:
    """Make a gradient with respect to images (2, 3, 32, 32)."""
    return tiny_images(seed=seed) * scale


def test_generator_loss_is_minus_the_mean_logit() -> None:
    assert generator_hinge(torch.tensor([1.0, -3.0, 5.0])).item() == -1.0


@pytest.mark.parametrize(
    ("real", "fake", "loss"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1.0),  # it cannot tell
        ([1.0, 5.0], [-1.0, -7.0], 0.0),  # sure by a margin of 1
        ([0.5, 3.0], [0.0, -3.0], 0.5 * (0.25 + 0.5)),
        ([-1.0, -1.0], [1.0, 1.0], 2.0),  # sure and wrong
    ],
)
def test_discriminator_loss_is_the_mean_of_two_hinges(
    real: list[float], fake: list[float], loss: float
) -> None:
    assert discriminator_hinge(torch.tensor(real), torch.tensor(fake)).item() == loss


def test_adaptive_weight_is_the_ratio_of_two_gradients_at_the_last_layer() -> None:
    layer = last_convolution()
    features, target = tiny_images(channels=4), tiny_images(seed=1)
    critic = nn.Conv2d(3, 1, kernel_size=3)

    reconstruction = layer(features)
    nll = (reconstruction - target).abs().mean()
    adversarial = -critic(reconstruction).mean()
    (nll_pull,) = torch.autograd.grad(nll, layer.weight, retain_graph=True)
    (adversarial_pull,) = torch.autograd.grad(adversarial, layer.weight, retain_graph=True)
    expected = nll_pull.norm() / (adversarial_pull.norm() + 1e-4)

    (nll_gradient,) = torch.autograd.grad(nll, reconstruction, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, reconstruction, retain_graph=True)
    weight = adaptive_weight(reconstruction, layer.weight, nll_gradient, adversarial_gradient)
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=0)


def test_adaptive_weight_is_bounded_where_nothing_pulls_back() -> None:
    layer = last_convolution()
    reconstruction = layer(tiny_images(channels=4))
    none = torch.zeros_like(reconstruction)
    weight = adaptive_weight(reconstruction, layer.weight, some_gradient(1.0, seed=1), none)
    assert weight.item() == 1e4


def test_adaptive_weight_is_zero_where_there_is_nothing_to_reconstruct() -> None:
    layer = last_convolution()
    reconstruction = layer(tiny_images(channels=4))
    none = torch.zeros_like(reconstruction)
    weight = adaptive_weight(reconstruction, layer.weight, none, some_gradient(1.0, seed=1))
    assert weight.item() == 0.0


def test_adaptive_weight_keeps_the_graph_for_the_backward_pass() -> None:
    layer = last_convolution()
    reconstruction = layer(tiny_images(channels=4))
    gradient = some_gradient(1.0, seed=1)
    weight = adaptive_weight(reconstruction, layer.weight, gradient, gradient)
    reconstruction.sum().backward()
    assert not weight.requires_grad
    assert layer.weight.grad is not None


@pytest.mark.parametrize("pixel_gradient", [1e-9, 1e-6, 1e-2])
def test_gradients_of_any_size_survive_half_precision(pixel_gradient: float) -> None:
    # fp16 has nothing between 0 and 6e-8.
    layer = last_convolution()
    features = tiny_images(channels=4)
    nll_gradient = some_gradient(pixel_gradient, seed=1)
    adversarial_gradient = some_gradient(1e-5, seed=2)
    expected = adaptive_weight(layer(features), layer.weight, nll_gradient, adversarial_gradient)

    with torch.autocast("cpu", dtype=torch.float16):
        reconstruction = layer(features)
    assert reconstruction.dtype == torch.float16
    weight = adaptive_weight(reconstruction, layer.weight, nll_gradient, adversarial_gradient)
    torch.testing.assert_close(weight, expected, rtol=1e-2, atol=0)


def test_gradients_that_add_up_over_a_large_image_survive_half_precision() -> None:
    # L1 of images that are too dark everywhere: all pixels pull alike, and 131,072 of them add up.
    # fp16 ends at 65,504.
    layer = last_convolution(in_channels=1)
    features = torch.ones(2, 1, 256, 256)
    nll_gradient = torch.full((2, 3, 256, 256), -1 / (2 * 3 * 256 * 256))
    adversarial_gradient = tiny_images(2, 256, 256, seed=2) * 1e-5
    expected = adaptive_weight(layer(features), layer.weight, nll_gradient, adversarial_gradient)

    with torch.autocast("cpu", dtype=torch.float16):
        reconstruction = layer(features)
    weight = adaptive_weight(reconstruction, layer.weight, nll_gradient, adversarial_gradient)
    torch.testing.assert_close(weight, expected, rtol=1e-2, atol=0)


def test_the_gradient_of_a_mean_of_many_logits_survives_fp16() -> None:
    image = torch.rand(1, 1, 512, 512, requires_grad=True)
    weight = torch.full((1, 1, 1, 1), 0.01)
    with torch.autocast("cpu", torch.float16):
        logits = torch.nn.functional.conv2d(image, weight)
    gradient = gradient_of_mean(logits.float().mean(), logits.numel(), image, retain_graph=False)
    # 3.8e-8 a pixel, under half of what fp16 can hold at all.
    torch.testing.assert_close(gradient, torch.full_like(image, 0.01 / 512**2), rtol=1e-3, atol=0)
