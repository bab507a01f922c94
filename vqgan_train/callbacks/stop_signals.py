"""SIGTERM, SIGUSR1 and Ctrl-C: the state is saved at the next step, and the run ends."""

import logging
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.callbacks.checkpoints import Checkpoints

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send before they end a job, and Ctrl-C."""

EXIT_CODE_BASE = 128
"""A run that a signal ended exits with this plus the signal's number, as shells count."""


class StopSignals(Callback):
    """Ends a run between two steps when a signal told any rank to.

    The same command then goes on exactly there. A second Ctrl-C ends it at once.

    Args:
        checkpoints: saves the state.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._received = 0
        self._handlers_before: dict[int, Any] = {}
        self._ranks: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from the first step on; before it there is nothing to save."""
        if trainer.world_size > 1:
            # Of its own, on the CPU: a question at every step must not make the GPU wait.
            self._ranks = torch.distributed.new_group(backend="gloo")
        for number in SIGNALS:
            self._handlers_before[number] = signal.signal(number, self._receive)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save and end, if it is a step's first batch and any rank was told to.

        Raises:
            SystemExit: with 128 plus the signal's number.
        """
        if batch_idx % trainer.accumulate_grad_batches != 0:
            return
        number = self._heard_by_any()
        if number:
            self.checkpoints.save_last(trainer)
            log.info("\n%s: saved, and stopped.", signal.Signals(number).name)
            raise SystemExit(EXIT_CODE_BASE + number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to whom they belonged."""
        self._stop_listening()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Likewise."""
        self._stop_listening()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def _heard_by_any(self) -> int:
        """The highest number of a signal that a rank has received; 0 if there is none."""
        if self._ranks is None:
            return self._received
        heard = torch.tensor(self._received)
        torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX, group=self._ranks)
        return int(heard)

    def _stop_listening(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()
