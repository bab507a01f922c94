"""From settings to objects: the only room that knows both."""

from vqgan_train.build.data import build_data
from vqgan_train.build.networks import build_module, initialise
from vqgan_train.build.quantities import (
    devices_and_nodes,
    images_a_step,
    last_step,
    learning_rate,
)
from vqgan_train.build.trainer import build_trainer, require_machine, require_wandb

__all__ = [
    "build_data",
    "build_module",
    "build_trainer",
    "devices_and_nodes",
    "images_a_step",
    "initialise",
    "last_step",
    "learning_rate",
    "require_machine",
    "require_wandb",
]
