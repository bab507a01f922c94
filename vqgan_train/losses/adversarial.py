"""Hinge losses of the PatchGAN, and the weight that balances them with the reconstruction loss."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ADAPTIVE_WEIGHT = 1e4
ADAPTIVE_WEIGHT_EPSILON = 1e-4


def no_reduction(gradients: Tensor) -> Tensor:
    """Return this rank's gradients unchanged, as taming-transformers does: no mean over ranks."""
    return gradients


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """Return the generator's loss (): minus the mean logit of its images (Lim and Ye 2017)."""
    return -fake_logits.mean()


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss (): 1 if all logits are 0, 0 if all are right by 1 or more.

    Args:
        real_logits: logits of real images, any shape; right if positive.
        fake_logits: logits of reconstructions, any shape; right if negative.
    """
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def adaptive_weight(
    reconstruction: Tensor,
    last_layer: Tensor,
    nll_gradient: Tensor,
    adversarial_gradient: Tensor,
    reduce_gradients: Callable[[Tensor], Tensor] = no_reduction,
) -> Tensor:
    """Return the weight of the adversarial loss (Esser et al. 2021, equation 7).

    It gives both losses gradients of about equal norm at the last layer, unless one is tiny.

    Args:
        reconstruction: (B, C, H, W), computed from `last_layer` with its graph kept.
        last_layer: weight of the decoder's last convolution.
        nll_gradient: gradient of pixel plus perceptual loss with respect to `reconstruction`.
        adversarial_gradient: gradient of the generator's adversarial loss with respect to
            `reconstruction`.
        reduce_gradients: applied to the two gradients at the last layer, (2, *last_layer.shape)
            float32, before their norms are taken. A mean over ranks gives all ranks the weight that
            one batch of all their images would have.

    Returns:
        () float32 in [0, 1e4], detached: |d nll / d last_layer| / (|d adversarial / d last_layer| +
        1e-4).
    """
    gradients = torch.stack(
        [
            _backpropagate(reconstruction, last_layer, nll_gradient),
            _backpropagate(reconstruction, last_layer, adversarial_gradient),
        ]
    )
    nll_norm, adversarial_norm = reduce_gradients(gradients).flatten(1).norm(dim=1)
    weight = nll_norm / (adversarial_norm + ADAPTIVE_WEIGHT_EPSILON)
    return weight.clamp(0.0, MAX_ADAPTIVE_WEIGHT)


def gradient_of_mean(mean: Tensor, count: int, image: Tensor, *, retain_graph: bool) -> Tensor:
    """Return d `mean` / d `image` without underflow, where `mean` is a mean of `count` numbers."""
    # Differentiate the sum, then divide: backpropagation would start at 1 / count, which underflows
    # in fp16 inside a loss network, where no loss scaling reaches it.
    (gradient,) = torch.autograd.grad(mean * count, image, retain_graph=retain_graph)
    return gradient / count


def _backpropagate(reconstruction: Tensor, last_layer: Tensor, gradient: Tensor) -> Tensor:
    """Backpropagate a gradient from the reconstruction to the last layer, without underflow."""
    # A mean over all pixels has gradients near 1e-6, which underflow in fp16 on the way back.
    # Scaled to a maximum of 1, a million of them could add up to more than fp16's 65,504. Scaled to
    # a norm of 1 they are far from both limits.
    largest = gradient.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    scale = largest * (gradient / largest).norm().clamp(min=1.0)
    (last_layer_gradient,) = torch.autograd.grad(
        reconstruction, last_layer, (gradient / scale).to(reconstruction.dtype), retain_graph=True
    )
    return last_layer_gradient.float() * scale
