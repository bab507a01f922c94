"""SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C and the time limit: saved at the next step, and ended."""

import logging
import os
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.system.processes import (
    SIGNAL_BASE,
    STOP_SIGNALS,
    TIME_IS_UP,
    in_words,
    process_seconds,
)
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.run.contents import mark_stopped

log = logging.getLogger(__name__)


class StopSignals(Callback):
    """Ends a run between two steps when a signal told any rank to, or when its time is up.

    The same command then goes on exactly there. A second Ctrl-C ends it at once, and so does any
    signal before the first step: there is nothing to save.

    Args:
        checkpoints: saves the state.
        max_hours: of the process, after which its time is up; None: never.
    """

    def __init__(self, checkpoints: Checkpoints, max_hours: float | None) -> None:
        self.checkpoints = checkpoints
        self.max_hours = max_hours
        self._received = 0
        self._saves = False
        self._handlers_before: dict[int, Any] = {}
        self._ranks: Any = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen in the validation before the first step, too."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From the first step on there is something to save."""
        if trainer.world_size > 1:
            # Of its own, on the CPU: a question at every step must not make the GPU wait.
            self._ranks = torch.distributed.new_group(backend="gloo")
        self._listen()
        self._saves = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save and end, if it is a step's first batch and any rank was told to.

        Raises:
            SystemExit: with 128 plus the signal's number, or 75 if the time is up.
        """
        if batch_idx % trainer.accumulate_grad_batches != 0:
            return
        code = self._heard_by_any()
        if code:
            self.checkpoints.save_last(trainer)
            what = f"run.max_hours={self.max_hours}" if code == TIME_IS_UP else in_words(code)
            mark_stopped(self.checkpoints.last.parents[1], f"{what}, step {trainer.global_step}")
            log.info("\n%s: saved, and stopped.", what)
            self._tell_submitit(code)
            raise SystemExit(code)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to whom they belonged, between the first validation and training."""
        if not self._saves:
            self._stop_listening()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to whom they belonged."""
        self._stop_listening()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Likewise."""
        self._stop_listening()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        code = SIGNAL_BASE + number
        if number == signal.SIGINT and (not self._saves or self._received == code):
            raise KeyboardInterrupt
        if not self._saves:
            raise SystemExit(code)
        self._received = code

    def _heard_by_any(self) -> int:
        """The highest exit code that a rank was told to end with; 0 if there is none."""
        is_up = self.max_hours is not None and process_seconds() >= 3600 * self.max_hours
        code = self._received or (TIME_IS_UP if is_up else 0)
        if self._ranks is None:
            return code
        heard = torch.tensor(code)
        torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX, group=self._ranks)
        return int(heard)

    def _tell_submitit(self, code: int) -> None:
        """Let submitit, which listens to SIGUSR2, ask Slurm to start the job again."""
        if code == SIGNAL_BASE + signal.SIGUSR2 and callable(self._handlers_before[signal.SIGUSR2]):
            self._stop_listening()
            os.kill(os.getpid(), signal.SIGUSR2)

    def _listen(self) -> None:
        if not self._handlers_before:
            for number in STOP_SIGNALS:
                self._handlers_before[number] = signal.signal(number, self._receive)

    def _stop_listening(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()
        self._saves = False
