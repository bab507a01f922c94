"""Shards of selected samples, copied from the shards of their sources."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.shards.index import ShardIndex, read_range
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.files import write_atomically
from vqgan_train.system.workers import run_tasks

HEADER = "key\tsource\tshard\tkey_there\n"
"""Columns of the origin list beside a shard: new key; source, shard and key it was copied from."""


class _Sample(NamedTuple):
    """Where a sample is: its source, its shard and its bytes in that shard."""

    source: str
    shard: Path
    start: int
    end: int


class _Task(NamedTuple):
    """One shard to write."""

    shard: Path
    first: int
    """Number of the first sample in the folder; the numbers become the keys."""

    samples: list[_Sample]


def write_selected_shards(
    selected: Mapping[Path, NDArray[np.int64]],
    shards: Sequence[tuple[str, ShardIndex]],
    *,
    samples_per_shard: int,
    num_workers: int,
) -> None:
    """Copy samples into shards 00000.tar, 00001.tar, ..., each with a list of origins beside it.

    Shards of an earlier run are kept.

    Args:
        selected: numbers of the samples of each output folder, counted through `shards`.
        shards: all shards of all sources, each with the name of its source.
        samples_per_shard: size of every shard except the last of a folder.
        num_workers: processes; 0 copies in this one.

    Raises:
        ShardError, OSError: a shard has changed since it was indexed, or cannot be read or written.
    """
    tasks = (
        task
        for folder, samples in selected.items()
        for task in _tasks(samples, shards, folder, samples_per_shard)
    )
    with tqdm(total=sum(map(len, selected.values())), desc="copying", unit="image") as bar:
        for num_samples in run_tasks(_write_unless_done, tasks, num_workers=num_workers):
            bar.update(num_samples)


def _tasks(
    selected: NDArray[np.int64],
    shards: Sequence[tuple[str, ShardIndex]],
    folder: Path,
    samples_per_shard: int,
) -> Iterator[_Task]:
    firsts = np.cumsum([0, *(shard.num_samples for _, shard in shards)])
    for number, first in enumerate(range(0, len(selected), samples_per_shard)):
        samples = []
        for sample in selected[first : first + samples_per_shard]:
            shard_number = int(np.searchsorted(firsts, sample, side="right")) - 1
            source, index = shards[shard_number]
            position = int(sample - firsts[shard_number])
            start, end = int(index.starts[position]), int(index.ends[position])
            samples.append(_Sample(source, index.path, start, end))
        yield _Task(folder / f"{number:05d}.tar", first, samples)


def _write_unless_done(task: _Task) -> int:
    # The origin list is written last, so it marks the shard done.
    origins = task.shard.with_suffix(".tsv")
    if not origins.exists():
        lines = [HEADER]
        write_shard(task.shard, _copies(task, lines))
        with write_atomically(origins) as file:
            file.writelines(line.encode("utf-8", "backslashreplace") for line in lines)
    return len(task.samples)


def _copies(task: _Task, lines: list[str]) -> Iterator[Mapping[str, str | bytes]]:
    """Yield the samples under new keys, and append each one's origin to `lines`."""
    for number, sample in enumerate(task.samples, start=task.first):
        fields: dict[str, Any] = read_range(sample.shard, sample.start, sample.end)
        key = f"{number:09d}"
        lines.append(f"{key}\t{sample.source}\t{sample.shard.name}\t{fields['__key__']}\n")
        yield {"__key__": key} | {k: v for k, v in fields.items() if not k.startswith("__")}
