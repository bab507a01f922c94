"""Metrics of each image, on pixels as they are saved: uint8, of reference and reconstruction alike.

PSNR and SSIM are torchmetrics', LPIPS with AlexNet is the package `lpips`, LPIPS with VGG16 is the
one of training, which equals the package's.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from vqgan_train.system.devices import tf32_convolutions


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


def lpips_with_alexnet(weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the network.

    Args:
        weights: the result of `find_lpips_weights(ALEXNET)`.

    Returns:
        From two batches (B, 3, H, W) in [-1, 1] to distances (B, 1, 1, 1).
    """
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips asks torchvision in an old way, and draws weights first.
        warnings.simplefilter("ignore")
        network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    backbone = [layer for layer in layers if layer.kernel_size != (1, 1)]
    for index, layer in enumerate(backbone):
        layer.load_state_dict(
            {part: weights[f"convolutions.{index}.{part}"] for part in ("weight", "bias")}
        )
    for index, head in enumerate(network.lins):
        head.model[-1].load_state_dict({"weight": weights[f"heads.{index}.weight"]})
    built: nn.Module = network.requires_grad_(False).eval()
    return built
