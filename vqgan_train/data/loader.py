"""Loader processes: how batches are read ahead of the step, and how the processes end."""

import atexit
import multiprocessing
import os
import signal
from types import FrameType

import torch
from torch.utils.data import DataLoader

from vqgan_train.data.pipeline import PlannedBatches, Sample, ShardDataset, collate
from vqgan_train.data.plan import Draw

BATCHES_AHEAD = 2
"""Of a loader process: torch's default."""


def make_loader(
    data: ShardDataset, batches: PlannedBatches | list[list[Draw]], *, num_workers: int
) -> DataLoader[Sample]:
    """Read planned batches, in their order.

    Args:
        data: the samples.
        batches: what each batch is made of.
        num_workers: loader processes; 0 reads in this one.
    """
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_run,
        pin_memory=torch.cuda.is_available(),
        # The loader draws a seed for its workers; from a generator of its own it leaves torch's
        # random state, and so a resumed run, alone.
        generator=torch.Generator(),
    )


def _leave_signals_to_the_run(_worker: int) -> None:
    """Let a worker outlive what a terminal or a scheduler sends to the whole process group.

    The run still needs its workers for the step at which it saves. Their end comes from the run:
    they are told, or get a second SIGTERM, or see that it is gone.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)


def _end_next_time(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@atexit.register
def _announce_the_end() -> None:
    """Send the first SIGTERM: multiprocessing sends the second, and then waits without end."""
    for child in multiprocessing.active_children():
        if child.daemon:  # as torch's workers are; the others are waited for, not ended
            child.terminate()
