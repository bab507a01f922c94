"""Fine-tune, or train from scratch, one VQGAN."""

import wandb
from pytorch_lightning import Callback, Trainer, seed_everything

from vqgan_train.config.checks import plain_settings
from vqgan_train.config.run import Config
from vqgan_train.system.addresses import redact
from vqgan_train.system.errors import UnavailableShardError
from vqgan_train.system.loader_processes import explain_dead_workers
from vqgan_train.system.process_group import explain_lost_ranks
from vqgan_train.training.callbacks.artifacts import Artifacts
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.lightning.launcher import exit_with_first_rank, restore_process_state
from vqgan_train.training.lightning.loggers import WandbRun
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.report import announce, report, report_finished
from vqgan_train.training.run.contents import mark_stopped
from vqgan_train.training.run.folder import RunFolder
from vqgan_train.training.run.logs import RankLog, configure_logging, rank_log
from vqgan_train.training.setup.data import open_data
from vqgan_train.training.setup.networks import build_module, initialise, num_weights
from vqgan_train.training.setup.quantities import last_step, resolve
from vqgan_train.training.setup.trainer import build_trainer


def train(config: Config) -> Trainer | None:
    """Train as configured; leave checkpoints, metrics and pictures in the run's folder.

    Settings, data and the checkpoint are checked before the run folder is created.

    Returns:
        The trainer at the end of the run, whose `lightning_module` holds the trained networks; None
        if the run had already made all its steps.

    Raises:
        UserError: the run cannot start or go on; the message says why.
        SystemExit: a signal or run.max_hours stopped the run, see `StopSignals`.
    """
    configure_logging()
    with restore_process_state(), rank_log() as log:
        exit_with_first_rank()
        return _train(config, log)


def _train(config: Config, log: RankLog) -> Trainer | None:
    """Train, with this rank's log open."""
    config = resolve(config)
    seed_everything(config.run.seed, verbose=False)
    run = RunFolder(
        config.run.output_dir,
        resume=config.run.resume,
        parent=config.run.parent,
        settings=plain_settings(config),
    )
    data = open_data(config, run.start)
    max_steps = last_step(config, run.start)
    module = build_module(config)
    if run.start.checkpoint is None:
        initialise(module, config)
    with run.opened(log, num_weights(module)):
        trainer = build_trainer(config, run, max_steps, data.description(), log)
        if run.start.step >= max_steps:
            finish_uploads(trainer, run.start.step)
            report_finished(config, run)
            return None
        announce(config, run, trainer, data, module)
        lost_rank = (
            "Another rank of the run has exited, so this one exits, too. The reason is above, or "
            f"at the end of that rank's log in the run's folder ({log.place}). If neither says it, "
            "the rank was killed, perhaps for lack of memory. The same command, with the run's "
            "folder as run.output_dir, resumes from the newest checkpoint."
        )
        with explain_lost_ranks(lost_rank), explain_dead_workers("data.num_workers"):
            make_steps(trainer, module, data, run)
        report(config, run, trainer)
    return trainer


def make_steps(
    trainer: Trainer, module: VQGANModule, data: ShardDataModule, run: RunFolder
) -> None:
    """Validate if there is no checkpoint to resume from, then train to the last step."""
    try:
        if run.start.checkpoint is None:
            trainer.validate(module, data, verbose=False)  # `ValidationSummary` compares with it
        trainer.fit(module, data, ckpt_path=run.start.checkpoint)
    except UnavailableShardError as error:
        # Without a step since the start, another start would hardly get further.
        if trainer.global_step > run.start.step:
            mark_stopped(run.path, f"a source of shards failed: {redact(str(error))}")
        raise
    finally:
        close_loggers(trainer)


def finish_uploads(trainer: Trainer, step: int) -> None:
    """Upload the final checkpoints to W&B, unless the process that made the last step did so."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared there
    for artifacts in (c for c in callbacks if isinstance(c, Artifacts) and trainer.is_global_zero):
        artifacts.finish_interrupted(step)
    close_loggers(trainer)


def close_loggers(trainer: Trainer) -> None:
    """Finish the W&B run, so that another run in this process gets one of its own."""
    if any(isinstance(logger, WandbRun) for logger in trainer.loggers):
        wandb.finish()
