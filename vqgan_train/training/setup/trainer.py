"""Build the trainer from the settings: strategy, loggers and callbacks."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.strategies import Strategy

from vqgan_train.checkpoint.fetching import artifact_name
from vqgan_train.config.run import Config
from vqgan_train.config.trainer import HIGHER_IS_BETTER
from vqgan_train.metrics.history import METRICS_FILE, read_rows
from vqgan_train.system.addresses import redact_all
from vqgan_train.system.launch import find_launch
from vqgan_train.training.callbacks.artifacts import Artifacts
from vqgan_train.training.callbacks.bad_samples import BadSamples, DataEndCheck
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.callbacks.compilation import Compilation
from vqgan_train.training.callbacks.metrics_log import LastValidation, MetricsLog
from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.callbacks.pictures import Pictures
from vqgan_train.training.callbacks.profile import Profile
from vqgan_train.training.callbacks.progress import Progress, ValidationSummary
from vqgan_train.training.callbacks.rank_consistency import BatchNormAverage, SameStartCheck
from vqgan_train.training.callbacks.stop_signals import StopSignals
from vqgan_train.training.lightning.checkpoint_io import AtomicCheckpointIO
from vqgan_train.training.lightning.launcher import RankStrategy
from vqgan_train.training.lightning.loggers import MetricsCsv, WandbRun, artifact_of_run
from vqgan_train.training.lightning.slurm_step import SlurmStep
from vqgan_train.training.run.contents import PICTURES, PROFILES, wandb_id
from vqgan_train.training.run.folder import RunFolder
from vqgan_train.training.run.logs import RankLog
from vqgan_train.training.run.provenance import provenance
from vqgan_train.training.run.start import RunStart
from vqgan_train.training.setup.quantities import world_size


def build_trainer(
    config: Config,
    run: RunFolder,
    max_steps: int,
    data_description: dict[str, Any],
    rank_log: RankLog,
) -> Trainer:
    """Build the trainer, with all loggers and callbacks.

    Args:
        config: all settings, resolved.
        run: the opened folder.
        max_steps: optimizer step after which the run ends.
        data_description: plain values about the data, stored in checkpoints.
        rank_log: log of this rank.
    """
    trainer, optim = config.trainer, config.optim
    loggers = _build_loggers(config, run)
    made_by = provenance(run.stored_settings, data_description, run.start.parent)
    return Trainer(
        accelerator=trainer.accelerator.value,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        precision=trainer.precision.value,
        strategy=_build_strategy(config, run.path),
        max_epochs=-1,  # the number of steps is the only clock
        max_steps=max_steps,
        val_check_interval=config.run.val_every_steps * optim.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # MetricsLog has the interval
        accumulate_grad_batches=optim.accumulate_batches,
        gradient_clip_val=optim.clip_norm,
        benchmark=True,  # cuDNN times its kernels once per shape, and training batches have one
        callbacks=[
            SameStartCheck(run.path, run.start.step, run.settings, rank_log),
            *_build_callbacks(config, run, made_by, loggers),
        ],
        logger=loggers,
        sync_batchnorm=trainer.sync_batchnorm,
        plugins=[AtomicCheckpointIO(), _build_environment()],
        use_distributed_sampler=False,  # the sample order already splits the data over ranks
        enable_model_summary=False,
        default_root_dir=run.path,
    )


def _build_strategy(config: Config, folder: Path) -> Strategy | str:
    if world_size(config) == 1:
        return "auto"
    # The buffers are those of LPIPS, which never change, and those of BatchNorm, which
    # BatchNormAverage averages. Gradients as views save their copies in DDP's buckets, 307 MB.
    return RankStrategy(rank_command(folder), broadcast_buffers=False, gradient_as_bucket_view=True)


def rank_command(folder: Path) -> list[str] | None:
    """Return the command that starts another rank of this run; None outside of Hydra.

    In a sweep, it starts this run alone.

    Args:
        folder: the run's folder, given by name, because another process might resolve the setting
            to another folder: it may contain the time, or the number of the run in a sweep.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    flags = [f"--config-name={hydra.job.config_name}"]
    if "command-line" in sources:
        flags += [f"--config-dir={sources['command-line']}"]
    others = [one for one in hydra.overrides.task if not one.startswith("run.output_dir=")]
    return [sys.executable, "-m", "vqgan_train", *flags, *others, f"run.output_dir={folder}"]


def _build_environment() -> ClusterEnvironment:
    launch = find_launch(os.environ)
    if launch is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if launch.launcher == "torchrun" else SlurmStep()


def _build_callbacks(
    config: Config, run: RunFolder, made_by: dict[str, Any], loggers: Sequence[Logger]
) -> list[Callback]:
    every_steps = config.run.log_every_steps
    non_finite = SkipNonFinite(config.optim.max_skipped_steps, every_steps)
    metrics = MetricsLog(every_steps, non_finite)
    checkpoints = Checkpoints(
        run.path,
        config.run.checkpoint_every_steps,
        made_by,
        best_metric=config.run.best_metric,
        higher_is_better=HIGHER_IS_BETTER[config.run.best_metric],
    )
    wandb = config.logger.wandb
    artifacts = [
        Artifacts(
            checkpoints,
            logger,
            every_steps=wandb.upload_every_steps,
            keep_versions=wandb.keep_versions,
            used=_used_artifacts(config, run.start),
        )
        for logger in loggers
        if isinstance(logger, WandbRun) and wandb is not None
    ]
    return [
        BadSamples(config.data.max_bad_fraction),
        non_finite,
        metrics,
        Progress(metrics),
        BatchNormAverage(),
        LastValidation(),
        Pictures(run.path / PICTURES, config.run.num_pictures),
        StopSignals(checkpoints, config.run.max_hours),
        DataEndCheck(),
        checkpoints,
        *artifacts,
        ValidationSummary(),
        *_build_speed_callbacks(config, run.path, metrics),
    ]


def _build_speed_callbacks(config: Config, folder: Path, metrics: MetricsLog) -> list[Callback]:
    data, trainer = config.data, config.trainer
    built: list[Callback] = []
    if trainer.compile:
        side = data.image_size
        built.append(Compilation((data.batch_size, 3, side, side)))
    if trainer.profile_step is not None:
        built.append(Profile(folder / PROFILES, trainer.profile_step, metrics))
    return built


def _build_loggers(config: Config, run: RunFolder) -> list[Logger]:
    metrics = MetricsCsv(run.path / METRICS_FILE)
    rows = read_rows(metrics.path)
    # Steps that a resumed run repeats lose their rows; a run that begins anew repeats step 0, too.
    resumed_step = run.start.step if run.start.checkpoint else -1
    metrics.rewind(resumed_step)
    loggers: list[Logger] = [metrics]
    if config.logger.tensorboard:
        loggers.append(
            TensorBoardLogger(run.path, "tensorboard", version="", purge_step=resumed_step + 1)
        )
    wandb = config.logger.wandb
    if wandb is not None:
        loggers.append(
            WandbRun(
                rows,
                resumed_step,
                run.path,
                id=wandb_id(run.path),
                resume="allow",
                project=wandb.project,
                entity=wandb.entity,
                name=wandb.name or run.path.name,
                mode=wandb.mode.value,
                config=redact_all(run.stored_settings),
            )
        )
    return loggers


def _used_artifacts(config: Config, start: RunStart) -> list[str]:
    """List the names of W&B artifacts that a new run starts from; empty for a resumed run."""
    if not start.is_new:
        return []
    used = [artifact_name(config.model.init_from), artifact_name(config.run.parent)]
    if start.parent is not None and used[1] is None:
        used[1] = artifact_of_run(start.parent["provenance"].get("wandb"), start.parent["step"])
    return [name for name in used if name is not None]
