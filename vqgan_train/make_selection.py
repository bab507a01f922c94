"""Select samples of several sources: look at each once, choose, copy what was chosen."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqgan_train.config import SelectConfig, plain_settings
from vqgan_train.data import ShardIndex, expand_shards, index_shards
from vqgan_train.preparation.choosing import Source, Wanted, choose
from vqgan_train.preparation.job import fingerprint, open_job, require_free_or_same, stamp
from vqgan_train.preparation.people import require_face_detector
from vqgan_train.preparation.report import chosen, write_report
from vqgan_train.preparation.selection import SourceShard, write_selection
from vqgan_train.preparation.survey import SurveyRules, joined, survey_shards

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
    stamps = [(name, stamp(path)) for name, own in paths.items() for path in own]
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
