"""The adversarial game: hinge losses and the weight that balances them with the reconstruction."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ADAPTIVE_WEIGHT = 1e4
ADAPTIVE_WEIGHT_EPSILON = 1e-4


def no_reduction(gradients: Tensor) -> Tensor:
    """Return the gradients unchanged: each rank balances its batch, as in taming-transformers."""
    return gradients


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """() what the generator minimises: minus the mean logit of its images (Lim and Ye 2017)."""
    return -fake_logits.mean()


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """() what the discriminator minimises: 1 if it cannot tell, 0 if it is sure."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def adaptive_weight(
    reconstruction: Tensor,
    last_layer: Tensor,
    nll_gradient: Tensor,
    adversarial_gradient: Tensor,
    reduce_gradients: Callable[[Tensor], Tensor] = no_reduction,
) -> Tensor:
    """How much the adversarial term may pull at the last layer (Esser et al. 2021, equation 7).

    Args:
        reconstruction: (B, C, H, W), attached to the graph that `last_layer` made it in.
        last_layer: weight of the decoder's last convolution.
        nll_gradient: gradient of pixel plus perceptual loss with respect to the reconstruction.
        adversarial_gradient: gradient of the generator's adversarial loss, likewise.
        reduce_gradients: maps the two gradients at the last layer, (2, *last_layer.shape) float32,
            to those whose norms are taken. With their mean over ranks, all ranks have the weight of
            all their images, as if these were one batch.

    Returns:
        () float32 in [0, 1e4], detached: |d nll / d last_layer| / (|d adversarial / d last_layer| +
        1e-4).
    """
    nll_pull = _carry_to(last_layer, reconstruction, nll_gradient)
    adversarial_pull = _carry_to(last_layer, reconstruction, adversarial_gradient)
    pulls = reduce_gradients(torch.stack([nll_pull, adversarial_pull]))
    nll_norm, adversarial_norm = pulls.flatten(1).norm(dim=1)
    weight = nll_norm / (adversarial_norm + ADAPTIVE_WEIGHT_EPSILON)
    return weight.clamp(0.0, MAX_ADAPTIVE_WEIGHT)


def gradient_of_mean(mean: Tensor, count: int, image: Tensor, *, retain_graph: bool) -> Tensor:
    """The gradient of a mean of `count` numbers with respect to the image.

    It starts at 1 / count, which fp16 would round away inside a loss network, where no loss scaling
    reaches it; so the sum's gradient is taken, and divided.
    """
    (gradient,) = torch.autograd.grad(mean * count, image, retain_graph=retain_graph)
    return gradient / count


def _carry_to(last_layer: Tensor, reconstruction: Tensor, gradient: Tensor) -> Tensor:
    """A gradient of the reconstruction, carried back to the last layer's weight: float32."""
    # A mean over all pixels has gradients near 1e-6, which fp16 rounds to nothing on the way back.
    # Scaled to a largest of 1, a million of them would add up to more than it can hold. A norm
    # of 1 is far from both ends.
    largest = gradient.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    scale = largest * (gradient / largest).norm().clamp(min=1.0)
    (carried,) = torch.autograd.grad(
        reconstruction, last_layer, (gradient / scale).to(reconstruction.dtype), retain_graph=True
    )
    return carried.float() * scale
