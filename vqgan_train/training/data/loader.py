"""Load planned batches in worker processes, and copy them to a GPU on a stream of their own."""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vqgan_train.system.loader_processes import exit_if_unsendable
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import Sample, ShardDataset

BATCHES_PER_WORKER = 2
"""Batches that each loader process reads ahead; torch's default."""


class CopyStream:
    """Copies batches to a GPU on a stream of their own.

    A training step reads no result back, so the host asks for the next batch while the GPU still
    computes. On the stream of the computation, the copy would wait for the step to end, and the
    next step for the copy.
    """

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None
        """Stream of the copies; created by the first copy to a GPU."""

    def copy(self, images: Tensor, device: torch.device) -> Tensor:
        """Copy images to a device; on a GPU, the current stream waits for the copy.

        Args:
            images: images in pinned memory of the host; a copy from other memory blocks the host.
            device: target, the same in every call.

        Returns:
            The images on the device, for kernels launched on the current stream from now on.
        """
        if device.type != "cuda":
            return images.to(device)
        self.stream = self.stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(self.stream):
            copied = images.to(device, non_blocking=True)
        computing.wait_stream(self.stream)
        # The copying stream owns the memory, and must not reuse it before the step has ended.
        copied.record_stream(computing)
        return copied


class TimedLoader(DataLoader[Sample]):
    """A loader that measures how long the newest batch took to arrive."""

    fetch_seconds = 0.0
    """Seconds that the last request for a batch waited for it."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        asked_at = time.perf_counter()
        for batch in super().__iter__():
            self.fetch_seconds = time.perf_counter() - asked_at
            yield batch
            asked_at = time.perf_counter()


def make_loader(
    data: ShardDataset,
    batches: Sampler[list[SampleRef]] | list[list[SampleRef]],
    num_workers: int,
    collate: Callable[[Sequence[Sample]], dict[str, Any]],
    *,
    is_repeated: bool,
) -> TimedLoader:
    """Make a loader that reads batches in the given order.

    Args:
        data: data set that the batches refer to.
        batches: references to the samples of each batch.
        num_workers: loader processes; with 0 the calling process reads.
        collate: makes a batch of samples.
        is_repeated: keep the processes for another pass over the batches, instead of starting them
            anew for each.
    """
    return TimedLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=BATCHES_PER_WORKER if num_workers else None,
        persistent_workers=is_repeated and num_workers > 0,
        worker_init_fn=_ignore_first_signals,
        pin_memory=torch.cuda.is_available(),
        # The loader draws a seed for its workers. A generator of its own leaves torch's random
        # state unchanged, so that a resumed run continues with the same numbers.
        generator=torch.Generator(),
    )


def _ignore_first_signals(_worker: int) -> None:
    """Let a worker survive signals that a terminal or scheduler sends to the whole process group.

    The run still needs its workers for the step at which it saves. A worker ends when the loader
    tells it to, at the second SIGTERM, or when the run's process is gone.
    """
    exit_if_unsendable()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_at_next_sigterm)


def _exit_at_next_sigterm(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@atexit.register
def _end_workers() -> None:
    # At exit, multiprocessing sends SIGTERM once, which workers survive, and then waits without
    # limit. So it is repeated here; two at once would count as one, because signals do not queue.
    for child in multiprocessing.active_children():
        for _ in range(50 if child.daemon else 0):  # torch's workers are daemons
            child.terminate()
            child.join(0.1)
            if not child.is_alive():
                break
