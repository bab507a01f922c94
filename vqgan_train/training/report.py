"""What a run says: before hours are spent, and at its end."""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback, Trainer
from torch import nn

from vqgan_train.config import Config
from vqgan_train.metrics.history import METRICS_FILE, numbers, read_rows, write_curves
from vqgan_train.system.launch import find_launch
from vqgan_train.training.callbacks import Checkpoints, MetricsLog, ValidationSummary
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.run.folder import CURVES_FILE, PICTURES
from vqgan_train.training.run.start import RunStart
from vqgan_train.training.setup.quantities import images_a_step, learning_rate

log = logging.getLogger(__name__)


def announce(
    config: Config, trainer: Trainer, data: ShardDataModule, module: VQGANModule, start: RunStart
) -> None:
    """Say what is about to happen: the numbers that are worth a look before hours are spent."""
    generator = module.generator
    images = images_a_step(config)
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
        config.run.output_dir,
        f", going on from step {start.step} of {start.checkpoint}" if start.checkpoint else "",
    )


def scaling_in_words(config: Config) -> str:
    """How the learning rate came about; nothing where it is the one that was set."""
    base, rule = config.optim.learning_rate, config.optim.learning_rate_scaling.value
    images = learning_rate(config) / base
    return "" if rule == "none" else f" = {base:g} x {images:.0f} images ({rule})"


def num_weights(network: nn.Module) -> int:
    """Count the trained parameters of a network."""
    return sum(weight.numel() for weight in network.parameters())


def report(config: Config, trainer: Trainer, folder: Path) -> None:
    """Draw the curves; say how far the losses fell, where everything lies, and what to do next."""
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
        "To go on:  %s",
        summary.table(step),
        validation_cost(metrics.validation_seconds, metrics.latest.get("train/step_seconds")),
        folder / PICTURES / f"step_{step:06d}.png",
        folder / METRICS_FILE,
        folder / CURVES_FILE,
        checkpoints.last,
        f"{checkpoints.best} (step {checkpoints.best_step}, by {checkpoints.best_metric})"
        if checkpoints.best.exists()
        else "none",
        command_to_go_on(config, step, data.position()),
    )


def validation_cost(seconds: Sequence[float], step_seconds: float | None) -> str:
    """Say what validations cost.

    Args:
        seconds: that each took.
        step_seconds: that a training step takes; None if it is not known.
    """
    mean = sum(seconds) / len(seconds)
    in_steps = f", as long as {mean / step_seconds:.3g} steps" if step_seconds else ""
    return f"{len(seconds)} of {mean:.3g} s each{in_steps}"


def report_finished(config: Config, start: RunStart) -> None:
    """Say that there is nothing left to do."""
    images = start.data["position"] if start.data else 0
    command = command_to_go_on(config, start.step, images)
    log.info("The run made its %d steps. To go on:  %s", start.step, command)


def command_to_go_on(config: Config, steps: int, images: int) -> str:
    """Write the command that takes a run as far again, with the settings it was started with.

    Args:
        config: all settings.
        steps: that were made.
        images: that were seen in them.
    """
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    run = config.run
    longer = {
        f"run.{name}": 2 * reached
        for name, length, reached in (
            ("max_steps", run.max_steps, steps),
            ("max_images", run.max_images, images),
        )
        if length is not None
    }
    changed = tuple(f"{name}=" for name in ("run.output_dir", "run.resume", *longer))
    words = [override for override in given if not override.startswith(changed)]
    words += [f"run.output_dir={run.output_dir}"]
    words += [f"{name}={length}" for name, length in longer.items()]
    launch = find_launch(os.environ)
    # Its options are not for this process to know.
    started_by = {None: _python(), "torchrun": "torchrun ...", "srun": f"srun ... {_python()}"}
    start = started_by[launch and launch.launcher]
    return f"{start} {shlex.join(['-m', 'vqgan_train', *words])}"


def _python() -> str:
    """How this Python is called from this folder."""
    if shutil.which("python") == sys.executable:
        return "python"
    executable = Path(sys.executable)
    here = Path.cwd()
    return str(executable.relative_to(here) if executable.is_relative_to(here) else executable)
