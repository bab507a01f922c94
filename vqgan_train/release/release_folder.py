"""The folder of a release: written, read back, compared, and only then kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vqgan_train.checkpoint import FORMATS
from vqgan_train.metrics.history import METRICS_FILE
from vqgan_train.release.card import Subject, model_card
from vqgan_train.release.choices import Choices
from vqgan_train.release.conversion import Conversion, origin, whole_networks, write_compared
from vqgan_train.release.errors import NOT_THERE, HolesError
from vqgan_train.release.front_matter import front_matter
from vqgan_train.release.lineage import Part, read_lineage
from vqgan_train.release.privacy import public_settings
from vqgan_train.release.run_records import Records, find_records
from vqgan_train.release.whole_export import whole_export
from vqgan_train.system.errors import ExportError
from vqgan_train.training.run.contents import CONFIG_FILE

CARD = "README.md"
PICTURES = "pictures.png"
TRAINING = "training"
WEIGHTS = ("safetensors", "flax", "taming")
"""Formats whose files can lie in one folder: for torch, for DALL-E mini, and to train on from."""

FENCE = "---\n"


class Release(NamedTuple):
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    """Names in the folder."""

    conversions: Mapping[str, Conversion]
    """By format."""

    num_parts: int
    num_parts_with_metrics: int


def write_release(checkpoint: Path, folder: Path, choices: Choices) -> Release:
    """Write the weights of a run, what it was made from, what was measured, and a model card.

    Args:
        checkpoint: of a run of ours.
        folder: where to; what is there is never overwritten.
        choices: what no run knows.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not hold all of a tokenizer.
        ReleaseError: it is not of a run.
        ExportError: `folder` holds something else, or what was written is not what was read. Then
            nothing is left of it.
    """
    lineage = read_lineage(checkpoint)
    records = tuple(find_records(part) for part in lineage.parts)
    with whole_export(folder) as partial:
        networks = whole_networks(checkpoint)
        made_from = origin(checkpoint)
        conversions = {
            name: write_compared(networks, made_from, FORMATS[name], partial) for name in WEIGHTS
        }
        for part, its_records in zip(lineage.parts, records, strict=True):
            _write_part(part, its_records, partial / TRAINING / f"part{part.number}")
        pictures = _copy(records[-1].pictures, partial / PICTURES)
        subject = Subject(lineage, records, networks, made_from, pictures)
        try:
            card, matter = model_card(subject, choices), front_matter(lineage, choices)
        except NOT_THERE as error:
            raise HolesError(checkpoint, error) from error
        _write_card(card, matter, partial / CARD)
        files = sorted(str(f.relative_to(partial)) for f in partial.rglob("*") if f.is_file())
    return Release(
        folder=folder,
        files=tuple(files),
        conversions=conversions,
        num_parts=len(records),
        num_parts_with_metrics=sum(its_records.metrics is not None for its_records in records),
    )


def _write_part(part: Part, records: Records, folder: Path) -> None:
    folder.mkdir(parents=True)
    file = folder / CONFIG_FILE
    settings = public_settings(part.settings)
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    _require(yaml.safe_load(file.read_text()) == settings, file)
    _copy(records.metrics, folder / METRICS_FILE)


def _copy(source: Path | None, target: Path) -> str | None:
    """Copy what there is; the name of the copy."""
    if source is None:
        return None
    content = source.read_bytes()  # once: a run that goes on adds to its metrics
    target.write_bytes(content)
    _require(target.read_bytes() == content, target)
    return target.name


def _write_card(card: str, expected: Mapping[str, Any], file: Path) -> None:
    file.write_text(card, encoding="utf-8")
    written = file.read_text(encoding="utf-8")
    before, matter, _ = written.split(FENCE, 2)
    _require(written == card and not before and yaml.safe_load(matter) == expected, file)


def _require(holds: bool, file: Path) -> None:
    if not holds:
        raise ExportError(
            f"{file.name} does not hold what was to be written. It was not kept. That is a defect "
            "of vqgan_train or of the disk; please report it."
        )
