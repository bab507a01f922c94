"""What a validation measures, and which of it can choose the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from enum import Enum

from vqgan_train.config.checks import require


class ValidationMetric(Enum):
    """How alike image and reconstruction are, beyond what the losses say."""

    psnr = "psnr"
    ssim = "ssim"
    lpips_alexnet = "lpips_alexnet"


HIGHER_IS_BETTER = {
    "val/loss/reconstruction": False,
    "val/loss/pixel": False,
    "val/loss/perceptual": False,
    "val/loss/codebook": False,
    "val/codebook/used": True,
    "val/codebook/dead": False,
    "val/codebook/perplexity": True,
    "val/codebook/entropy": True,
    "val/psnr": True,
    "val/ssim": True,
    "val/lpips_alexnet": False,
}
"""All that a validation can log, and which way it gets better."""


ALEXNET_SMALLEST_SIDE = 32
"""Pixels a side; of less, AlexNet's poolings leave nothing."""


def check_image_size(image_size: int, chosen: Sequence[ValidationMetric]) -> None:
    """Check that what validation measures can be measured of images so small.

    Raises:
        ConfigError: it cannot.
    """
    require(
        image_size >= ALEXNET_SMALLEST_SIDE or ValidationMetric.lpips_alexnet not in chosen,
        f"data.image_size is {image_size}, but lpips_alexnet of run.val_metrics needs "
        f"{ALEXNET_SMALLEST_SIDE} pixels or more. Leave it out, or take larger images.",
    )


def check_best_metric(name: str, chosen: Sequence[ValidationMetric]) -> None:
    """Check that every validation of a run will log the metric that chooses best.ckpt.

    Raises:
        ConfigError: there is no such metric, or it is not measured in this run.
    """
    near = get_close_matches(name, HIGHER_IS_BETTER, n=1)
    require(
        name in HIGHER_IS_BETTER,
        f"run.best_metric is {name!r}, which no validation logs."
        + (f" Did you mean {near[0]}?" if near else "")
        + f" Those that can be are {', '.join(HIGHER_IS_BETTER)}.",
    )
    measured = [metric.value for metric in chosen]
    optional = {f"val/{metric.value}": metric.value for metric in ValidationMetric}
    require(
        name not in optional or optional[name] in measured,
        f"run.best_metric is {name}, but run.val_metrics=[{', '.join(measured)}] leaves it out. "
        f"Add {optional.get(name)} to run.val_metrics, or choose by another.",
    )
