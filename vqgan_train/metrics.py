"""What is measured besides the losses: image fidelity and how the codebook is used."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vqgan_train.tf32 import tf32_convolutions


class CodebookUse(NamedTuple):
    """How tokens spread over the codebook: () float32 scalars on the CPU."""

    used: Tensor
    """Codes that occur."""

    dead: Tensor
    """Codes that do not."""

    perplexity: Tensor
    """exp of the entropy: how many equally frequent codes would be as varied."""

    entropy_bits: Tensor
    """Of a token, if they were independent; log2(codebook_size) at most."""


def token_counts(tokens: Tensor, codebook_size: int) -> Tensor:
    """(codebook_size,) int64: how often each code occurs in tokens of any shape."""
    return torch.bincount(tokens.flatten(), minlength=codebook_size)


def codebook_use(counts: Tensor) -> CodebookUse:
    """Summarise token counts (codebook_size,), summed over as many images as one likes."""
    counts = counts.cpu()  # for float64, which not every device has
    used = (counts > 0).sum().float()
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy = 0 - torch.special.xlogy(shares, shares).sum()  # of one code 0, and not -0
    bits = entropy / math.log(2)
    return CodebookUse(used, len(counts) - used, entropy.exp().float(), bits.float())


def psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,) float32, of images (B, C, H, W) in [-1, 1].

    Reconstructions are clipped to that range, as they are when saved. Equal images give infinity.
    """
    error = (images.float() - reconstruction.float().clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    peak = 2.0
    return 10 * torch.log10(peak**2 / error)


def ssim(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity, (B,) float32 up to 1, of images (B, C, H, W) in [-1, 1].

    Reconstructions are clipped as in `psnr`.
    """
    return structural_similarity(
        (images.float() + 1) / 2, (reconstruction.float().clamp(-1, 1) + 1) / 2
    )


def structural_similarity(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """SSIM, (B,) float32 up to 1, of images (B, C, H, W) float32 in [0, 1].

    Wang et al. 2004: Gaussian windows of 11 x 11 and a deviation of 1.5, each channel by itself.
    """
    # Its variances are small differences: half precision, or TF32, would be off by their size.
    with (
        torch.autocast(reference.device.type, enabled=False),
        tf32_convolutions(allowed=False),
    ):
        similarity = structural_similarity_index_measure(
            reconstruction, reference, data_range=1.0, reduction="none"
        )
    assert isinstance(similarity, Tensor)
    return similarity.reshape(len(reference))  # one image would come as a scalar


ImageMetric = Callable[[Tensor, Tensor], Tensor]
"""From images and reconstruction (B, C, H, W) in [-1, 1] to (B,): each image by itself."""

IMAGE_METRICS: Mapping[str, ImageMetric] = {"psnr": psnr, "ssim": ssim}
"""Those that need no weights, by their names in the log."""
