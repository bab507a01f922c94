"""From settings to objects: the only file that knows both."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from vqgan_train import callbacks
from vqgan_train.checkpoint import (
    LoadReport,
    network_differences,
    read_checkpoint,
    weights_under_our_names,
)
from vqgan_train.config import (
    Config,
    ConfigError,
    DataConfig,
    WandbConfig,
    WandbMode,
    plain_settings,
)
from vqgan_train.data import ImageTransform, ShardError, expand_shards, pack_sample_photos
from vqgan_train.data.module import ShardDataModule
from vqgan_train.loggers import MetricsCsv
from vqgan_train.module import VQGANModule
from vqgan_train.run_folder import CHECKPOINTS, METRICS_FILE, PICTURES, RunFolder, wandb_id
from vqgan_train.runtime import AtomicCheckpointIO, provenance, require_devices

log = logging.getLogger(__name__)


def build_data(config: Config) -> ShardDataModule:
    """Find the shards and say how to read them."""
    data = config.data
    train, val = _find_shards(data)
    return ShardDataModule(
        train_shards=train,
        val_shards=val,
        train_transform=ImageTransform(
            data.resize, data.image_size, data.random_crop, data.random_flip
        ),
        val_transform=ImageTransform(
            data.resize, data.image_size, random_crop=False, random_flip=False
        ),
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        seed=config.run.seed,
    )


def _find_shards(data: DataConfig) -> tuple[list[Path], list[Path]]:
    if data.train_shards is None:
        photos = pack_sample_photos()
        return [photos[0]], [photos[1]]
    train, val = expand_shards(data.train_shards), expand_shards(data.val_shards)
    shared = sorted(set(train) & set(val))
    if shared:
        raise ShardError(
            f"data.train_shards and data.val_shards share {len(shared)} shards, for example "
            f"{shared[0]}: validation would be of images that were trained on. Keep them apart."
        )
    return train, val


def build_module(config: Config) -> VQGANModule:
    """Make the networks, with the weights they start from, and LPIPS."""
    loss = config.loss
    module = VQGANModule(
        model=asdict(config.model.architecture),
        discriminator=asdict(config.model.discriminator),
        objective={
            "perceptual_weight": loss.perceptual_weight,
            "adversarial_weight": loss.adversarial_weight,
            "codebook_weight": loss.codebook_weight,
            "commitment_weight": loss.commitment_weight,
            "legacy_codebook_loss": loss.legacy_codebook_loss,
        },
        optimizer={"lr": config.optim.learning_rate, "betas": tuple(config.optim.betas)},
        discriminator_start_step=loss.discriminator_start_step,
        adversarial_start_step=loss.adversarial_start_step,
        lpips_weights=loss.lpips_weights,
    )
    if config.model.init_from is not None:
        initialise(module, Path(config.model.init_from))
    elif config.model.code_scale is not None:
        module.generator.quantizer.draw_codes(config.model.code_scale)
    module.load_lpips()
    return module


def initialise(module: VQGANModule, path: Path) -> LoadReport:
    """Start from a checkpoint's generator, and from its discriminator if it has one.

    Returns:
        What was loaded; its `discriminator_is_new` says whether there was none.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    weights = weights_under_our_names(read_checkpoint(path)["state_dict"], path)
    report = LoadReport.compare(module.state_dict(), weights)
    differences = network_differences(
        weights,
        model=module.hparams["model"],
        discriminator=module.hparams["discriminator"],
    )
    report.require_fit(
        path,
        f"Its architecture is another: {differences}. Set model=... to the one in the weights."
        if differences
        else "Its weights are not all there, or not those of one model.",
    )
    module.load_state_dict({**module.state_dict(), **weights})
    log.info("model.init_from=%s\n%s", path, report)
    if report.discriminator_is_new:
        log.warning(
            "WARNING: %s holds no discriminator; it starts from random weights.",
            path,
        )
    return report


def build_trainer(config: Config, folder: RunFolder) -> Trainer:
    """Make the trainer, with everything that happens beside the steps."""
    settings = plain_settings(config)
    run, trainer, optim = config.run, config.trainer, config.optim
    return Trainer(
        accelerator=trainer.accelerator.value,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        precision=trainer.precision.value,
        strategy=_build_strategy(config),
        max_epochs=-1,  # the number of steps is the only clock
        max_steps=run.max_steps,
        val_check_interval=run.val_every_steps * optim.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # MetricsLog has the interval
        accumulate_grad_batches=optim.accumulate_batches,
        gradient_clip_val=optim.clip_norm,
        callbacks=_build_callbacks(config, folder.path, settings),
        logger=_build_loggers(config, folder.path, settings),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the plan shares the data out
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def _build_strategy(config: Config) -> Strategy | str:
    trainer = config.trainer
    if trainer.num_nodes * require_devices(trainer.accelerator.value, trainer.devices) == 1:
        return "auto"
    # Buffers are LPIPS, which does not change, and BatchNorm's, which AverageBatchNorm looks after.
    return DDPStrategy(broadcast_buffers=False)


def _build_callbacks(config: Config, folder: Path, settings: dict[str, Any]) -> list[Callback]:
    metrics = callbacks.MetricsLog(config.run.log_every_steps)
    return [
        callbacks.BadSamples(config.data.max_bad_fraction),
        metrics,
        callbacks.Progress(metrics),
        callbacks.AverageBatchNorm(),
        callbacks.LastValidation(),
        callbacks.Pictures(folder / PICTURES, config.run.num_pictures),
        callbacks.Checkpoints(
            folder / CHECKPOINTS, config.run.checkpoint_every_steps, provenance(settings)
        ),
        callbacks.Summary(),
    ]


def _build_loggers(config: Config, folder: Path, settings: dict[str, Any]) -> list[Logger]:
    loggers: list[Logger] = [MetricsCsv(folder / METRICS_FILE)]
    if config.logger.wandb is not None:
        loggers.append(_build_wandb(config.logger.wandb, folder, settings))
    return loggers


def _build_wandb(config: WandbConfig, folder: Path, settings: dict[str, Any]) -> WandbLogger:
    if config.mode == WandbMode.online and not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            "logger.wandb.mode=online, but W&B has no API key here. Run `wandb login`, set "
            "WANDB_API_KEY, or take logger.wandb.mode=offline and `wandb sync` later."
        )
    return WandbLogger(
        id=wandb_id(folder),
        resume="allow",
        project=config.project,
        entity=config.entity,
        name=config.name or folder.name,
        mode=config.mode.value,
        save_dir=folder,
        config=settings,
    )
