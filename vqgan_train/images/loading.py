"""Loader processes that read what they are asked for, and what becomes of errors there."""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqgan_train.images.locations import Encoded, Place, read_patiently
from vqgan_train.images.sample import UNREADABLE, reason
from vqgan_train.system.errors import ShardError, TokenError

RequestT = TypeVar("RequestT")
BatchT = TypeVar("BatchT")
DecodedT = TypeVar("DecodedT")


def read_ahead(
    requests: Iterable[RequestT], read: Callable[[RequestT], BatchT], *, num_workers: int
) -> Iterator[BatchT]:
    """Read requests in their order, each into a batch.

    Args:
        requests: drawn a little ahead of what is read.
        read: makes a batch of one, in a loader process.
        num_workers: loader processes; 0 reads in this one.

    Raises:
        ShardError: a shard has changed since it was indexed, or cannot be had.
        TokenError: a file cannot be read, or the source has changed.
    """
    loader: DataLoader[BatchT | ShardError | TokenError] = DataLoader(
        _Reader(read),
        sampler=_Requests(requests),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=_leave_ctrl_c_to_the_command,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, ShardError | TokenError):
            raise batch
        yield batch


def read_image(place: Place, decode: Callable[[bytes], DecodedT]) -> tuple[Encoded, DecodedT] | str:
    """What lies at a place, and what it decodes to; or its name and why it does not.

    Raises:
        ShardError: the whole shard's fault.
        TokenError: the system cannot read it, which says nothing about the image.
    """
    name = place.name
    try:
        encoded = read_patiently(place)
        name = encoded.name
        return encoded, decode(encoded.image)
    except (ShardError, TokenError):  # ValueErrors, but not the image's
        raise
    except UNREADABLE as error:
        return f"{name}: {reason(error)}"


def stacked(pixels: list[Tensor]) -> Tensor:
    """(B, 3, H, W) uint8, perhaps B = 0."""
    return torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8)


class _Reader(Dataset[BatchT | ShardError | TokenError], Generic[RequestT, BatchT]):
    """Nothing but requests passes to a loader process.

    An error that is not an image's is returned, not raised: torch would wrap it in its traceback,
    and then wait for its processes in vain.
    """

    def __init__(self, read: Callable[[RequestT], BatchT]) -> None:
        self.read = read

    def __getitem__(self, request: RequestT) -> BatchT | ShardError | TokenError:
        try:
            return self.read(request)
        except (ShardError, TokenError) as error:
            return error


class _Requests(Generic[RequestT]):
    """What loader processes are asked, in order."""

    def __init__(self, requests: Iterable[RequestT]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[RequestT]:
        return iter(self.requests)


def _leave_ctrl_c_to_the_command(_worker: int) -> None:
    """A terminal sends it to all processes, of which one is to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
