"""Settings of the machine, and the metrics of validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from vqgan_train.config.checks import Frozen, require, require_at_least


class ValidationMetric(Enum):
    """Similarity of image and reconstruction, measured besides the losses."""

    psnr = "psnr"
    ssim = "ssim"
    lpips_alexnet = "lpips_alexnet"
    lpips_alex = "lpips_alexnet"


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
"""Metrics that validation can log: whether a higher value is better."""


ALEXNET_MIN_SIDE = 32
"""Smallest image for LPIPS with AlexNet, in pixels per side; pooling reduces less to nothing."""


def check_best_metric(name: str, chosen: Sequence[ValidationMetric]) -> None:
    """Check that validation logs the metric that chooses best.ckpt.

    Raises:
        UserError: there is no such metric, or run.val_metrics leaves it out.
    """
    near = get_close_matches(name, HIGHER_IS_BETTER, n=1)
    require(
        name in HIGHER_IS_BETTER,
        f"run.best_metric is {name!r}, which no validation logs."
        + (f" Did you mean {near[0]}?" if near else "")
        + f" It can be one of {', '.join(HIGHER_IS_BETTER)}.",
    )
    measured = [metric.value for metric in chosen]
    optional = {f"val/{metric.value}": metric.value for metric in ValidationMetric}
    require(
        name not in optional or optional[name] in measured,
        f"run.best_metric is {name}, but run.val_metrics=[{', '.join(measured)}] leaves it out. "
        f"Add {optional.get(name)} to run.val_metrics, or change run.best_metric.",
    )


class Accelerator(Enum):
    """Kind of device: names of Lightning's accelerators."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    mps = "mps"


class Precision(Enum):
    """Arithmetic of the networks; losses and distances to codes are always float32."""

    fp32 = "32-true"
    bf16 = "bf16-mixed"
    fp16 = "16-mixed"


class MemoryFormat(Enum):
    """Memory layout of images and weights; results differ only by rounding.

    channels_last: the channels of a pixel side by side, which convolutions on GPUs prefer.
    contiguous: one plane per channel, torch's default.
    """

    channels_last = "channels_last"
    contiguous = "contiguous"


@dataclass(kw_only=True, slots=True)
class TrainerConfig(Frozen):
    """The machine: devices, arithmetic, memory."""

    accelerator: Accelerator
    """Kind of device. auto: GPUs if there are any, else the CPU."""

    devices: Any
    """Devices per node. auto: one for each process that torchrun or srun has started there; without
    them, all GPUs, or one device if there is no GPU."""

    num_nodes: Any
    """Machines. auto: those on which torchrun or srun has started processes; without them, one."""

    precision: Precision
    memory_format: MemoryFormat

    compile: bool
    """Compile encoder, decoder and LPIPS with torch.compile before the first step. If that fails,
    the run logs a warning and trains uncompiled."""

    recompute_activations: bool
    """Recompute the activations of the generator's blocks in the backward pass instead of storing
    them (activation checkpointing): same gradients, less memory, more time."""

    profile_step: int | None
    """First of five optimizer steps that are traced into <output_dir>/profile. null: no trace."""

    sync_batchnorm: bool
    """Let the discriminator's BatchNorm normalise over the batches of all ranks; needs GPUs. false:
    over each rank's own batch, as the original does."""

    def __post_init__(self) -> None:
        for name, value in (("devices", self.devices), ("num_nodes", self.num_nodes)):
            require(
                value == "auto" or (isinstance(value, int) and value >= 1),
                f"trainer.{name} is {value!r}; it must be a number from 1 up, or auto.",
            )
        require_at_least(0, trainer__profile_step=self.profile_step)
