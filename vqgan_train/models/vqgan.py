"""VQGAN tokenizer: image -> latents -> nearest codes -> image (Esser et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqgan_train.checkpoint.load_report import require_generator
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.models.autoencoder import Decoder, Encoder
from vqgan_train.models.layers import AttentionBlock, ResidualBlock
from vqgan_train.models.quantizer import VectorQuantizer
from vqgan_train.system.errors import CheckpointError


class Generated(NamedTuple):
    """Result of one forward pass, with everything that the losses need."""

    reconstruction: Tensor
    """(B, out_channels, H, W), about [-1, 1]; gradients reach the encoder past the quantizer."""

    latents: Tensor
    """(B, code_dim, H/f, W/f), before quantization."""

    codes: Tensor
    """(B, code_dim, H/f, W/f), after quantization; gradients reach only the codebook."""

    tokens: Tensor
    """(B, H/f * W/f) int64 in [0, codebook_size)."""


class VQGAN(nn.Module):
    """Encoder, codebook and decoder.

    Images may have any size; both sides must be multiples of `downsampling`. Names of taming's
    settings are in parentheses.

    Args:
        channels: width of the first level (ch); a multiple of 32.
        channel_multipliers: width of each level in multiples of `channels` (ch_mult).
        num_residual_blocks: residual blocks per level; the decoder has one more (num_res_blocks).
        attention_resolutions: nominal resolutions whose level has attention (attn_resolutions).
        resolution: nominal image side in pixels, for the placement of attention.
        in_channels: channels of the input image.
        out_channels: channels of the output image (out_ch).
        latent_channels: channels between encoder and quantizer (z_channels).
        code_dim: length of a code (embed_dim).
        codebook_size: number of codes (n_embed).
        dropout: dropout probability inside the residual blocks.
        resample_with_convolution: resample by convolution instead of averaging and repeating pixels
            (resamp_with_conv).
    """

    def __init__(
        self,
        *,
        channels: int,
        channel_multipliers: Sequence[int],
        num_residual_blocks: int,
        attention_resolutions: Sequence[int],
        resolution: int,
        latent_channels: int,
        code_dim: int,
        codebook_size: int,
        in_channels: int = 3,
        out_channels: int = 3,
        dropout: float = 0.0,
        resample_with_convolution: bool = True,
    ) -> None:
        super().__init__()
        self.downsampling = 2 ** (len(channel_multipliers) - 1)
        """Pixels per token and side, f."""
        levels: dict[str, Any] = {
            "channels": channels,
            "channel_multipliers": channel_multipliers,
            "num_residual_blocks": num_residual_blocks,
            "attention_resolutions": attention_resolutions,
            "resolution": resolution,
            "latent_channels": latent_channels,
            "dropout": dropout,
            "resample_with_convolution": resample_with_convolution,
        }
        self.encoder = Encoder(in_channels=in_channels, **levels)
        self.quant_conv = nn.Conv2d(latent_channels, code_dim, kernel_size=1)
        self.quantizer = VectorQuantizer(codebook_size, code_dim)
        self.post_quant_conv = nn.Conv2d(code_dim, latent_channels, kernel_size=1)
        self.decoder = Decoder(out_channels=out_channels, **levels)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Build the tokenizer of a checkpoint, in evaluation mode on the CPU.

        Args:
            path: a file of any format that `checkpoint.reading.read_checkpoint` reads.

        Raises:
            CheckpointError: the file cannot be read, or holds no consistent VQGAN.
        """
        networks = read_networks(Path(path))
        return cls.from_weights(networks.architecture, networks.generator, Path(path))

    @classmethod
    def from_weights(
        cls, architecture: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
    ) -> Self:
        """Build a tokenizer with weights, in evaluation mode on the CPU.

        Args:
            architecture: arguments of this class.
            weights: float32, under the names of this class; they are used without a copy.
            path: file that they come from, for messages.

        Raises:
            CheckpointError: the architecture is impossible, or the weights do not fit it.
        """
        try:
            with torch.device("meta"):  # allocates and draws no random weights
                model = cls(**architecture)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no VQGAN, or a damaged one: {error}.") from error
        require_generator(model.state_dict(), weights, path)
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def forward(self, images: Tensor) -> Generated:
        """Reconstruct images (B, in_channels, H, W) in [-1, 1]."""
        latents = self.latents(images)
        codes, tokens = self.quantizer(latents)
        straight_through = latents + (codes - latents).detach()
        return Generated(self._decode(straight_through), latents, codes, tokens)

    def freeze_tokens(self) -> None:
        """Train the decoder alone: freeze all weights that decide an image's tokens."""
        for part in (self.encoder, self.quant_conv, self.quantizer):
            part.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """Return tokens (B, H/f * W/f) int64, row by row, of images (B, in_channels, H, W).

        Args:
            images: in [-1, 1]; they are moved to the weights' device and dtype.

        Raises:
            ValueError: a side is not a multiple of f, or `images` has not four dimensions.
        """
        return self.quantizer.nearest(self.latents(images.to(self.quant_conv.weight)))

    def latents(self, images: Tensor) -> Tensor:
        """Return the quantizer's input (B, code_dim, H/f, W/f).

        Args:
            images: (B, in_channels, H, W) in [-1, 1].

        Raises:
            ValueError: a side is not a multiple of f, or `images` has not four dimensions.
        """
        if images.dim() != 4 or any(side % self.downsampling for side in images.shape[2:]):
            raise ValueError(
                f"This model takes images (B, C, H, W) with H and W multiples of "
                f"{self.downsampling}, got {tuple(images.shape)}. Resize or crop them."
            )
        return self.quant_conv(self.encoder(images))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode images (B, in_channels, H, W) in [-1, 1], without gradients.

        Returns:
            (B, out_channels, H, W), about [-1, 1], on the weights' device and in their dtype.

        Raises:
            ValueError: a side is not a multiple of f, or `images` has not four dimensions.
        """
        tokens = self.encode(images)
        return self.decode(
            tokens, (images.shape[2] // self.downsampling, images.shape[3] // self.downsampling)
        )

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return images (B, out_channels, H, W), about [-1, 1], of tokens (B, N) int64.

        Args:
            tokens: as returned by `encode`; they are moved to the weights' device.
            grid: (H/f, W/f) of the images; required if they are not square.

        Raises:
            ValueError: N does not fill the grid, or `grid` is None and N is no square number.
        """
        count = tokens.shape[1]
        height, width = grid or (math.isqrt(count), math.isqrt(count))
        if height * width != count:
            raise ValueError(
                f"{count} tokens do not fill a grid of {height} x {width}. "
                "Give decode the grid of the images: grid=(H // f, W // f)."
            )
        tokens = tokens.to(self.quantizer.codebook.weight.device)
        return self._decode(self.quantizer.lookup(tokens, height))

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(codes))


def recompute_activations(network: nn.Module) -> None:
    """Save memory: residual and attention blocks recompute activations in the backward pass.

    Each keeps only its input. The second forward pass draws the same random numbers, so gradients
    are equal to the last bit. Names and weights stay the same.

    Args:
        network: module that contains such blocks at any depth; changed in place.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock | AttentionBlock):
            recomputed = partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = recomputed  # type: ignore[method-assign]
