"""Log what a run is about to do, and its results at the end."""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.config.run import Config
from vqgan_train.metrics.history import METRICS_FILE, numbers, read_rows, write_curves
from vqgan_train.system.launch import find_launch
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.callbacks.metrics_log import MetricsLog
from vqgan_train.training.callbacks.progress import ValidationSummary
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.run.contents import CURVES_FILE, PICTURES
from vqgan_train.training.run.folder import RunFolder
from vqgan_train.training.setup.networks import num_weights
from vqgan_train.training.setup.quantities import images_per_step, learning_rate

log = logging.getLogger(__name__)


@rank_zero_only
def announce(
    config: Config, run: RunFolder, trainer: Trainer, data: ShardDataModule, module: VQGANModule
) -> None:
    """Log the sizes of data and networks, the steps left, devices, learning rate and folder."""
    generator, start = module.generator, run.start
    images = images_per_step(config)
    steps = trainer.max_steps - start.step
    log.info(
        "data   %d training images, %d for validation\n"
        "model  f%d, %d codes, %.1f M weights; discriminator %.1f M\n"
        "run    %d steps of %d images (%.1f epochs), %d x %s, %s\n"
        "       learning rate %g%s\n"
        "       %s%s",
        len(data.train_data),
        len(data.val_data),
        generator.downsampling,
        generator.quantizer.codebook.num_embeddings,
        num_weights(generator) / 1e6,
        num_weights(module.discriminator) / 1e6,
        steps,
        images,
        steps * images / len(data.train_data),
        trainer.world_size,
        trainer.accelerator.__class__.__name__.removesuffix("Accelerator"),
        trainer.precision,
        module.optimizer["lr"],
        scaling_in_words(config),
        run.path,
        f", resuming at step {start.step} from {start.checkpoint}" if start.checkpoint else "",
    )


def scaling_in_words(config: Config) -> str:
    """Return the factors of the learning rate as text; "" if the scaling rule is `none`."""
    base, rule = config.optim.learning_rate, config.optim.learning_rate_scaling.value
    images = learning_rate(config) / base
    return "" if rule == "none" else f" = {base:g} x {images:.0f} images ({rule})"


@rank_zero_only
def report(config: Config, run: RunFolder, trainer: Trainer) -> None:
    """Draw the curves; log first and last validation, all paths, and how to train longer."""
    folder = run.path
    write_curves(folder / CURVES_FILE, numbers(read_rows(folder / METRICS_FILE)))
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared there
    (summary,) = [c for c in callbacks if isinstance(c, ValidationSummary)]
    (checkpoints,) = [c for c in callbacks if isinstance(c, Checkpoints)]
    (metrics,) = [c for c in callbacks if isinstance(c, MetricsLog)]
    data: ShardDataModule = trainer.datamodule  # type: ignore[attr-defined]  # undeclared there
    step = trainer.global_step
    log.info(
        "\n%s\n\n"
        "validation   %s\n"
        "pictures     %s\n"
        "metrics      %s\n"
        "curves       %s\n"
        "checkpoints  %s\n"
        "best         %s\n\n"
        "To train longer:  %s",
        summary.table(step),
        validation_cost(metrics.validation_seconds, metrics.latest.get("train/step_seconds")),
        folder / PICTURES / f"step_{step:06d}.png",
        folder / METRICS_FILE,
        folder / CURVES_FILE,
        checkpoints.last,
        f"{checkpoints.best} (step {checkpoints.best_step}, by {checkpoints.best_metric})"
        if checkpoints.best.exists()
        else "none",
        command_to_train_longer(config, run.path, step, data.position()),
    )


def validation_cost(seconds: Sequence[float], step_seconds: float | None) -> str:
    """Describe the number of validations and the mean cost of one, in seconds and in steps.

    Args:
        seconds: duration of each validation, at least one.
        step_seconds: duration of a training step; None if it is unknown.
    """
    mean = sum(seconds) / len(seconds)
    in_steps = f" (the time of {mean / step_seconds:.3g} training steps)" if step_seconds else ""
    return f"{len(seconds)} times, {mean:.3g} s each{in_steps}"


def report_finished(config: Config, run: RunFolder) -> None:
    """Log that the run had made all its steps before this start, and how to train longer."""
    images = run.start.data["position"] if run.start.data else 0
    command = command_to_train_longer(config, run.path, run.start.step, images)
    log.info("The run has already made its %d steps. To train longer:  %s", run.start.step, command)


def command_to_train_longer(config: Config, folder: Path, steps: int, images: int) -> str:
    """Return the command that makes a run twice as long, with otherwise the same settings.

    Args:
        config: all settings.
        folder: the run's folder.
        steps: optimizer steps made so far.
        images: training images seen in these steps.
    """
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    longer = {
        f"run.{name}": 2 * reached
        for name, length, reached in (
            ("max_steps", config.run.max_steps, steps),
            ("max_images", config.run.max_images, images),
        )
        if length is not None
    }
    changed = tuple(f"{name}=" for name in ("run.output_dir", "run.resume", *longer))
    words = [override for override in overrides if not override.startswith(changed)]
    words += [f"run.output_dir={folder}"]
    words += [f"{name}={length}" for name, length in longer.items()]
    launch = find_launch(os.environ)
    # This process does not know the options of torchrun and srun.
    launchers = {None: _python(), "torchrun": "torchrun ...", "srun": f"srun ... {_python()}"}
    return f"{launchers[launch and launch.launcher]} {shlex.join(['-m', 'vqgan_train', *words])}"


def _python() -> str:
    """Return `python` if that calls this Python, else its path, relative if below the cwd."""
    if shutil.which("python") == sys.executable:
        return "python"
    executable = Path(sys.executable)
    here = Path.cwd()
    return str(executable.relative_to(here) if executable.is_relative_to(here) else executable)
