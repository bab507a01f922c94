"""Metrics of each image, on pixels as they are saved: uint8, of reference and reconstruction alike.

PSNR and SSIM are torchmetrics', LPIPS with AlexNet is the package `lpips`, LPIPS with VGG16 is the
one of training, which equals the package's.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from vqgan_train.metrics import structural_similarity
from vqgan_train.tf32 import tf32_convolutions

ImageMetric = Callable[[Tensor, Tensor], Tensor]
"""From references and reconstructions (B, 3, H, W) float32 in [0, 1] to (B,)."""

SMALLEST_IMAGE_PX = 32
"""Below, AlexNet has no position left in its last slice."""


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal images."""
    return peak_signal_noise_ratio(
        reconstruction, reference, data_range=1.0, reduction="none", dim=(1, 2, 3)
    )


def l1(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference, of [0, 1]."""
    return (reference - reconstruction).abs().mean(dim=(1, 2, 3))


def lpips_of(network: torch.nn.Module) -> ImageMetric:
    """Make a metric of a network that takes two batches in [-1, 1]."""

    def distance(reference: Tensor, reconstruction: Tensor) -> Tensor:
        return network(reference * 2 - 1, reconstruction * 2 - 1).reshape(len(reference))

    return distance


PLAIN_METRICS: Mapping[str, ImageMetric] = {"psnr": psnr, "ssim": structural_similarity, "l1": l1}
"""Those that need no weights, by their keys in names.IMAGE_METRICS."""


@torch.inference_mode()
def measure(
    metrics: Mapping[str, ImageMetric], reference: Tensor, reconstruction: Tensor
) -> dict[str, Tensor]:
    """Measure each image of a batch, in float32 whatever the process shortens elsewhere.

    Args:
        metrics: by name.
        reference: (B, 3, H, W) uint8, on the metrics' device.
        reconstruction: as `reference`.

    Returns:
        (B,) float64 on the CPU, by name.
    """
    one, other = reference.float() / 255, reconstruction.float() / 255
    with tf32_convolutions(allowed=False):
        return {name: metric(one, other).cpu().double() for name, metric in metrics.items()}
