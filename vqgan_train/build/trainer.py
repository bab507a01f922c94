"""The trainer and everything that happens beside the steps, from their settings."""

from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from vqgan_train import callbacks
from vqgan_train.build.quantities import last_step, world_size
from vqgan_train.checkpoint_source import artifact_name
from vqgan_train.config import (
    HIGHER_IS_BETTER,
    Config,
    ConfigError,
    WandbConfig,
    WandbMode,
    plain_settings,
)
from vqgan_train.loggers import MetricsCsv
from vqgan_train.metrics_file import METRICS_FILE
from vqgan_train.run_folder import PICTURES, wandb_id
from vqgan_train.run_start import RunStart
from vqgan_train.runtime import AtomicCheckpointIO, provenance
from vqgan_train.wandb_run import WandbRun, artifact_of_run


def build_trainer(
    config: Config, folder: Path, start: RunStart, data_description: dict[str, Any]
) -> Trainer:
    """Make the trainer, with everything that happens beside the steps.

    Args:
        config: all settings.
        folder: the run's.
        start: what the run has behind it.
        data_description: what checkpoints say of the data.
    """
    run, trainer, optim = config.run, config.trainer, config.optim
    loggers = _build_loggers(config, folder, start)
    made_by = provenance(plain_settings(config), data_description, start.parent)
    return Trainer(
        accelerator=trainer.accelerator.value,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        precision=trainer.precision.value,
        strategy=_build_strategy(config),
        max_epochs=-1,  # the number of steps is the only clock
        max_steps=last_step(config, start),
        val_check_interval=run.val_every_steps * optim.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # MetricsLog has the interval
        accumulate_grad_batches=optim.accumulate_batches,
        gradient_clip_val=optim.clip_norm,
        callbacks=_build_callbacks(config, folder, made_by, loggers, start),
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the plan shares the data out
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _build_strategy(config: Config) -> Strategy | str:
    if world_size(config) == 1:
        return "auto"
    # Buffers are LPIPS, which does not change, and BatchNorm's, which AverageBatchNorm looks after.
    return DDPStrategy(broadcast_buffers=False)


def _build_callbacks(
    config: Config,
    folder: Path,
    made_by: dict[str, Any],
    loggers: list[Logger],
    start: RunStart,
) -> list[Callback]:
    every_steps = config.run.log_every_steps
    non_finite = callbacks.SkipNonFinite(config.optim.max_skipped_steps, every_steps)
    metrics = callbacks.MetricsLog(every_steps, non_finite)
    checkpoints = callbacks.Checkpoints(
        folder,
        config.run.checkpoint_every_steps,
        made_by,
        best_metric=config.run.best_metric,
        higher_is_better=HIGHER_IS_BETTER[config.run.best_metric],
    )
    artifacts = [
        _build_artifacts(config, checkpoints, logger, start)
        for logger in loggers
        if isinstance(logger, WandbRun)
    ]
    return [
        callbacks.BadSamples(config.data.max_bad_fraction),
        non_finite,
        metrics,
        callbacks.Progress(metrics),
        callbacks.AverageBatchNorm(),
        callbacks.LastValidation(),
        callbacks.Pictures(folder / PICTURES, config.run.num_pictures),
        callbacks.StopSignals(checkpoints),
        checkpoints,
        *artifacts,
        callbacks.Summary(),
    ]


def _build_loggers(config: Config, folder: Path, start: RunStart) -> list[Logger]:
    metrics = MetricsCsv(folder / METRICS_FILE)
    rows = metrics.read()
    # Steps that a run makes again lose their rows; one that begins anew makes step 0 again, too.
    resumed_step = start.step if start.checkpoint else -1
    metrics.rewind(resumed_step)
    wandb_config = config.logger.wandb
    if wandb_config is None:
        return [metrics]
    run = WandbRun(
        rows,
        resumed_step,
        folder,
        id=wandb_id(folder),
        resume="allow",
        project=wandb_config.project,
        entity=wandb_config.entity,
        name=wandb_config.name or folder.name,
        mode=wandb_config.mode.value,
        config=plain_settings(config),
    )
    return [metrics, run]


def _build_artifacts(
    config: Config, checkpoints: callbacks.Checkpoints, run: WandbRun, start: RunStart
) -> callbacks.Artifacts:
    assert config.logger.wandb is not None
    return callbacks.Artifacts(
        checkpoints,
        run,
        every_steps=config.logger.wandb.upload_every_steps,
        keep_versions=config.logger.wandb.keep_versions,
        used=_used_artifacts(config, start) if start.is_new else [],
    )


def _used_artifacts(config: Config, start: RunStart) -> list[str]:
    """What a new run starts from at W&B; later, `last` may be another version."""
    used = [artifact_name(config.model.init_from), artifact_name(config.run.parent)]
    if start.parent is not None and used[1] is None:
        used[1] = artifact_of_run(start.parent["provenance"].get("wandb"), start.parent["step"])
    return [name for name in used if name is not None]


def require_wandb(config: WandbConfig | None) -> None:
    """Check that W&B can be reached under a name, if it is to be.

    Raises:
        ConfigError: there is no API key.
    """
    online = config is not None and config.mode == WandbMode.online
    if online and not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            "logger.wandb.mode=online, but W&B has no API key here. Run `wandb login`, set "
            "WANDB_API_KEY, or take logger.wandb.mode=offline and `wandb sync` later."
        )
