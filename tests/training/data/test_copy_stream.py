"""Check the order of stream operations; tests/test_gpu.py shows the overlap on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from vqgan_train.training.data.loader import CopyStream

GPU = torch.device("cuda", 0)


class Streams:
    """Fake GPU that records operations and their streams."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.current = "computing"

    def named(self, name: str) -> "Stream":
        return Stream(self, name)

    @contextmanager
    def on(self, stream: "Stream") -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before


class Stream:
    def __init__(self, gpu: Streams, name: str) -> None:
        self.gpu, self.name = gpu, name

    def wait_stream(self, other: "Stream") -> None:
        self.gpu.asked.append(f"{self.name} waits for {other.name}")


class Images:
    def __init__(self, gpu: Streams) -> None:
        self.gpu = gpu

    def to(self, device: torch.device, *, non_blocking: bool) -> "Images":
        assert device == GPU
        assert non_blocking
        self.gpu.asked.append(f"copy on {self.gpu.current}")
        return self

    def record_stream(self, stream: Stream) -> None:
        self.gpu.asked.append(f"keep for {stream.name}")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Streams:
    streams = Streams()
    made = iter(range(9))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: streams.named(f"copying {next(made)}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: streams.named(streams.current))
    monkeypatch.setattr(torch.cuda, "stream", streams.on)
    return streams


def test_batches_come_to_a_gpu_on_one_stream_beside_its_computation(gpu: Streams) -> None:
    copies = CopyStream()
    images: Any = Images(gpu)
    for _ in range(2):
        assert copies.copy(images, GPU) is images
    once = [
        "copy on copying 0",
        "computing waits for copying 0",
        "keep for computing",
    ]
    assert gpu.asked == once * 2


def test_without_a_gpu_they_stay_where_they_are() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert CopyStream().copy(images, torch.device("cpu")) is images
