"""torch.compile, tried before the first step, with a way on where it does not work."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vqgan_train.losses import no_reduction
from vqgan_train.system.errors import first_line
from vqgan_train.training.callbacks.metrics_log import MetricsLog

log = logging.getLogger(__name__)

REGIONS = (
    ("generator.encoder", "forward"),
    ("generator.decoder", "features"),
    ("objective.lpips", "features"),
)
"""What is compiled: a module and its method.

The last convolution is left out because the adaptive weight asks for its gradient alone, the
discriminator because it is gone back through twice, and a compiled backward pass gives all or
nothing, once."""


class Compilation(Callback):
    """Compiles the costly parts for one shape of batch; other shapes and validation run as written.

    Args:
        shape: (B, 3, H, W) of the training batches.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile, and make one step that leaves no trace, so that what fails fails here."""
        started = time.perf_counter()
        log.info("compiling, before the first step; on a CPU this takes minutes")
        torch.compiler.set_stance("default")
        for name, method in REGIONS:
            part = pl_module.get_submodule(name)
            setattr(part, method, torch.compile(getattr(part, method), dynamic=False))
        failure = None
        try:
            with trainer.precision_plugin.train_step_context():
                _rehearse(pl_module, self.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in as many ways as there are compilers
            failure = error
            log.warning(
                "WARNING: trainer.compile=true, but the networks cannot be compiled here (%s: %s). "
                "The run goes on without. Set trainer.compile=false to say that it should.",
                type(error).__name__,
                first_line(error)[:200],
            )
        # Ranks that compute differently would not be one run.
        if trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            log.info("compiled in %.0f s", time.perf_counter() - started)
            torch.compiler.set_stance("eager_on_recompile")
        else:
            restore(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the process and the module as they were; Lightning calls no teardown then."""
        torch.compiler.set_stance("default")
        restore(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the process and the module as they were."""
        torch.compiler.set_stance("default")
        restore(pl_module)


def _rehearse(pl_module: LightningModule, shape: tuple[int, int, int, int]) -> None:
    """One step's forward and backward pass; gradients, statistics and random state stay."""
    parameters = [p for p in pl_module.parameters() if p.requires_grad]
    statistics = [buffer.clone() for buffer in pl_module.buffers()]
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    module: Any = pl_module
    pool, module.pool = module.pool, no_reduction  # another rank may fail before it comes to it
    try:
        with torch.random.fork_rng(devices=devices):
            images = torch.rand(shape, device=pl_module.device) * 2 - 1
            outputs: Any = pl_module.training_step({"image": images})
            # Not backward(): that would fill .grad and start DistributedDataParallel's exchange.
            torch.autograd.grad(outputs["loss"], parameters, allow_unused=True)
    finally:
        module.pool = pool
        for buffer, before in zip(pl_module.buffers(), statistics, strict=True):
            buffer.copy_(before)


def restore(pl_module: nn.Module) -> None:
    """Give the parts their own methods back."""
    for name, method in REGIONS:
        pl_module.get_submodule(name).__dict__.pop(method, None)


PROFILED_STEPS = 5
TABLE_ROWS = 30


class Profile(Callback):
    """Traces five steps of each rank, data loading and logging between them included.

    Leaves `step_<N>_rank_<R>.json.gz`, a trace, and `.txt` beside it, the dearest operations.

    Args:
        folder: where to.
        first_step: step to begin at; one later than the first has the warm-up behind it.
        metrics: whose clock stands still while a trace is written.
    """

    def __init__(self, folder: Path, first_step: int, metrics: MetricsLog) -> None:
        self.folder = folder
        self.first_step = first_step
        self.metrics = metrics
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if there will be no trace."""
        if not trainer.global_step <= self.first_step < trainer.max_steps:
            log.warning(
                "WARNING: trainer.profile_step=%d is not among the steps %d to %d that are left, "
                "so nothing is traced.",
                self.first_step,
                trainer.global_step,
                trainer.max_steps - 1,
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin."""
        if self._profile is None and trainer.global_step == self.first_step:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End after so many steps."""
        if trainer.global_step >= self.first_step + PROFILED_STEPS:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what there is of a run that ends before."""
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Likewise of one that is stopped."""
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
