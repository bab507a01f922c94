"""Encoder and decoder: levels of residual blocks, some with attention.

Level 0 has the full resolution in both, as in the original; each further level has half the side.
Attention is placed by nominal resolutions: the side that a level would have for images with sides
of `resolution` pixels. The actual size of an image does not matter.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vqgan_train.models.layers import (
    AttentionBlock,
    Downsample,
    Norm,
    ResidualBlock,
    Upsample,
)


class Level(nn.Module):
    """Residual blocks of one resolution, then a change of resolution.

    (B, channels[0], H, W) -> (B, channels[-1], H', W').

    Args:
        channels: channels before the first block and after each block.
        with_attention: put attention after each block.
        dropout: dropout probability inside the residual blocks.
        resample: change of resolution to the next level; an identity in the last level.
    """

    def __init__(
        self, channels: Sequence[int], *, with_attention: bool, dropout: float, resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, dropout) for before, after in pairwise(channels)
        )
        self.attentions = nn.ModuleList(
            AttentionBlock(after) if with_attention else nn.Identity() for after in channels[1:]
        )
        self.resample = resample

    def forward(self, features: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            features = attention(block(features))
        return self.resample(features)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution; keeps the shape."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, channels, dropout)
        self.attention = AttentionBlock(channels)
        self.block2 = ResidualBlock(channels, channels, dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.block2(self.attention(self.block1(features)))


class Encoder(nn.Module):
    """Images (B, in_channels, H, W) -> latents (B, latent_channels, H/f, W/f).

    f is 2 ** (number of levels - 1). Arguments are those of `VQGAN`.
    """

    def __init__(
        self,
        *,
        channels: int,
        channel_multipliers: Sequence[int],
        num_residual_blocks: int,
        attention_resolutions: Sequence[int],
        resolution: int,
        in_channels: int,
        latent_channels: int,
        dropout: float,
        resample_with_convolution: bool,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in channel_multipliers]
        resamples = [
            Downsample(width, with_convolution=resample_with_convolution) for width in widths[:-1]
        ]
        self.conv_in = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                [before] + [width] * num_residual_blocks,
                with_attention=resolution // 2**index in attention_resolutions,
                dropout=dropout,
                resample=resample,
            )
            for index, (before, width, resample) in enumerate(
                zip([channels, *widths[:-1]], widths, [*resamples, nn.Identity()], strict=True)
            )
        )
        self.middle = Middle(widths[-1], dropout)
        self.norm_out = Norm(widths[-1], silu=True)
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv_in(images)
        for level in self.levels:
            features = level(features)
        return self.conv_out(self.norm_out(self.middle(features)))


class Decoder(nn.Module):
    """Latents (B, latent_channels, H/f, W/f) -> images (B, out_channels, H, W).

    Each level has one residual block more than in the encoder, as in the original. Arguments are
    those of `VQGAN`.
    """

    def __init__(
        self,
        *,
        channels: int,
        channel_multipliers: Sequence[int],
        num_residual_blocks: int,
        attention_resolutions: Sequence[int],
        resolution: int,
        out_channels: int,
        latent_channels: int,
        dropout: float,
        resample_with_convolution: bool,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in channel_multipliers]
        resamples = [
            Upsample(width, with_convolution=resample_with_convolution) for width in widths[1:]
        ]
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], kernel_size=3, padding=1)
        self.middle = Middle(widths[-1], dropout)
        self.levels = nn.ModuleList(
            Level(
                [before] + [width] * (num_residual_blocks + 1),
                with_attention=resolution // 2**index in attention_resolutions,
                dropout=dropout,
                resample=resample,
            )
            for index, (width, before, resample) in enumerate(
                zip(widths, [*widths[1:], widths[-1]], [nn.Identity(), *resamples], strict=True)
            )
        )
        self.norm_out = Norm(widths[0], silu=True)
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv_out(self.features(latents))

    def features(self, latents: Tensor) -> Tensor:
        """Compute the input (B, C, H, W) of the last convolution."""
        # A function of its own, because it can be compiled as a whole, but not together with the
        # last convolution: the adaptive weight backpropagates to that convolution alone, while a
        # compiled backward pass computes all gradients or none.
        features = self.middle(self.conv_in(latents))
        for level in reversed(self.levels):
            features = level(features)
        return self.norm_out(features)
