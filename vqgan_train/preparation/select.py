"""Chosen samples, copied into new shards, with a list beside each that says where from."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.config import SelectConfig, plain_settings
from vqgan_train.preparation.choosing import Source, Wanted, choose
from vqgan_train.preparation.command_report import chosen, write_report
from vqgan_train.preparation.survey import SurveyRules, joined, require_face_detector, survey_shards
from vqgan_train.shards.index import ShardIndex, index_shards, read_range
from vqgan_train.shards.naming import expand_shards
from vqgan_train.shards.writing import write_shard
from vqgan_train.system.files import file_signature, fingerprint, write_atomically
from vqgan_train.system.jobs import open_job, require_free_or_same
from vqgan_train.system.workers import run_tasks

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
    with write_atomically(_origins(task)) as file:
        file.writelines(line.encode("utf-8", "backslashreplace") for line in lines)
    return len(task.samples)


def _renamed(task: _Task, lines: list[str]) -> Iterator[Mapping[str, str | bytes]]:
    for number, sample in enumerate(task.samples, start=task.first):
        fields: dict[str, Any] = read_range(sample.shard, sample.start, sample.end)
        key = f"{number:09d}"
        lines.append(f"{key}\t{sample.source}\t{sample.shard.name}\t{fields['__key__']}\n")
        yield {"__key__": key} | {k: v for k, v in fields.items() if not k.startswith("__")}


HOW = ("output", "num_workers")
"""Settings that change where and how fast, and not what is written."""


def make_selection(config: SelectConfig) -> None:
    """Write output/train and output/val, and say exactly what they hold."""
    output = Path(config.output).expanduser()
    if config.people.detect_faces:
        require_face_detector()
    paths = {name: expand_shards(patterns) for name, patterns in config.sources.items()}
    job = job_of(config, paths)
    require_free_or_same(output, job)
    shards = {name: index_shards(own) for name, own in paths.items()}
    sources = survey(config, shards)
    choice = choose(sources, wanted_of(config))
    open_job(output, job)
    copy(config, {output / "train": choice.training, output / "val": choice.validation}, shards)
    lines = chosen(choice, sources, output)
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")


def job_of(config: SelectConfig, paths: dict[str, list[Path]]) -> dict[str, Any]:
    """All that the shards depend on."""
    settings = {name: value for name, value in plain_settings(config).items() if name not in HOW}
    stamps = [(name, file_signature(path)) for name, own in paths.items() for path in own]
    return {"command": "select", "shards_fingerprint": fingerprint(stamps), **settings}


def wanted_of(config: SelectConfig) -> Wanted:
    """What to choose."""
    return Wanted(
        samples=config.samples,
        val_samples=config.val_samples,
        val_source=config.val_source,
        people_multiplier=config.people.multiplier,
        allow_fewer=config.allow_fewer,
        seed=config.seed,
    )


def survey(config: SelectConfig, shards: dict[str, list[ShardIndex]]) -> list[Source]:
    """Look at every sample of every source."""
    people = config.people
    rules = SurveyRules(config.min_side, tuple(people.words), people.detect_faces)
    every = [index for own in shards.values() for index in own]
    total = sum(len(index.starts) for index in every)
    with tqdm(total=total, desc="looking", unit="image") as bar:
        surveys = survey_shards(every, rules, num_workers=config.num_workers, bar=bar)
        return [
            Source(name, config.weights[name], joined(list(islice(surveys, len(own)))))
            for name, own in shards.items()
        ]


def copy(
    config: SelectConfig,
    chosen: dict[Path, NDArray[np.int64]],
    shards: dict[str, list[ShardIndex]],
) -> None:
    """Write the chosen samples into the folders they are meant for."""
    every = [SourceShard(name, index) for name, own in shards.items() for index in own]
    with tqdm(total=sum(map(len, chosen.values())), desc="copying", unit="image") as bar:
        write_selection(
            chosen,
            every,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            bar=bar,
        )
