"""Settings of the machine and of how it computes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import require, require_at_least


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
class TrainerConfig:
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
