"""torch.compile, tried before the first step; if it fails, the run continues without it."""

import logging
import time
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from vqgan_train.system.errors import first_line
from vqgan_train.training.lightning.module import VQGANModule

log = logging.getLogger(__name__)

# A compiled backward pass gives all of its gradients at once and can run only once. So two parts
# are not compiled: the last convolution, whose weight gradient alone gives the adaptive weight, and
# the discriminator, which is backpropagated twice.
COMPILED_METHODS = (
    ("generator.encoder", "forward"),
    ("generator.decoder", "features"),
    ("objective.lpips", "distances"),
)
"""Submodules of `VQGANModule`, each with the name of the method that is compiled."""


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
        """Mark the methods for compilation, then rehearse one step, which compiles them."""
        started_at = time.perf_counter()
        log.info("Compiling the networks before the first step; this takes minutes on a CPU.")
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
            log.info("Compiled the networks in %.0f s.", time.perf_counter() - started_at)
            torch.compiler.set_stance("eager_on_recompile")
        else:
            _remove_compiled(pl_module)

    # Lightning calls no teardown after an exception.
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Restore the uncompiled methods and torch.compile's default stance."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the uncompiled methods and torch.compile's default stance."""
        torch.compiler.set_stance("default")
        _remove_compiled(pl_module)


def _remove_compiled(pl_module: nn.Module) -> None:
    """Delete the compiled methods, which hide those of the class."""
    for name, method in COMPILED_METHODS:
        pl_module.get_submodule(name).__dict__.pop(method, None)
