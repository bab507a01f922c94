"""Fine-tune, or train, one VQGAN."""

import logging

import wandb
from pytorch_lightning import Trainer, seed_everything

from vqgan_train.build import (
    build_data,
    build_module,
    build_trainer,
    initialise,
    last_step,
    require_wandb,
)
from vqgan_train.config import Config, plain_settings
from vqgan_train.run_folder import claim_folder, start_folder
from vqgan_train.run_report import announce, command_to_go_on, report
from vqgan_train.run_start import find_start
from vqgan_train.runtime import configure_logging, require_devices
from vqgan_train.wandb_run import WandbRun

log = logging.getLogger(__name__)


def train(config: Config) -> Trainer | None:
    """Train as the config says; leave everything in the run's folder.

    What can fail for a reason that a person can mend fails before the folder is made.

    Returns:
        The trainer at the end of the run, whose `lightning_module` is what was trained; None if the
        run had made all its steps before.
    """
    configure_logging()
    require_devices(config.trainer.accelerator.value, config.trainer.devices)
    require_wandb(config.logger.wandb)
    seed_everything(config.run.seed, verbose=False)
    run = config.run
    start = find_start(run.output_dir, run.resume, run.parent, plain_settings(config))
    data = build_data(config)
    data.prepare_data()
    data.require_readable()
    if start.data is not None:
        data.load_state_dict(start.data)
    module = build_module(config)
    if start.checkpoint is None:
        initialise(module, config)
    if start.step >= last_step(config, start):
        log.info("The run made its %d steps. To go on:  %s", start.step, command_to_go_on(config))
        return None
    folder = claim_folder(run.output_dir)
    run.output_dir = str(folder)
    trainer = build_trainer(config, folder, start, data.description())
    start_folder(folder, plain_settings(config))
    announce(config, trainer, data, module, start)
    try:
        if start.checkpoint is None:
            trainer.validate(module, data, verbose=False)  # what to measure progress against
        trainer.fit(module, data, ckpt_path=start.checkpoint)
    finally:
        close_loggers(trainer)
    report(config, trainer, folder)
    return trainer


def close_loggers(trainer: Trainer) -> None:
    """Let W&B finish, so that another run in this process gets a run of its own there."""
    if any(isinstance(logger, WandbRun) for logger in trainer.loggers):
        wandb.finish()
