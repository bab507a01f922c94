"""Numbers that follow from several settings at once."""

import math
import os

from vqgan_train.config import Config, LearningRateScaling
from vqgan_train.system.devices import require_devices
from vqgan_train.system.errors import ConfigError
from vqgan_train.system.launch import resolve_world_size
from vqgan_train.training.run.start import RunStart


def devices_and_nodes(config: Config) -> tuple[int, int]:
    """How many devices a node train, and how many nodes.

    Raises:
        UserError: torchrun or srun has started something else than what is set.
        UserError: this machine does not have the devices.
    """
    trainer = config.trainer
    here = require_devices(trainer.accelerator.value, "auto")
    settled = resolve_world_size(os.environ, trainer.devices, trainer.num_nodes, here)
    require_devices(trainer.accelerator.value, settled[0])
    return settled


def world_size(config: Config) -> int:
    """How many devices train, over all nodes."""
    return math.prod(devices_and_nodes(config))


def learning_rate(config: Config) -> float:
    """The rate that is used."""
    return (
        config.optim.learning_rate
        * {
            LearningRateScaling.none: 1,
            LearningRateScaling.device_batch: config.data.batch_size
            * config.optim.accumulate_batches,
            LearningRateScaling.global_batch: images_a_step(config),
        }[config.optim.learning_rate_scaling]
    )


def images_a_step(config: Config) -> int:
    """Images whose gradients make one step, over all devices."""
    return config.data.batch_size * config.optim.accumulate_batches * world_size(config)


def last_step(config: Config, start: RunStart) -> int:
    """The step after which the run ends.

    Raises:
        ConfigError: it would end before its first step, and is not a finished run started again.
    """
    run = config.run
    ends = [] if run.max_steps is None else [run.max_steps]
    if run.max_images is not None:
        images = start.data["position"] if start.data else 0
        ends.append(start.step + max(0, run.max_images - images) // images_a_step(config))
    is_finished_run_again = not start.is_new and run.resume == "auto"
    if min(ends) <= start.step and not is_finished_run_again:
        raise ConfigError(
            f"run.max_steps={run.max_steps} and run.max_images={run.max_images} leave not one step "
            f"of {images_a_step(config)} images"
            + (f" after the {start.step} steps of {start.checkpoint}." if start.step else ".")
            + " Raise them, or lower data.batch_size."
        )
    return min(ends)
