"""torch.compile, tried before the first step, with a way on where it does not work."""

import logging
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from vqgan_train.losses import this_batch_alone
from vqgan_train.runtime import first_line

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
    pool, module.pool = module.pool, this_batch_alone  # another rank may fail before it comes to it
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
