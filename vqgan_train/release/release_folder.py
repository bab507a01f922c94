"""The folder of a release: weights in three formats, model card, settings, metrics and pictures."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import UndefinedError

from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.metrics.history import METRICS_FILE
from vqgan_train.release.atomic_export import atomic_export
from vqgan_train.release.card import CardMetadata, ReleasedModel, model_card
from vqgan_train.release.conversion import (
    Conversion,
    origin_of,
    read_complete_networks,
    write_verified,
)
from vqgan_train.release.lineage import (
    METADATA_ERRORS,
    TrainingRun,
    incomplete_metadata,
    read_lineage,
)
from vqgan_train.release.run_records import RunRecords, find_records
from vqgan_train.training.run.contents import CONFIG_FILE

CARD = "README.md"
PICTURES = "pictures.png"
TRAINING = "training"
WEIGHT_FORMATS = ("safetensors", "flax", "taming")
"""Formats of the weights. diffusers is left out, because Flax has a config.json too."""


class Release(NamedTuple):
    """A release that was written."""

    folder: Path
    files: tuple[str, ...]
    """Names of the files, relative to `folder`."""

    conversions: Mapping[str, Conversion]
    """Conversion of the weights, by format."""

    num_runs: int
    num_runs_with_metrics: int


def write_release(
    checkpoint: Path, folder: Path, metadata: CardMetadata, *, has_pictures: bool
) -> Release:
    """Write the weights, settings, metrics and model card of a trained model.

    The weights are read back and compared before the release is kept.

    Args:
        checkpoint: checkpoint of a run of vqgan_train.
        folder: output folder, created if missing; a different file in it is never overwritten.
        metadata: facts for the card that no run records.
        has_pictures: whether to publish the newest grid of validation images, if there is one.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its weights are no VQGAN's or not finite.
        UserError: the checkpoint was not saved by a run, or lacks metadata.
        ExportError: `folder` is a file or holds a different file of the same name, or the written
            weights or their results differ from the checkpoint's. Nothing is kept.
    """
    lineage = read_lineage(checkpoint)
    records = tuple(find_records(run) for run in lineage.runs)
    with atomic_export(folder) as partial:
        networks = read_complete_networks(checkpoint)
        origin = origin_of(checkpoint)
        conversions = {
            name: write_verified(networks, origin, FORMATS[name], partial)
            for name in WEIGHT_FORMATS
        }
        for run, its_records in zip(lineage.runs, records, strict=True):
            _write_run(run, its_records, partial / TRAINING / f"part{run.number}")
        pictures = records[-1].pictures if has_pictures else None
        if pictures is not None:
            shutil.copyfile(pictures, partial / PICTURES)
        picture_name = None if pictures is None else PICTURES
        model = ReleasedModel(lineage, records, networks, origin, picture_name)
        try:
            card = model_card(model, metadata)
        except (*METADATA_ERRORS, UndefinedError) as error:
            raise incomplete_metadata(checkpoint, error) from error
        (partial / CARD).write_text(card, encoding="utf-8")
        files = sorted(str(f.relative_to(partial)) for f in partial.rglob("*") if f.is_file())
    return Release(
        folder=folder,
        files=tuple(files),
        conversions=conversions,
        num_runs=len(records),
        num_runs_with_metrics=sum(its_records.metrics is not None for its_records in records),
    )


def _write_run(run: TrainingRun, records: RunRecords, folder: Path) -> None:
    folder.mkdir(parents=True)
    settings = yaml.safe_dump(run.public_settings(), sort_keys=False)
    (folder / CONFIG_FILE).write_text(settings, encoding="utf-8")
    if records.metrics is not None:
        shutil.copyfile(records.metrics, folder / METRICS_FILE)
