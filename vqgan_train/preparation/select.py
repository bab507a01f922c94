"""`python -m vqgan_train.select`: select samples of several sources and copy them to new shards."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vqgan_train.config.checks import plain_settings
from vqgan_train.config.preparation import SelectConfig
from vqgan_train.metrics.faces import is_installed
from vqgan_train.preparation.command_report import publish_report, report_line, write_lines
from vqgan_train.preparation.sample_selection import (
    Selection,
    SourceCounts,
    SurveyedSource,
    select_samples,
)
from vqgan_train.preparation.selected_shards import write_selected_shards
from vqgan_train.preparation.survey import (
    SurveyRules,
    concat_surveys,
    survey_shards,
)
from vqgan_train.shards.index import ShardIndex, index_shards
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.job_file import open_job, require_free_or_same

NOT_IN_JOB = ("output", "num_workers")
"""Settings that may change when a command is resumed, because they do not change the samples."""


def select(config: SelectConfig) -> None:
    """Survey all sources, select samples, and write output/train, output/val and a report."""
    if config.people.detect_faces and not is_installed("dlib"):
        raise UserError(
            "people.detect_faces=true needs dlib, which is not installed: "
            "pip install 'vqgan_train[faces]'. Or set people.detect_faces=false."
        )
    output = Path(config.output).expanduser()
    paths = {name: expand_shards(patterns) for name, patterns in config.sources.items()}
    job = _describe_job(config, paths)
    require_free_or_same(output, job)
    shards = {name: index_shards(files) for name, files in paths.items()}
    sources = _survey(config, shards)
    selection = select_samples(
        sources,
        samples=config.samples,
        val_samples=config.val_samples,
        val_source=config.val_source,
        people_multiplier=config.people.multiplier,
        allow_fewer=config.allow_fewer,
        seed=config.seed,
    )
    open_job(output, job)
    write_selected_shards(
        {output / "train": selection.training, output / "val": selection.validation},
        [(name, index) for name, indices in shards.items() for index in indices],
        samples_per_shard=config.samples_per_shard,
        num_workers=config.num_workers,
    )
    publish_report(output, _report_lines(selection, sources, output))


def _describe_job(config: SelectConfig, paths: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Return everything that the written samples depend on."""
    settings = {k: v for k, v in plain_settings(config).items() if k not in NOT_IN_JOB}
    stamps = [(name, file_signature(path)) for name, files in paths.items() for path in files]
    return {"command": "select", "shards_fingerprint": fingerprint(stamps), **settings}


def _survey(
    config: SelectConfig, shards: Mapping[str, Sequence[ShardIndex]]
) -> list[SurveyedSource]:
    """Survey the shards of each source, with one progress bar for all."""
    people = config.people
    rules = SurveyRules(config.min_side, tuple(people.words), people.detect_faces)
    all_shards = [index for indices in shards.values() for index in indices]
    total = sum(index.num_samples for index in all_shards)
    with tqdm(total=total, desc="looking", unit="image") as bar:
        surveys = survey_shards(all_shards, rules, num_workers=config.num_workers, bar=bar)
        return [
            SurveyedSource(
                name, config.weights[name], concat_surveys(list(islice(surveys, len(indices))))
            )
            for name, indices in shards.items()
        ]


def _report_lines(
    selection: Selection, sources: Sequence[SurveyedSource], output: Path
) -> list[str]:
    """Report what each source held and gave, and list the unreadable samples in a file."""
    bad = [name for source in sources for name in source.survey.bad]
    lines = _table(selection.counts)
    if bad:
        file = write_lines(output / "unreadable.txt", bad)
        lines.append(report_line("unreadable", f"by name in {file}, for example {bad[0]}"))
    origins = f"{output}/*/*.tsv: source, shard and key of each sample"
    lines.append(report_line("origins", origins))
    settings = [f"data.train_shards='{output}/train/*.tar'"]
    if len(selection.validation):
        settings.append(f"data.val_shards='{output}/val/*.tar'")
    return [*lines, report_line("train with", " ".join(settings))]


def _table(counts: Mapping[str, SourceCounts]) -> list[str]:
    """Format the counts as a table with a column for each source and one for their sum."""
    heads = [*counts, "all"]
    width = max(10, *(len(head) + 2 for head in heads))
    lines = [report_line("", "".join(f"{head:>{width}}" for head in heads))]
    for field in fields(SourceCounts):
        numbers = [getattr(count, field.name) for count in counts.values()]
        row = "".join(f"{number:>{width}}" for number in [*numbers, sum(numbers)])
        lines.append(report_line(field.name.replace("_", " "), row))
    return lines
