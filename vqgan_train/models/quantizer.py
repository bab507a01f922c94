"""Vector quantization: replace latent vectors by their nearest codes (van den Oord et al. 2017)."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    """Result of quantizing latents (B, D, H, W)."""

    codes: Tensor
    """Nearest codes (B, D, H, W) float32; gradients reach the codebook, not the encoder."""

    tokens: Tensor
    """Indices (B, H*W) of the codes, int64 in [0, codebook_size), row by row."""


class VectorQuantizer(nn.Module):
    """Codebook with search for the nearest code.

    Args:
        codebook_size: number of codes.
        code_dim: length of a code.
    """

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codebook_size, code_dim)
        nn.init.uniform_(self.codebook.weight, -1 / codebook_size, 1 / codebook_size)

    def draw_codes(self, scale: float) -> None:
        """Draw all codes again, from a normal distribution with standard deviation `scale`.

        The constructor draws them as the original does, uniformly in +-1 / codebook_size. They are
        so close together that a model trained from random weights learns to use only few.
        """
        nn.init.normal_(self.codebook.weight, std=scale)

    def forward(self, latents: Tensor) -> Quantized:
        """Replace each vector of `latents` (B, D, H, W), any float dtype, by its nearest code."""
        tokens = self.nearest(latents)
        return Quantized(self.lookup(tokens, latents.shape[2]), tokens)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Return the tokens (B, H*W) int64 of the codes nearest (L2) to latents (B, D, H, W)."""
        # Always in float32, because distances are small differences of large sums. The original
        # also adds the latent's squared length; it is the same for all codes and costs digits.
        with torch.autocast(latents.device.type, enabled=False):
            vectors = rearrange(latents.float(), "b d h w -> (b h w) d")
            codes = self.codebook.weight.float()
            distances = torch.addmm(codes.square().sum(dim=1), vectors, codes.T, alpha=-2)
            return distances.argmin(dim=1).view(latents.shape[0], -1)

    def lookup(self, tokens: Tensor, height: int) -> Tensor:
        """Return codes (B, D, height, N/height) of tokens (B, N) int64."""
        return rearrange(
            F.embedding(tokens, self.codebook.weight), "b (h w) d -> b d h w", h=height
        )
