"""How another rank of this run is started."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from hydra.core.hydra_config import HydraConfig
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy

from vqgan_train.checkpoint.fetching import artifact_name
from vqgan_train.config import (
    HIGHER_IS_BETTER,
    Config,
    TrainerConfig,
    WandbConfig,
    WandbMode,
    plain_settings,
)
from vqgan_train.metrics.history import METRICS_FILE
from vqgan_train.system.devices import require_gpus, require_precision
from vqgan_train.system.errors import ConfigError
from vqgan_train.system.launch import find_launch
from vqgan_train.training import callbacks
from vqgan_train.training.lightning.checkpoint_io import AtomicCheckpointIO
from vqgan_train.training.lightning.launcher import RankStrategy
from vqgan_train.training.lightning.loggers import MetricsCsv, WandbRun, artifact_of_run
from vqgan_train.training.lightning.slurm_step import SlurmStep
from vqgan_train.training.run.folder import PICTURES, PROFILES, wandb_id
from vqgan_train.training.run.logs import RankLog
from vqgan_train.training.run.provenance import provenance
from vqgan_train.training.run.start import RunStart
from vqgan_train.training.setup.quantities import devices_and_nodes, last_step, world_size


def rank_command(folder: Path) -> list[str] | None:
    """The command of this run alone, also where it is one of a sweep; None if there is none.

    Args:
        folder: the run's. What its setting says may depend on the number in the sweep or the time.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    flags = [f"--config-name={hydra.job.config_name}"]
    if "command-line" in sources:
        flags += [f"--config-dir={sources['command-line']}"]
    others = [one for one in hydra.overrides.task if not one.startswith("run.output_dir=")]
    place = f"run.output_dir={folder}"
    return [sys.executable, "-m", "vqgan_train", *flags, *others, place]


def build_trainer(
    config: Config,
    folder: Path,
    start: RunStart,
    given: dict[str, Any],
    data_description: dict[str, Any],
    rank_log: RankLog,
    rank_command: Sequence[str] | None,
) -> Trainer:
    """Make the trainer, with everything that happens beside the steps.

    Args:
        config: all settings.
        folder: the run's.
        start: what the run has behind it.
        given: this rank's settings, before it was said what the folder is.
        data_description: what checkpoints say of the data.
        rank_log: what this rank says.
        rank_command: starts another rank of this run; None: Python's own command line does.
    """
    run, trainer, optim = config.run, config.trainer, config.optim
    loggers = _build_loggers(config, folder, start)
    made_by = provenance(plain_settings(config), data_description, start.parent)
    devices, num_nodes = devices_and_nodes(config)
    return Trainer(
        accelerator=trainer.accelerator.value,
        devices=devices,
        num_nodes=num_nodes,
        precision=trainer.precision.value,
        strategy=_build_strategy(config, rank_command),
        max_epochs=-1,  # the number of steps is the only clock
        max_steps=last_step(config, start),
        val_check_interval=run.val_every_steps * optim.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # MetricsLog has the interval
        accumulate_grad_batches=optim.accumulate_batches,
        gradient_clip_val=optim.clip_norm,
        callbacks=[
            callbacks.SameStartCheck(folder, start.step, given, rank_log),
            *_build_callbacks(config, folder, made_by, loggers, start),
        ],
        logger=loggers,
        sync_batchnorm=trainer.sync_batchnorm,
        plugins=[AtomicCheckpointIO(), _build_environment()],
        use_distributed_sampler=False,  # the plan shares the data out
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _build_strategy(config: Config, rank_command: Sequence[str] | None) -> Strategy | str:
    if world_size(config) == 1:
        return "auto"
    # Buffers are LPIPS, which does not change, and BatchNorm's, which BatchNormAverage looks after.
    return RankStrategy(rank_command, broadcast_buffers=False)


def _build_environment() -> ClusterEnvironment:
    launch = find_launch(os.environ)
    if launch is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if launch.launcher == "torchrun" else SlurmStep()


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
        callbacks.BatchNormAverage(),
        callbacks.LastValidation(),
        callbacks.Pictures(folder / PICTURES, config.run.num_pictures),
        callbacks.StopSignals(checkpoints, config.run.max_hours),
        callbacks.DataEndCheck(),
        checkpoints,
        *artifacts,
        callbacks.ValidationSummary(),
        *_build_speed_callbacks(config, folder, metrics),
    ]


def _build_speed_callbacks(
    config: Config, folder: Path, metrics: callbacks.MetricsLog
) -> list[Callback]:
    data, trainer = config.data, config.trainer
    built: list[Callback] = []
    if trainer.compile:
        side = data.image_size
        built.append(callbacks.Compilation((data.batch_size, 3, side, side)))
    if trainer.profile_step is not None:
        built.append(callbacks.Profile(folder / PROFILES, trainer.profile_step, metrics))
    return built


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


def require_machine(config: TrainerConfig) -> None:
    """Check that the devices can do what is asked of them.

    Raises:
        UserError: they cannot.
    """
    require_precision(config.accelerator.value, config.precision.value)
    if config.sync_batchnorm:
        require_gpus(config.accelerator.value, "trainer.sync_batchnorm=true")


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
