"""What a validation measures, and which of it can choose the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from vqgan_train.config.checks import Frozen, require, require_at_least


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


class Accelerator(Enum):
    """Where to compute: names of Lightning's accelerators."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    mps = "mps"


class Precision(Enum):
    """Arithmetic of the networks; losses and distances are float32 in any case."""

    fp32 = "32-true"
    bf16 = "bf16-mixed"
    fp16 = "16-mixed"


class MemoryFormat(Enum):
    """How images and weights lie in memory; results are the same but for rounding.

    channels_last: a pixel's channels side by side, as fast convolutions want them. contiguous: a
    plane a channel, torch's default.
    """

    channels_last = "channels_last"
    contiguous = "contiguous"


@dataclass(kw_only=True, slots=True)
class TrainerConfig(Frozen):
    """The machine."""

    accelerator: Accelerator
    devices: Any
    """Devices a node: a number, or auto for what torchrun or srun has started; where nobody has,
    for all GPUs (one process on a CPU)."""

    num_nodes: Any
    """Machines: a number, or auto for those that torchrun or srun has started; else one."""

    precision: Precision
    memory_format: MemoryFormat

    compile: bool
    """Compile encoder, decoder and LPIPS by torch.compile before the first step. Where that cannot
    be done, the run says so and goes on without."""

    recompute_activations: bool
    """Forget what the generator's blocks computed and compute it again on the way back: the same
    gradients, less memory, more time (activation checkpointing)."""

    profile_step: int | None
    """Step from which five steps are traced into <output_dir>/profile. null: none."""

    sync_batchnorm: bool
    """Let the discriminator's BatchNorm normalise by the batches of all ranks together. false: by
    each rank's own, as the original does. GPUs only."""

    def __post_init__(self) -> None:
        for name, value in (("devices", self.devices), ("num_nodes", self.num_nodes)):
            require(
                value == "auto" or (isinstance(value, int) and value >= 1),
                f"trainer.{name} is {value!r}; it must be a number from 1 up, or auto.",
            )
        require_at_least(0, trainer__profile_step=self.profile_step)
