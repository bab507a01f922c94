"""Vector quantization: each latent vector becomes its nearest code (van den Oord et al. 2017)."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    """What the quantizer makes of latents (B, D, H, W)."""

    codes: Tensor
    """(B, D, H, W) float32, the chosen codes; gradient reaches the codebook, not the encoder."""

    tokens: Tensor
    """(B, H*W) int64 in [0, codebook_size), row by row."""


class VectorQuantizer(nn.Module):
    """A codebook and the search in it.

    Args:
        codebook_size: number of codes.
        code_dim: length of a code.
    """

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codebook_size, code_dim)
        nn.init.uniform_(self.codebook.weight, -1 / codebook_size, 1 / codebook_size)

    def draw_codes(self, scale: float) -> None:
        """Draw all codes anew, normally with standard deviation `scale`.

        The constructor's are the original's: uniform in +-1 / codebook_size, so close together that
        a model trained from nothing learns to use few of them.
        """
        nn.init.normal_(self.codebook.weight, std=scale)

    def forward(self, latents: Tensor) -> Quantized:
        """Replace each vector of `latents` (B, D, H, W), any float dtype, by its nearest code."""
        tokens = self.nearest(latents)
        return Quantized(self.lookup(tokens, latents.shape[2]), tokens)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Tokens (B, H*W) int64 of latents (B, D, H, W): the codes at the smallest L2 distance.

        Always in float32, whatever autocast says: distances are small differences of large sums. A
        vector's own squared length is the same for all codes and left out, which loses fewer digits
        than the original's full distance.
        """
        with torch.autocast(latents.device.type, enabled=False):
            vectors = rearrange(latents.float(), "b d h w -> (b h w) d")
            codes = self.codebook.weight.float()
            distances = torch.addmm(codes.square().sum(dim=1), vectors, codes.T, alpha=-2)
            return distances.argmin(dim=1).view(latents.shape[0], -1)

    def lookup(self, tokens: Tensor, height: int) -> Tensor:
        """Codes (B, D, height, N/height) of tokens (B, N) int64."""
        return rearrange(
            F.embedding(tokens, self.codebook.weight), "b (h w) d -> b d h w", h=height
        )
