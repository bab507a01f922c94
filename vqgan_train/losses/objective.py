"""The codebook term: codes move to latents, latents commit to codes."""

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
    """Mean squared distance of latents and codes, once for each side's gradient.

    Args:
        latents: (B, D, H, W) encoder output.
        codes: (B, D, H, W) the codes that replaced them.
        commitment_weight: the paper's beta.
        legacy: put beta on the codebook's side, as taming-transformers does for the sake of the
            weights it released; otherwise on the encoder's side, as the paper says (van den Oord et
            al. 2017, equation 3).

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
    """One training step's losses: () float32 scalars, detached but for `backward`."""

    backward: Tensor
    """What to call backward() on: its gradients are those of the losses, its value is nothing."""

    total: Tensor
    """The generator's loss: reconstruction + weighted adversarial + weighted codebook."""

    reconstruction: Tensor
    """pixel + weighted perceptual."""

    pixel: Tensor
    perceptual: Tensor
    codebook: Tensor
    adversarial: Tensor
    """The generator's side of the game, unweighted."""

    adaptive_weight: Tensor
    """What `adversarial` was multiplied by, the configured weight included; 0 before its start."""

    discriminator: Tensor
    """The discriminator's side, unweighted."""

    real_logits: Tensor
    fake_logits: Tensor


class ValidationTerms(NamedTuple):
    """Mean losses over a batch: () float32 scalars."""

    reconstruction: Tensor
    pixel: Tensor
    perceptual: Tensor
    codebook: Tensor


class Objective(nn.Module):
    """The weighted sum of the losses.

    Args:
        perceptual_weight: scale on LPIPS.
        adversarial_weight: scale on the balanced adversarial term.
        codebook_weight: scale on the codebook term.
        commitment_weight: beta inside the codebook term.
        legacy_codebook_loss: beta on the side where taming-transformers has it.
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

        The loss networks' convolutions follow autocast; all else is float32 whatever it says.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            reconstruction: (B, 3, H, W), attached to the generator's graph.
            latents: (B, D, H/f, W/f) before quantization.
            codes: (B, D, H/f, W/f) after it.
            discriminate: the discriminator, images (B, 3, H, W) -> logits.
            last_layer: weight of the generator's last convolution.
            adversarial_factor: 0 keeps the adversarial term out of the generator's loss, 1 lets it
                in.
            discriminator_factor: 0 keeps the discriminator as it is, 1 trains it.
            reduce_gradients: reduction over ranks for the adaptive weight; see `adaptive_weight`.
        """
        copy = reconstruction.detach().float().requires_grad_()
        # Once for both players: the generator's gradient stops at the copy, the discriminator's at
        # its own weights.
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
        """Compute what does not depend on the discriminator; arguments as in `forward`.

        All in whole float32, LPIPS too, so that runs of different precision can be compared.
        """
        with torch.autocast(images.device.type, enabled=False), tf32_convolutions(allowed=False):
            pixel, perceptual = self._distances(images, reconstruction.float())
            nll = pixel + self.perceptual_weight * perceptual
            return ValidationTerms(nll, pixel, perceptual, self._codebook(latents, codes))

    def _distances(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Mean L1 and mean LPIPS of a batch."""
        pixel = (images - reconstruction).abs().mean()
        return pixel, self.lpips(images, reconstruction).mean()

    def _codebook(self, latents: Tensor, codes: Tensor) -> Tensor:
        return codebook_loss(
            latents,
            codes,
            commitment_weight=self.commitment_weight,
            legacy=self.legacy_codebook_loss,
        )
