"""Image metrics of validation during training, on float images in [-1, 1], and their means.

The definitions are those of `metrics.images`. Reconstructions are clipped to [-1, 1], because a
decoder's output has no bounds; PSNR and SSIM are computed without rounding to bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vqgan_train.images.transforms import to_uint8
from vqgan_train.losses.lpips_files import ALEXNET
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.metrics.images import ImageMetric, lpips_of, lpips_with_alexnet, psnr, ssim
from vqgan_train.system.devices import tf32_convolutions


def on_signed(metric: ImageMetric) -> ImageMetric:
    """Turn a metric of images in [0, 1] into one of images in [-1, 1], computed in float32.

    The images may be of any float dtype; values outside the range are clipped.
    """

    def measure(images: Tensor, reconstruction: Tensor) -> Tensor:
        one, other = ((x.float().clamp(-1, 1) + 1) / 2 for x in (images, reconstruction))
        return metric(one, other)

    return measure


SIGNED_METRICS: Mapping[str, ImageMetric] = {"psnr": on_signed(psnr), "ssim": on_signed(ssim)}
"""Metrics of images in [-1, 1] that need no network, by their names in the log."""

LPIPS_ALEXNET = "lpips_alexnet"
"""Name in the log; evaluation stores the same metric as `lpips_alex`."""


def validation_metrics(
    names: Sequence[str], alexnet_weights: Path | None
) -> dict[str, ImageMetric]:
    """Return metrics of images in [-1, 1], with their networks loaded.

    Args:
        names: keys of `SIGNED_METRICS`, and `LPIPS_ALEXNET`.
        alexnet_weights: file with AlexNet's weights; None searches the usual places.

    Raises:
        LpipsWeightsNotFoundError: AlexNet's weights are neither cached nor downloadable.
        UserError: the file is missing or holds other weights.
    """
    return {
        name: _lpips_alexnet(alexnet_weights) if name == LPIPS_ALEXNET else SIGNED_METRICS[name]
        for name in names
    }


def add_up(
    metrics: Mapping[str, ImageMetric], images: Tensor, reconstruction: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum M metrics over a batch, without infinite values.

    Identical images have an infinite PSNR, which enters no mean; evaluation does the same.

    Returns:
        The sums and the numbers of images in each sum, both (M,).
    """
    values = [metric(images, reconstruction) for metric in metrics.values()]
    stacked = torch.stack(values) if values else images.new_zeros(0, len(images))
    is_counted = ~stacked.isposinf()
    return stacked.where(is_counted, 0).sum(dim=1), is_counted.sum(dim=1)


def means(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the means (M,) from the totals of `add_up`; infinite where no value was finite."""
    return torch.where(counts > 0, sums / counts, torch.inf)


def _lpips_alexnet(file: Path | None) -> ImageMetric:
    """Return LPIPS with AlexNet as evaluation measures it: on bytes, in full float32."""
    # Only the closure holds the network, because a submodule would be trained, broadcast and saved.
    network = lpips_with_alexnet(find_lpips_weights(ALEXNET, file, "run.alexnet_weights"))
    distance = lpips_of(network)

    def measure(images: Tensor, reconstruction: Tensor) -> Tensor:
        network.to(images.device)
        one, other = (to_uint8(batch).float() / 255 for batch in (images, reconstruction))
        with torch.autocast(images.device.type, enabled=False), tf32_convolutions(allowed=False):
            return distance(one, other)

    return measure
