"""Callbacks about the speed of steps: torch.compile, and a profiler trace."""

import logging
import time
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vqgan_train.system.errors import first_line
from vqgan_train.training.callbacks.metrics_log import MetricsLog
from vqgan_train.training.lightning.module import VQGANModule

log = logging.getLogger(__name__)

# A compiled backward pass gives all of its gradients at once and can run only once. So two parts
# are not compiled: the last convolution, whose weight gradient alone gives the adaptive weight, and
# the discriminator, which is backpropagated twice.
COMPILED_METHODS = (
    ("generator.encoder", "forward"),
    ("generator.decoder", "features"),
    ("objective.lpips", "features"),
)
"""Submodules of `VQGANModule` and their compiled method."""


class Compilation(Callback):
    """Compiles the costly parts of a training step for one shape of batch.

    Validation and batches of another shape run uncompiled. If compilation fails on any rank, all
    ranks train uncompiled.

    Args:
        shape: (B, 3, H, W) of the training batches.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile, then rehearse one step, so that errors of the compiler surface here."""
        started_at = time.perf_counter()
        log.info("compiling before the first step; this takes minutes on a CPU")
        torch.compiler.set_stance("default")
        for name, method in COMPILED_METHODS:
            part = pl_module.get_submodule(name)
            setattr(part, method, torch.compile(getattr(part, method), dynamic=False))
        failure = None
        try:
            with trainer.precision_plugin.train_step_context():
                cast(VQGANModule, pl_module).rehearse_step(self.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise errors of many kinds
            failure = error
            log.warning(
                "WARNING: trainer.compile=true, but the networks cannot be compiled here (%s: %s). "
                "The run continues uncompiled. Set trainer.compile=false to avoid this warning.",
                type(error).__name__,
                first_line(error)[:200],
            )
        # All ranks or none, because compiled steps round differently.
        if trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            log.info("compiled in %.0f s", time.perf_counter() - started_at)
            torch.compiler.set_stance("eager_on_recompile")
        else:
            _remove_compiled(pl_module)

    # Lightning calls no teardown after an exception.
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Restore the uncompiled methods and torch's setting for the process."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the uncompiled methods and torch's setting for the process."""
        torch.compiler.set_stance("default")
        _remove_compiled(pl_module)


def _remove_compiled(pl_module: nn.Module) -> None:
    """Delete the compiled methods, which hide those of the class."""
    for name, method in COMPILED_METHODS:
        pl_module.get_submodule(name).__dict__.pop(method, None)


PROFILED_STEPS = 5
TABLE_ROWS = 30


class Profile(Callback):
    """Traces five steps on each rank, with the data loading and logging between them.

    Writes the trace to `step_<N>_rank_<R>.json.gz`, and a table of the costliest operations to
    `step_<N>_rank_<R>.txt`.

    Args:
        folder: receives the files.
        first_step: first traced step, counted from 0; steps after the first few are past the
            warm-up.
        metrics: pauses its clock while a trace is written.
    """

    def __init__(self, folder: Path, first_step: int, metrics: MetricsLog) -> None:
        self.folder = folder
        self.first_step = first_step
        self.metrics = metrics
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the run has no such step."""
        if not trainer.global_step <= self.first_step < trainer.max_steps:
            log.warning(
                "WARNING: trainer.profile_step=%d is not among the steps %d to %d that are left, "
                "so nothing is traced.",
                self.first_step,
                trainer.global_step,
                trainer.max_steps - 1,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the trace at `first_step`."""
        if self._profile is None and trainer.global_step == self.first_step:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the trace after `PROFILED_STEPS` steps."""
        if trainer.global_step >= self.first_step + PROFILED_STEPS:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a shorter trace if the run ends during it."""
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write a shorter trace if the run stops during it."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self._profile is None:
            return
        self.metrics.pause()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step_{self.first_step:06d}_rank_{trainer.global_rank}"
        self._profile.export_chrome_trace(str(self.folder / f"{name}.json.gz"))
        on_gpu = ProfilerActivity.CUDA in self._profile.activities
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=order, row_limit=TABLE_ROWS)
        (self.folder / f"{name}.txt").write_text(table)
        log.info("profile      %s", self.folder / f"{name}.json.gz")
        self._profile = None
