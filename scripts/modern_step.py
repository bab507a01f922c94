"""The training step of a modern trainer of image tokenizers, to compare ours with.

Written afresh after LlamaGen's tokenizer trainer (Sun et al. 2024): one generator pass; MSE + LPIPS
+ codebook loss + 0.5 x hinge loss of a PatchGAN of three layers; two Adam optimizers, each with
its gradients clipped to a norm of 1.

The classes are those of taming-transformers, which LlamaGen copied, in torch's own memory layout.
The architecture is ours, so that both steps do the same arithmetic in the generator; LlamaGen's
codes are shorter and of unit length, which is a thousandth of it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ADVERSARIAL_WEIGHT = 0.5
CLIP_NORM = 1.0
LEARNING_RATE, BETAS = 1e-4, (0.9, 0.95)
DISCRIMINATOR_LAYERS = 3


class ModernLosses(NamedTuple):
    """Losses of one step."""

    generator: float
    discriminator: float


class ModernTrainer:
    """Trains the original's networks in the modern order of operations.

    Args:
        generator: the original's VQModel.
        lpips: the original's LPIPS, in evaluation mode.
        discriminator: the original's PatchGAN.
        device: cpu or cuda.
        dtype: autocast's dtype; None for float32.
    """

    def __init__(
        self,
        generator: Any,
        lpips: nn.Module,
        discriminator: nn.Module,
        device: str,
        dtype: torch.dtype | None,
    ) -> None:
        self.generator = generator.to(device).train()
        self.lpips = lpips.to(device).eval().requires_grad_(False)
        self.discriminator = discriminator.to(device).train()
        self.device, self.dtype = device, dtype
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=BETAS)
            for network in (self.generator, self.discriminator)
        ]

    def step(self, images: Tensor) -> ModernLosses:
        """Train generator, then discriminator, on images (B, 3, H, W) in [-1, 1]."""
        of_generator, of_discriminator = self.optimizers
        of_generator.zero_grad()
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            reconstruction, codebook_loss = self.generator(images)
            generator_loss = (
                functional.mse_loss(reconstruction, images)
                + self.lpips(images, reconstruction).mean()
                - ADVERSARIAL_WEIGHT * self.discriminator(reconstruction).mean()
                + codebook_loss
            )
        self._update(self.generator, of_generator, generator_loss)
        of_discriminator.zero_grad()  # the generator's loss has left gradients here
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            real = self.discriminator(images)
            fake = self.discriminator(reconstruction.detach())
            hinge = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
            discriminator_loss = ADVERSARIAL_WEIGHT * 0.5 * hinge
        self._update(self.discriminator, of_discriminator, discriminator_loss)
        return ModernLosses(float(generator_loss.detach()), float(discriminator_loss.detach()))

    def _update(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
