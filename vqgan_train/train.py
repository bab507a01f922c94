"""Fine-tune, or train, one VQGAN."""

import logging
import shlex
import shutil
import sys
from pathlib import Path

import wandb
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers import WandbLogger
from torch import nn

from vqgan_train.build import build_data, build_module, build_trainer
from vqgan_train.callbacks import Checkpoints, Summary
from vqgan_train.config import Config, plain_settings
from vqgan_train.data.module import ShardDataModule
from vqgan_train.module import VQGANModule
from vqgan_train.run_folder import METRICS_FILE, PICTURES, RunFolder, open_run, start_folder
from vqgan_train.runtime import configure_logging, require_devices

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
    seed_everything(config.run.seed, verbose=False)
    data = build_data(config)
    data.prepare_data()
    data.require_readable()
    module = build_module(config)
    folder = open_run(config.run.output_dir, config.run.resume, plain_settings(config))
    if folder.step >= config.run.max_steps:
        log.info("%s has made its %d steps; raise run.max_steps.", folder.path, folder.step)
        return None
    config.run.output_dir = str(folder.path)
    trainer = build_trainer(config, folder)
    start_folder(folder, plain_settings(config))
    announce(trainer, data, module, folder)
    try:
        if folder.checkpoint is None:
            trainer.validate(module, data, verbose=False)  # what to measure progress against
        trainer.fit(module, data, ckpt_path=folder.checkpoint)
    finally:
        close_loggers(trainer)
    report(trainer, folder)
    return trainer


def announce(
    trainer: Trainer, data: ShardDataModule, module: VQGANModule, folder: RunFolder
) -> None:
    """Say what is about to happen: the numbers that are worth a look before hours are spent."""
    images_a_step = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    generator = module.generator
    log.info(
        "data   %d training images, %d for validation\n"
        "model  f%d, %d codes, %.1f M weights; discriminator %.1f M\n"
        "run    %d steps of %d images (%.1f epochs), learning rate %g, %d x %s, %s\n"
        "       %s%s",
        len(data.train_data),
        len(data.val_data),
        generator.downsampling,
        generator.quantizer.codebook.num_embeddings,
        num_weights(generator) / 1e6,
        num_weights(module.discriminator) / 1e6,
        trainer.max_steps,
        images_a_step,
        trainer.max_steps * images_a_step / len(data.train_data),
        module.optimizer["lr"],
        trainer.world_size,
        trainer.accelerator.__class__.__name__.removesuffix("Accelerator"),
        trainer.precision,
        folder.path,
        f", going on from step {folder.step}" if folder.checkpoint else "",
    )


def num_weights(network: nn.Module) -> int:
    """Count the trained parameters of a network."""
    return sum(weight.numel() for weight in network.parameters())


def close_loggers(trainer: Trainer) -> None:
    """Let W&B finish, so that another run in this process gets a run of its own there."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        wandb.finish()


def report(trainer: Trainer, folder: RunFolder) -> None:
    """Say how far the losses fell, where everything lies, and what to do next."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared there
    (summary,) = [c for c in callbacks if isinstance(c, Summary)]
    (checkpoints,) = [c for c in callbacks if isinstance(c, Checkpoints)]
    step = trainer.global_step
    log.info(
        "\n%s\n\n"
        "pictures     %s\n"
        "metrics      %s\n"
        "checkpoints  %s\n"
        "best         %s\n\n"
        "To go on:  %s",
        summary.table(step),
        folder.path / PICTURES / f"step_{step:06d}.png",
        folder.path / METRICS_FILE,
        checkpoints.last,
        f"{checkpoints.best} (step {checkpoints.best_step})"
        if checkpoints.best.exists()
        else "none",
        command_to_go_on(folder, 2 * step),
    )


def command_to_go_on(folder: RunFolder, max_steps: int) -> str:
    """Write the command that takes a run further, with the settings it was started with."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    changed = ("run.output_dir=", "run.max_steps=", "run.resume=")
    kept = [override for override in given if not override.startswith(changed)]
    words = [*kept, f"run.output_dir={folder.path}", f"run.max_steps={max_steps}"]
    return shlex.join([_python(), "-m", "vqgan_train", *words])


def _python() -> str:
    """How this Python is called from this folder."""
    if shutil.which("python") == sys.executable:
        return "python"
    executable = Path(sys.executable)
    here = Path.cwd()
    return str(executable.relative_to(here) if executable.is_relative_to(here) else executable)
