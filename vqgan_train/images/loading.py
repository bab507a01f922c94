"""Read images in loader processes: bad images become names, other errors stop the command."""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqgan_train.images.locations import EncodedImage, ImageLocation, read_with_retries
from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.system.errors import UserError

RequestT = TypeVar("RequestT")
BatchT = TypeVar("BatchT")
DecodedT = TypeVar("DecodedT")


def read_ahead(
    requests: Iterable[RequestT], read: Callable[[RequestT], BatchT], *, num_workers: int
) -> Iterator[BatchT]:
    """Read a batch for each request, in the order of the requests.

    Args:
        requests: drawn 2 x `num_workers` ahead of the batch that is yielded.
        read: turns a request into a batch, in a loader process.
        num_workers: number of loader processes; 0 reads in this process.

    Raises:
        UserError: `read` raised it.
    """
    loader: DataLoader[BatchT | UserError] = DataLoader(
        _Reader(read),
        sampler=requests,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=num_workers,
        worker_init_fn=_ignore_ctrl_c,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def read_image(
    location: ImageLocation, decode: Callable[[bytes], DecodedT]
) -> tuple[EncodedImage, DecodedT] | str:
    """Read and decode an image.

    Returns:
        The image as stored, and decoded; or, if it is bad, a text with its name and the reason.

    Raises:
        UserError: the image's shard is damaged, or the system cannot read the file.
    """
    name = location.name
    try:
        encoded = read_with_retries(location)
        name = encoded.name
        return encoded, decode(encoded.image)
    except UserError:  # a ValueError as well, but not the image's fault
        raise
    except UNREADABLE as error:
        return f"{name}: {reason(error)}"


def stack_pixels(pixels: list[Tensor]) -> Tensor:
    """Stack images (3, H, W) uint8 to (B, 3, H, W); no images give (0, 3, 1, 1)."""
    return torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8)


class _Reader(Dataset[BatchT | UserError], Generic[RequestT, BatchT]):
    """The dataset of a loader process, whose index is the request itself.

    A UserError is returned instead of raised, because torch would wrap it in a traceback and then
    wait for its processes in vain.
    """

    def __init__(self, read: Callable[[RequestT], BatchT]) -> None:
        self.read = read

    def __getitem__(self, request: RequestT) -> BatchT | UserError:
        try:
            return self.read(request)
        except UserError as error:
            return error


def _ignore_ctrl_c(_worker: int) -> None:
    # A terminal sends it to all processes; the command itself stops its loader processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch
