"""Blocks of encoder and decoder, on features (B, C, H, W).

They compute the same as the blocks of taming-transformers (Esser et al. 2021, "Taming Transformers
for High-Resolution Image Synthesis", appendix A), so that its weights give the same output here.

With mixed precision, the same is computed in the same dtype on CPUs and GPUs:

- half precision in and out: convolutions, attention, BatchNorm, pooling, upsampling;
- float32 inside, half precision in and out: GroupNorm with the SiLU after it (`Norm`);
- float32: the latents' distances to the codebook, unit length and heads of LPIPS, all losses and
  the adaptive weight, each written so where it is computed.

`tests/models/test_precisions.py` compares the two devices block by block.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_train.models.fused_norm import group_norm_silu, works_here

NORM_GROUPS = 32
"""Number of GroupNorm groups; every channel count in the model must be a multiple of it."""


class Norm(nn.GroupNorm):
    """GroupNorm with the original's epsilon, a tenth of torch's default, then SiLU if `silu`.

    (B, channels, H, W) -> same shape, dtype and memory layout. Statistics and arithmetic are
    float32 on every device. Left to autocast, the result would be float32 on GPUs and bfloat16 on
    CPUs.
    """

    def __init__(self, channels: int, *, silu: bool) -> None:
        super().__init__(NORM_GROUPS, channels, eps=1e-6)
        self.silu = silu

    def forward(self, features: Tensor) -> Tensor:
        if features.is_cuda and works_here():
            return self.fused(features)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        wide = features
        if features.device.type != "cpu":
            # The CPU's kernel computes in float32 whatever the dtype of its input; the GPU's would
            # round the statistics to that dtype.
            weight, bias, wide = weight.float(), bias.float(), features.float()
        normed = F.group_norm(wide, self.num_groups, weight, bias, self.eps)
        return (F.silu(normed) if self.silu else normed).to(features.dtype)

    def fused(self, features: Tensor) -> Tensor:
        """Compute `forward` in one operation, which keeps only `features` for the gradient."""
        settings = (self.num_groups, self.eps, self.silu)
        return cast(Tensor, group_norm_silu(features, self.weight, self.bias, *settings)[0])


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions, added to their input.

    (B, in_channels, H, W) -> (B, out_channels, H, W). If the numbers of channels differ, a 1x1
    convolution adapts the input.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = Norm(in_channels, silu=True)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = Norm(out_channels, silu=True)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.conv1(self.norm1(features))
        hidden = self.conv2(self.dropout(self.norm2(hidden)))
        return self.shortcut(features) + hidden


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, added to its input; keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, silu=False)
        self.query = nn.Conv2d(channels, channels, kernel_size=1)
        self.key = nn.Conv2d(channels, channels, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.output = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        height = features.shape[2]
        normed = self.norm(features)
        query, key, value = (
            rearrange(project(normed), "b c h w -> b 1 (h w) c")
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return features + self.output(rearrange(attended, "b 1 (h w) c -> b c h w", h=height))


class Downsample(nn.Module):
    """Halve height and width: (B, C, H, W) -> (B, C, H/2, W/2).

    Args:
        channels: channels in and out.
        with_convolution: use a strided 3x3 convolution instead of the mean of each 2x2 square.
    """

    def __init__(self, channels: int, *, with_convolution: bool) -> None:
        super().__init__()
        self.conv = (
            nn.Conv2d(channels, channels, kernel_size=3, stride=2) if with_convolution else None
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(features, kernel_size=2)
        # As in the original, only right and bottom are padded; symmetric padding would shift the
        # image.
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repetition: (B, C, H, W) -> (B, C, 2H, 2W).

    Args:
        channels: channels in and out.
        with_convolution: smooth the result with a 3x3 convolution.
    """

    def __init__(self, channels: int, *, with_convolution: bool) -> None:
        super().__init__()
        self.conv = (
            nn.Conv2d(channels, channels, kernel_size=3, padding=1) if with_convolution else None
        )

    def forward(self, features: Tensor) -> Tensor:
        # Copies need no float32, but CUDA's autocast would convert the features to it.
        with torch.autocast("cuda", enabled=False):
            enlarged = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return enlarged if self.conv is None else self.conv(enlarged)
