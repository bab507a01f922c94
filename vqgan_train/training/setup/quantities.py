"""Settings that depend on the machine, and numbers that follow from several settings at once."""

import os
from dataclasses import replace

import wandb

from vqgan_train.config.run import Config, LearningRateScaling, WandbConfig, WandbMode
from vqgan_train.system.devices import require_devices, require_gpus, require_precision
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import resolve_world_size
from vqgan_train.training.run.start import RunStart


def resolve(config: Config) -> Config:
    """Check the settings against this machine; return them with numbers for devices and nodes.

    Raises:
        UserError: torchrun or srun has started another number of processes than configured; this
            machine lacks the devices, or they cannot do what is configured; or W&B is to be used
            online, and there is no API key.
    """
    trainer = config.trainer
    available = require_devices(trainer.accelerator.value, "auto")
    devices, num_nodes = resolve_world_size(
        os.environ, trainer.devices, trainer.num_nodes, available
    )
    require_devices(trainer.accelerator.value, devices)
    require_precision(trainer.accelerator.value, trainer.precision.value)
    if trainer.sync_batchnorm:
        require_gpus(trainer.accelerator.value)
    _require_wandb(config.logger.wandb)
    return replace(config, trainer=replace(trainer, devices=devices, num_nodes=num_nodes))


def _require_wandb(config: WandbConfig | None) -> None:
    is_online = config is not None and config.mode == WandbMode.online
    if is_online and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "logger.wandb.mode=online, but W&B has no API key here. Run `wandb login`, set "
            "WANDB_API_KEY, or set logger.wandb.mode=offline and run `wandb sync` later."
        )


def world_size(config: Config) -> int:
    """Return the number of devices that train, over all nodes, from resolved settings."""
    devices, num_nodes = config.trainer.devices, config.trainer.num_nodes
    assert isinstance(devices, int), "resolve the settings first"
    assert isinstance(num_nodes, int), "resolve the settings first"
    return devices * num_nodes


def images_per_step(config: Config) -> int:
    """Return the images per optimizer step, over all devices and accumulated batches."""
    return config.data.batch_size * config.optim.accumulate_batches * world_size(config)


def learning_rate(config: Config) -> float:
    """Return the generator's learning rate after scaling."""
    return config.optim.learning_rate * learning_rate_factor(config)


def learning_rate_factor(config: Config) -> int:
    """Return the images that learning rates are multiplied by; 1 without scaling."""
    optim = config.optim
    if optim.learning_rate_scaling is LearningRateScaling.none:
        return 1
    if optim.learning_rate_scaling is LearningRateScaling.device_batch:
        return config.data.batch_size * optim.accumulate_batches
    return images_per_step(config)


def last_step(config: Config, start: RunStart) -> int:
    """Return the optimizer step after which the run ends.

    Raises:
        UserError: no step is left to make, unless this is a finished run that is started again
            with run.resume=auto.
    """
    run = config.run
    ends = [] if run.max_steps is None else [run.max_steps]
    if run.max_images is not None:
        images = start.data["position"] if start.data else 0
        ends.append(start.step + max(0, run.max_images - images) // images_per_step(config))
    is_finished_run_again = not start.is_new and run.resume == "auto"
    if min(ends) <= start.step and not is_finished_run_again:
        raise UserError(
            f"run.max_steps={run.max_steps or 'null'} and run.max_images="
            f"{run.max_images or 'null'} leave no step of {images_per_step(config)} images to make"
            + (f" after the {start.step} steps of {start.checkpoint}." if start.step else ".")
            + " Raise the one set (or, for run.max_images, lower data.batch_size)."
        )
    return min(ends)
