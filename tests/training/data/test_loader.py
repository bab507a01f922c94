import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import image_samples, write_shard

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import index_shard
from vqgan_train.training.data import loader
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import Sample, ShardDataset, collate

HELD_LOADER = """
import torch
from torch.utils.data import DataLoader
from vqgan_train.training.data.loader import _ignore_first_signals

loader = DataLoader(torch.zeros(64, 3), num_workers=2, worker_init_fn=_ignore_first_signals)
held = iter(loader)
next(held)
raise RuntimeError("an error of the run")
"""


def test_a_process_that_fails_does_not_wait_for_its_loader() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HELD_LOADER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "an error of the run" in ended.stderr


BATCHES = [[SampleRef(0, 0)], [SampleRef(0, 1), SampleRef(0, 2)], [SampleRef(0, 3)]]


@pytest.fixture
def data(tmp_path: Path) -> ShardDataset:
    path = write_shard(tmp_path / "a.tar", image_samples(4))
    return ShardDataset([index_shard(path)], ImageTransform(16, 16), seed=0)


def test_a_fetch_is_timed_and_nothing_beside_it(
    data: ShardDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    read = ShardDataset.__getitem__

    def read_slowly(data: ShardDataset, ref: SampleRef) -> Sample:
        nonlocal now
        now += 3.0
        return read(data, ref)

    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(ShardDataset, "__getitem__", read_slowly)
    timed = loader.make_loader(data, BATCHES, 0, collate, is_repeated=False)
    seconds = []
    for _ in timed:
        now += 50.0  # a step and its callbacks
        seconds.append(timed.fetch_seconds)
    assert seconds == [3.0, 6.0, 3.0]


@pytest.mark.parametrize("is_repeated", [False, True])
def test_only_a_loader_that_is_repeated_keeps_its_processes(
    data: ShardDataset, is_repeated: bool
) -> None:
    made = loader.make_loader(data, BATCHES, 1, collate, is_repeated=is_repeated)
    passes: list[tuple[list[Any], list[int]]] = []
    for _ in range(2):
        names = [batch["name"] for batch in made]
        workers = getattr(made._iterator, "_workers", [])
        passes.append((names, [worker.pid for worker in workers]))
    assert passes[0] == passes[1]
    assert len(passes[0][1]) == is_repeated
