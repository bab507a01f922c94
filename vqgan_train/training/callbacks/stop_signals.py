"""Graceful stops: on a signal or at the time limit, save between two steps and exit."""

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vqgan_train.system.exit_codes import (
    SIGNAL_BASE,
    STOP_SIGNALS,
    TIME_IS_UP,
    describe_exit_code,
)
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.run.contents import mark_stopped

log = logging.getLogger(__name__)

_IMPORTED_AT = time.monotonic()
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class StopSignals(Callback):
    """Saves and exits between two steps once any rank got a signal or reached its time limit.

    The signals are SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C. The run can then resume at that
    step. A validation is interrupted, and repeated by the resumed run, except the one after the
    last step, because a run that has made all its steps does not resume. A second Ctrl-C exits at
    once, and so does any signal before the first step, because there is nothing to save.

    Args:
        checkpoints: saves the state.
        max_hours: time limit, counted from the start of the process; None for no limit.
    """

    def __init__(self, checkpoints: Checkpoints, max_hours: float | None) -> None:
        self.checkpoints = checkpoints
        self.max_hours = max_hours
        self._received = 0
        """Exit code for the newest signal; 0 before the first signal."""
        self._saves = False
        """Whether a signal leads to a save; false before the first step."""
        self._handlers_before: dict[int, Any] = {}
        self._ranks: Any = None
        """Process group of all ranks; None if there is one rank."""
        self._vote: tuple[Tensor, torch.distributed.Work] | None = None
        """The highest exit code, once the ranks have exchanged it; None if none was asked for."""
        self._is_validation_left = False
        """Whether a validation at this step is under way, or was interrupted."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, for the validation before the first step too."""
        self._install_handlers()
        self._is_validation_left = self._saves

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, and repeat the validation that a stop interrupted.

        From now on a signal leads to a save.
        """
        if trainer.world_size > 1:
            # A second process group, on the CPU: with NCCL the all-reduce at every step would make
            # the host wait for the GPU.
            self._ranks = torch.distributed.new_group(backend="gloo")
        self._install_handlers()
        self._saves = True
        if self._is_validation_left:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before a step's first batch, save and exit if any rank has to stop.

        Raises:
            SystemExit: with 128 plus the signal's number, or with 75 at the time limit.
        """
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_told(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Between two steps, save and exit if any rank has to stop.

        Raises:
            SystemExit: as by `on_train_batch_start`.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        is_common = batch_idx < data.num_common_val_batches()  # all ranks have to ask equally often
        if self._saves and trainer.global_step < trainer.max_steps and is_common:
            self._stop_if_told(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the validation before training, restore the previous signal handlers."""
        self._is_validation_left = False
        if not self._saves:
            self._restore_handlers()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the previous signal handlers."""
        self._read_vote()
        self._restore_handlers()

    def state_dict(self) -> dict[str, Any]:
        """Return whether the state is that of an interrupted validation; nothing if not."""
        return {"is_validation_left": True} if self._is_validation_left else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the validation that was interrupted."""
        self._is_validation_left = state_dict["is_validation_left"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Restore the previous signal handlers."""
        self._restore_handlers()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal for the next step, or exit at once; the class says when."""
        code = SIGNAL_BASE + number
        if number == signal.SIGINT and (not self._saves or self._received == code):
            raise KeyboardInterrupt
        if not self._saves:
            raise SystemExit(code)
        self._received = code

    def _stop_if_told(self, trainer: Trainer) -> None:
        """Save and exit if any rank has to stop."""
        code = self._exit_code()
        if code:
            self.checkpoints.save_last(trainer)
            is_time_up = code == TIME_IS_UP
            cause = f"run.max_hours={self.max_hours}" if is_time_up else describe_exit_code(code)
            mark_stopped(self.checkpoints.last.parents[1], f"{cause}, step {trainer.global_step}")
            log.info("\n%s: the run has saved its state and stops.", cause)
            self._tell_submitit(code)
            raise SystemExit(code)

    def _exit_code(self) -> int:
        """Return the exit code; with several ranks, the highest of the last call. 0: go on."""
        is_up = self.max_hours is not None and process_seconds() >= 3600 * self.max_hours
        code = self._received or (TIME_IS_UP if is_up else 0)
        if self._ranks is None:
            return code
        highest_before = self._read_vote()
        if highest_before == 0:
            highest, operation = torch.tensor(code), torch.distributed.ReduceOp.MAX
            work = torch.distributed.all_reduce(highest, operation, self._ranks, async_op=True)
            self._vote = (highest, work)
        return highest_before

    def _read_vote(self) -> int:
        """Return the highest exit code of the vote under way; 0 if there is none."""
        if self._vote is None:
            return 0
        (highest, work), self._vote = self._vote, None
        work.wait()
        return int(highest)

    def _tell_submitit(self, code: int) -> None:
        """Pass SIGUSR2 on to the handler of submitit, if it set one: it requeues the Slurm job."""
        if code == SIGNAL_BASE + signal.SIGUSR2 and callable(self._handlers_before[signal.SIGUSR2]):
            self._restore_handlers()
            os.kill(os.getpid(), signal.SIGUSR2)

    def _install_handlers(self) -> None:
        if not self._handlers_before:
            for number in STOP_SIGNALS:
                self._handlers_before[number] = signal.signal(number, self._receive)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()
        self._saves = False


def process_seconds() -> float:
    """Return the seconds since this process started; without /proc, since this file's import."""
    try:
        # Field 22 is the start, in clock ticks since boot; the second field may contain spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED_AT
    return uptime - int(fields[19]) / _CLOCK_TICKS
