"""Copies to a GPU beside what it computes."""

import atexit
import multiprocessing
import os
import signal
from types import FrameType

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vqgan_train.training.data.pipeline import PlannedBatches, Sample, ShardDataset, collate
from vqgan_train.training.data.plan import Draw


class CopyStream:
    """Copies batches to a GPU on a stream of their own.

    A training step reads no number back, so the host asks for the next batch while the GPU is still
    at this one. Copied in the GPU's own queue, the batch would wait for the step to end, and the
    next step for the copy.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, images: Tensor, device: torch.device) -> Tensor:
        """Bring images to a device.

        Args:
            images: on the host; in pinned memory, or else the host waits for the copy.
            device: where to. Only on a GPU are there streams.

        Returns:
            The images there, for use by what the device is given from now on.
        """
        if device.type != "cuda":
            return images.to(device)
        stream, computing = self.stream(device), torch.cuda.current_stream(device)
        with torch.cuda.stream(stream):
            copied = images.to(device, non_blocking=True)
        computing.wait_stream(stream)
        # Their memory is the copying stream's: it is not to be used again before the step is over.
        copied.record_stream(computing)
        return copied

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The one on which batches come to this GPU."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]


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
