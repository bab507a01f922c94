"""Chosen samples, copied into new shards, with a list beside each that says where from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.cache import write_whole
from vqgan_train.data.index import ShardIndex
from vqgan_train.data.reading import read_range
from vqgan_train.data.writing import write_shard
from vqgan_train.preparation.workers import run_tasks

HEADER = "key\tsource\tshard\tkey_there\n"
"""Columns of the list beside a shard."""


class SourceShard(NamedTuple):
    """A shard and the source it belongs to."""

    source: str
    shard: ShardIndex


class _Sample(NamedTuple):
    source: str
    shard: Path
    start: int
    end: int


class _Task(NamedTuple):
    shard: Path
    first: int
    """Number of the first sample; numbers become keys."""

    samples: list[_Sample]


def write_selection(
    chosen: Mapping[Path, NDArray[np.int64]],
    shards: Sequence[SourceShard],
    *,
    samples_per_shard: int,
    num_workers: int,
    bar: "tqdm[Any]",
) -> None:
    """Copy samples into shards 00000.tar, 00001.tar, ...; those that are there are kept.

    Args:
        chosen: for each folder the numbers of its samples, counted through all shards.
        shards: of all sources.
        samples_per_shard: how many a shard has; a folder's last one has fewer.
        num_workers: processes; 0 works in this one.
        bar: the progress bar.

    Raises:
        ShardError: a shard has changed since it was indexed.
    """
    tasks = (
        task
        for folder, samples in chosen.items()
        for task in _tasks(samples, shards, folder, samples_per_shard)
    )
    for _ in run_tasks(
        _write,
        tasks,
        stored=lambda task: len(task.samples) if _origins(task).exists() else None,
        num_workers=num_workers,
        bar=bar,
        size_of=int,
    ):
        pass


def _tasks(
    chosen: NDArray[np.int64],
    shards: Sequence[SourceShard],
    folder: Path,
    samples_per_shard: int,
) -> Iterator[_Task]:
    firsts = np.cumsum([0, *(len(shard.shard.starts) for shard in shards)])
    for number, first in enumerate(range(0, len(chosen), samples_per_shard)):
        samples = []
        for sample in chosen[first : first + samples_per_shard]:
            place = int(np.searchsorted(firsts, sample, side="right")) - 1
            source, index = shards[place]
            own = int(sample - firsts[place])
            samples.append(
                _Sample(source, index.path, int(index.starts[own]), int(index.ends[own]))
            )
        yield _Task(folder / f"{number:05d}.tar", first, samples)


def _origins(task: _Task) -> Path:
    """The list beside a shard, which is written last."""
    return task.shard.with_suffix(".tsv")


def _write(task: _Task) -> int:
    lines = [HEADER]
    write_shard(task.shard, _renamed(task, lines))
    with write_whole(_origins(task)) as file:
        file.writelines(line.encode("utf-8", "backslashreplace") for line in lines)
    return len(task.samples)


def _renamed(task: _Task, lines: list[str]) -> Iterator[Mapping[str, str | bytes]]:
    for number, sample in enumerate(task.samples, start=task.first):
        fields: dict[str, Any] = read_range(sample.shard, sample.start, sample.end)
        key = f"{number:09d}"
        lines.append(f"{key}\t{sample.source}\t{sample.shard.name}\t{fields['__key__']}\n")
        yield {"__key__": key} | {k: v for k, v in fields.items() if not k.startswith("__")}
