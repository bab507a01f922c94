"""Copies to a GPU beside what it computes."""

import torch
from torch import Tensor


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
