"""What is measured besides the losses: image fidelity and how the codebook is used."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vqgan_train.images.transforms import to_uint8
from vqgan_train.losses.lpips_weights import find_alexnet_weights
from vqgan_train.metrics.images import lpips_of, lpips_with_alexnet, structural_similarity
from vqgan_train.system.devices import tf32_convolutions


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


ImageMetric = Callable[[Tensor, Tensor], Tensor]
"""From images and reconstruction (B, C, H, W) in [-1, 1] to (B,): each image by itself."""

IMAGE_METRICS: Mapping[str, ImageMetric] = {"psnr": psnr, "ssim": ssim}
"""Those that need no weights, by their names in the log."""


LPIPS_ALEXNET = "lpips_alexnet"


def image_metrics(names: Sequence[str], alexnet_weights: Path | None) -> dict[str, ImageMetric]:
    """Make metrics ready.

    Args:
        names: keys of `metrics.IMAGE_METRICS`, and `LPIPS_ALEXNET`.
        alexnet_weights: file with its weights; None searches the usual places.

    Raises:
        LpipsWeightsNotFoundError: there is no way to get them.
        LpipsWeightsError: the file is missing or holds other weights.
    """
    return {
        name: _lpips_alexnet(alexnet_weights) if name == LPIPS_ALEXNET else IMAGE_METRICS[name]
        for name in names
    }


def add_up(
    metrics: Mapping[str, ImageMetric], images: Tensor, reconstruction: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over a batch, and of how many images each is: both (M,), of M metrics.

    An image that is reconstructed to the bit has an infinite PSNR. It counts in no mean, as in
    evaluations.
    """
    values = [metric(images, reconstruction) for metric in metrics.values()]
    of_each = torch.stack(values) if values else images.new_zeros(0, len(images))
    counts = ~of_each.isposinf()
    return of_each.where(counts, 0).sum(dim=1), counts.sum(dim=1)


def means(sums: Tensor, counts: Tensor) -> Tensor:
    """(M,) of what `add_up` gave for all batches; infinite where all images were."""
    return torch.where(counts > 0, sums / counts, torch.inf)


def _lpips_alexnet(file: Path | None) -> ImageMetric:
    """As the evaluation command measures it: of bytes, as they would be saved, in float32."""
    # Known to this function alone: as a part of the module it would be trained, sent and saved.
    network = lpips_with_alexnet(find_alexnet_weights(file, "run.alexnet_weights"))
    distance = lpips_of(network)

    def measure(images: Tensor, reconstruction: Tensor) -> Tensor:
        network.to(images.device)
        one, other = (to_uint8(batch).float() / 255 for batch in (images, reconstruction))
        with torch.autocast(images.device.type, enabled=False), tf32_convolutions(allowed=False):
            return distance(one, other)

    return measure
