"""PSNR, SSIM, L1 and LPIPS of single images, defined once for validation and evaluation.

SSIM is torchmetrics' and LPIPS with AlexNet is the package `lpips`. LPIPS with VGG16 is the
training loss, which equals that package's.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from vqgan_train.system.devices import tf32_convolutions

ImageMetric = Callable[[Tensor, Tensor], Tensor]
"""Function of references and reconstructions (B, C, H, W) that returns one value per image, (B,).

The range of the images is [0, 1] unless said otherwise.
"""

MIN_IMAGE_PX = 32
"""Smallest side of an image, because AlexNet's poolings leave nothing of smaller ones."""


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image, over all pixels and channels.

    The mean over images is that of their PSNRs, which is larger than the PSNR of their mean error.

    Args:
        reference: (B, C, H, W) float32 in [0, 1].
        reconstruction: as `reference`.

    Returns:
        (B,); infinite for identical images.
    """
    error = (reference - reconstruction).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(1 / error)


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the structural similarity of each image, (B,) up to 1.

    Wang et al. 2004: Gaussian windows of 11 x 11 pixels with a deviation of 1.5, per channel.
    Windows at the border see mirrored pixels, and enter the mean. scikit-image leaves out the 5
    outermost pixels, and the rest is equal.

    Args:
        reference: (B, C, H, W) float32 in [0, 1].
        reconstruction: as `reference`.
    """
    # Variances are small differences of large sums: the error of half precision or TF32 would be
    # as large as they are.
    with (
        torch.autocast(reference.device.type, enabled=False),
        tf32_convolutions(allowed=False),
    ):
        similarity = structural_similarity_index_measure(
            reconstruction, reference, data_range=1.0, reduction="none"
        )
    assert isinstance(similarity, Tensor)
    return similarity.reshape(len(reference))  # torchmetrics returns a scalar for one image


def l1(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the mean absolute difference of each image, (B,)."""
    return (reference - reconstruction).abs().mean(dim=(1, 2, 3))


PIXEL_METRICS: Mapping[str, ImageMetric] = {"psnr": psnr, "ssim": ssim, "l1": l1}
"""Metrics of images in [0, 1] that need no network."""


def lpips_of(network: torch.nn.Module) -> ImageMetric:
    """Wrap an LPIPS network, which takes images in [-1, 1], as a metric of images in [0, 1]."""

    def distance(reference: Tensor, reconstruction: Tensor) -> Tensor:
        return network(reference * 2 - 1, reconstruction * 2 - 1).reshape(len(reference))

    return distance


@torch.inference_mode()
def measure(
    metrics: Mapping[str, ImageMetric], reference: Tensor, reconstruction: Tensor
) -> dict[str, Tensor]:
    """Measure each image of a batch as it would be saved, in full float32.

    Args:
        metrics: metrics of images in [0, 1], by name.
        reference: (B, 3, H, W) uint8, on the metrics' device.
        reconstruction: as `reference`.

    Returns:
        (B,) float64 on the CPU, by name.
    """
    one, other = reference.float() / 255, reconstruction.float() / 255
    with tf32_convolutions(allowed=False):
        return {name: metric(one, other).cpu().double() for name, metric in metrics.items()}


def lpips_with_alexnet(weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the package's LPIPS network with AlexNet.

    Args:
        weights: the result of `find_lpips_weights(ALEXNET)`.

    Returns:
        Network from two batches (B, 3, H, W) in [-1, 1] to distances (B, 1, 1, 1).
    """
    import lpips

    # The package makes deprecated calls; on the device "meta" it draws no random weights.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    network.to_empty(device="cpu")
    network.scaling_layer = lpips.ScalingLayer()
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
