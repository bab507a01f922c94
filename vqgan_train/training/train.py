"""Fine-tune, or train, one VQGAN."""

import os

import wandb
from pytorch_lightning import Callback, Trainer, seed_everything

from vqgan_train.config import Config, plain_settings
from vqgan_train.training.callbacks import Artifacts
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.lightning.launcher import follow_first_rank, restore_process_state
from vqgan_train.training.lightning.loggers import WandbRun
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.report import announce, num_weights, report, report_finished
from vqgan_train.training.run.folder import (
    claim_folder,
    lock_folder,
    require_named_folder,
    require_space,
    require_unmoved,
    saved_states,
    start_folder,
)
from vqgan_train.training.run.logs import (
    RankLog,
    configure_logging,
    lost_ranks_named,
    open_first,
    rank_log,
)
from vqgan_train.training.run.start import RunStart, find_start
from vqgan_train.training.setup.data import build_data
from vqgan_train.training.setup.networks import build_module, initialise
from vqgan_train.training.setup.quantities import devices_and_nodes, last_step
from vqgan_train.training.setup.trainer import (
    build_trainer,
    rank_command,
    require_machine,
    require_wandb,
)


def train(config: Config) -> Trainer | None:
    """Train as the config says; leave everything in the run's folder.

    What can fail for a reason that a person can mend fails before the folder is made.

    Returns:
        The trainer at the end of the run, whose `lightning_module` is what was trained; None if the
        run had made all its steps before.
    """
    configure_logging()
    with restore_process_state(), rank_log() as own_log:
        follow_first_rank()
        return _train(config, own_log)


def _train(config: Config, own_log: RankLog) -> Trainer | None:
    config.trainer.devices, config.trainer.num_nodes = devices_and_nodes(config)
    require_machine(config.trainer)
    require_wandb(config.logger.wandb)
    seed_everything(config.run.seed, verbose=False)
    run, given = config.run, plain_settings(config)
    require_named_folder(os.environ, run.output_dir)
    saved = saved_states(run.output_dir)
    start = find_start(run.output_dir, run.resume, run.parent, given)
    data = build_data(config)
    data.prepare_data()
    data.require_readable()
    if start.data is not None:
        data.load_state_dict(start.data)
        data.compare_validation(start.data)
    max_steps = last_step(config, start)
    module = build_module(config)
    if start.checkpoint is None:
        initialise(module, config)
    folder = claim_folder(run.output_dir)
    run.output_dir = str(folder)
    with lock_folder(folder):
        require_unmoved(folder, saved)
        start_folder(folder, plain_settings(config))
        open_first(own_log, folder)
        require_space(folder, num_weights(module))
        trainer = build_trainer(
            config, folder, start, given, data.description(), own_log, rank_command(folder)
        )
        if start.step >= max_steps:
            finish_uploads(trainer, start.step)
            report_finished(config, start)
            return None
        if trainer.is_global_zero:
            announce(config, trainer, data, module, start)
        with lost_ranks_named(own_log):
            make_steps(trainer, module, data, start)
        if trainer.is_global_zero:
            report(config, trainer, folder)
    return trainer


def make_steps(
    trainer: Trainer, module: VQGANModule, data: ShardDataModule, start: RunStart
) -> None:
    """Make the steps that are left."""
    try:
        if start.checkpoint is None:
            trainer.validate(module, data, verbose=False)  # what to measure progress against
        trainer.fit(module, data, ckpt_path=start.checkpoint)
    finally:
        close_loggers(trainer)


def finish_uploads(trainer: Trainer, step: int) -> None:
    """Upload what a run could not, that was killed at its very end."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared there
    for artifacts in (c for c in callbacks if isinstance(c, Artifacts) and trainer.is_global_zero):
        artifacts.finish_interrupted(step)
    close_loggers(trainer)


def close_loggers(trainer: Trainer) -> None:
    """Let W&B finish, so that another run in this process gets a run of its own there."""
    if any(isinstance(logger, WandbRun) for logger in trainer.loggers):
        wandb.finish()
