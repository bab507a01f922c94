"""The sum of all loss terms, with one backward pass for generator and discriminator."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_train.losses.adversarial import (
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
    gradient_of_mean,
    no_reduction,
)
from vqgan_train.losses.perceptual import LPIPS
from vqgan_train.system.devices import tf32_convolutions


def codebook_loss(
    latents: Tensor, codes: Tensor, *, commitment_weight: float, legacy: bool
) -> Tensor:
    """Sum two mean squared distances of latents and codes; one trains the codes, one the encoder.

    Args:
        latents: (B, D, H, W) encoder output, any float dtype.
        codes: (B, D, H, W) codes that replace the latents.
        commitment_weight: weight of one of the two, the paper's beta.
        legacy: put beta on the codes' side, as taming-transformers did for its released
            weights; otherwise on the encoder's side, as in the paper (van den Oord et al. 2017,
            equation 3).

    Returns:
        () float32.
    """
    latents, codes = latents.float(), codes.float()
    codebook_side = F.mse_loss(codes, latents.detach())
    encoder_side = F.mse_loss(latents, codes.detach())
    if legacy:
        return encoder_side + commitment_weight * codebook_side
    return codebook_side + commitment_weight * encoder_side


class StepTerms(NamedTuple):
    """Losses of one training step: () float32 scalars; all but `backward` are detached."""

    backward: Tensor
    """Scalar to call backward() on: it has the gradients of the losses, but a meaningless value."""

    total: Tensor
    """The generator's loss: reconstruction + weighted adversarial + weighted codebook."""

    reconstruction: Tensor
    """Pixel loss + weighted perceptual loss."""

    pixel: Tensor
    """Mean L1 distance."""

    perceptual: Tensor
    """Mean LPIPS distance, unweighted."""

    codebook: Tensor
    """Codebook loss, unweighted."""

    adversarial: Tensor
    """The generator's hinge loss, unweighted."""

    adaptive_weight: Tensor
    """Factor of `adversarial` in `total`: adaptive times configured weight; 0 if left out."""

    discriminator: Tensor
    """The discriminator's hinge loss, unweighted."""

    real_logits: Tensor
    """Mean logit of the images."""

    fake_logits: Tensor
    """Mean logit of the reconstructions."""


class ValidationTerms(NamedTuple):
    """Mean losses of a batch: () float32 scalars; the fields are as in `StepTerms`."""

    reconstruction: Tensor
    pixel: Tensor
    perceptual: Tensor
    codebook: Tensor


class Objective(nn.Module):
    """The weighted sum of the losses.

    Args:
        perceptual_weight: weight of LPIPS.
        adversarial_weight: weight of the adversarial term, on top of the adaptive weight.
        codebook_weight: weight of the codebook term.
        commitment_weight: beta inside the codebook term.
        legacy_codebook_loss: `legacy` of `codebook_loss`.
    """

    def __init__(
        self,
        *,
        perceptual_weight: float,
        adversarial_weight: float,
        codebook_weight: float,
        commitment_weight: float,
        legacy_codebook_loss: bool,
    ) -> None:
        super().__init__()
        self.lpips = LPIPS()
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight = adversarial_weight
        self.codebook_weight = codebook_weight
        self.commitment_weight = commitment_weight
        self.legacy_codebook_loss = legacy_codebook_loss

    def forward(
        self,
        images: Tensor,
        reconstruction: Tensor,
        latents: Tensor,
        codes: Tensor,
        *,
        discriminate: Callable[[Tensor], Tensor],
        last_layer: Tensor,
        adversarial_factor: float = 1.0,
        discriminator_factor: float = 1.0,
        reduce_gradients: Callable[[Tensor], Tensor] = no_reduction,
    ) -> StepTerms:
        """Compute the losses of one training step.

        LPIPS' convolutions and the discriminator run in autocast's dtype; the losses are float32.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            reconstruction: (B, 3, H, W), with the generator's graph.
            latents: (B, D, H/f, W/f), before quantization.
            codes: (B, D, H/f, W/f), after quantization.
            discriminate: the discriminator, images (B, 3, H, W) -> logits.
            last_layer: weight of the generator's last convolution.
            adversarial_factor: factor of the adversarial term in the generator's loss: 1, or 0 to
                leave it out.
            discriminator_factor: factor of the discriminator's loss: 1, or 0 to not train it.
            reduce_gradients: passed to `adaptive_weight`; a mean over ranks balances the
                adversarial term over all their images.
        """
        copy = reconstruction.detach().float().requires_grad_()
        # One pass serves both networks: the generator's gradient is taken at the copy, the
        # discriminator's at its own weights.
        fake_logits = discriminate(copy).float()
        real_logits = discriminate(images).float()
        pixel, perceptual = self._distances(images, copy)
        with torch.autocast(images.device.type, enabled=False):
            nll = pixel + self.perceptual_weight * perceptual
            adversarial = generator_hinge(fake_logits)
            nll_gradient = gradient_of_mean(nll, copy.numel(), copy, retain_graph=False)
            adversarial_gradient = gradient_of_mean(
                adversarial, fake_logits.numel(), copy, retain_graph=True
            )
            weight = (adversarial_factor * self.adversarial_weight) * adaptive_weight(
                reconstruction, last_layer, nll_gradient, adversarial_gradient, reduce_gradients
            )
            gradient = nll_gradient + weight * adversarial_gradient
            codebook = self._codebook(latents, codes)
            discriminator = discriminator_hinge(real_logits, fake_logits)
            backward = (
                (reconstruction.float() * gradient).sum()
                + self.codebook_weight * codebook
                + discriminator_factor * discriminator
            )
        return StepTerms(
            backward=backward,
            total=(nll + weight * adversarial + self.codebook_weight * codebook).detach(),
            reconstruction=nll.detach(),
            pixel=pixel.detach(),
            perceptual=perceptual.detach(),
            codebook=codebook.detach(),
            adversarial=adversarial.detach(),
            adaptive_weight=weight,
            discriminator=discriminator.detach(),
            real_logits=real_logits.detach().mean(),
            fake_logits=fake_logits.detach().mean(),
        )

    def evaluate(
        self, images: Tensor, reconstruction: Tensor, latents: Tensor, codes: Tensor
    ) -> ValidationTerms:
        """Compute the losses that need no discriminator; arguments as in `forward`.

        All of it, LPIPS too, is float32 without TF32, to compare runs of different precisions.
        """
        with torch.autocast(images.device.type, enabled=False), tf32_convolutions(allowed=False):
            pixel, perceptual = self._distances(images, reconstruction.float())
            nll = pixel + self.perceptual_weight * perceptual
            return ValidationTerms(nll, pixel, perceptual, self._codebook(latents, codes))

    def _distances(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean L1 and mean LPIPS of a batch."""
        pixel = (images - reconstruction).abs().mean()
        return pixel, self.lpips(images, reconstruction).mean()

    def _codebook(self, latents: Tensor, codes: Tensor) -> Tensor:
        return codebook_loss(
            latents,
            codes,
            commitment_weight=self.commitment_weight,
            legacy=self.legacy_codebook_loss,
        )
