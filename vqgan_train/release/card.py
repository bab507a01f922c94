"""The model card: what is known of a model, in the places of the template card.md."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import yaml

from vqgan_train.checkpoint import CheckpointWeights
from vqgan_train.release.choices import Choices
from vqgan_train.release.front_matter import HUB_NAME, front_matter, initial_weights
from vqgan_train.release.lineage import Lineage
from vqgan_train.release.part_card import part_of_card
from vqgan_train.release.run_records import Records
from vqgan_train.release.tables import has_same_validation, losses_table, validation_table
from vqgan_train.release.template import fill, inline, read_template
from vqgan_train.shards.remote.store import shown

SAMPLE_PHOTOS = "the sample photos of scikit-image"
SECONDS_AN_HOUR, SECONDS_A_MINUTE = 3600, 60


class Subject(NamedTuple):
    """What a card is about."""

    lineage: Lineage
    records: tuple[Records, ...]
    """Of each part."""

    networks: CheckpointWeights
    made_from: Mapping[str, str]
    """`source` and `source_sha256` of the checkpoint."""

    pictures: str | None
    """File of the newest pictures in the release."""


def model_card(subject: Subject, choices: Choices) -> str:
    """Write the card."""
    networks, lineage = subject.networks, subject.lineage
    factor = 2 ** (len(networks.architecture["channel_multipliers"]) - 1)
    codes, code_dim = networks.generator["quantizer.codebook.weight"].shape
    parts = zip(lineage.parts, subject.records, strict=True)
    values: dict[str, str | None] = {
        "front_matter": yaml.safe_dump(front_matter(lineage, choices), sort_keys=False).strip(),
        "title": f"VQGAN-f{factor}-{codes}",
        "factor": str(factor),
        "codes": f"{codes:,}",
        "code_dim": str(code_dim),
        "tokens_256": f"{(256 // factor) ** 2:,}",
        "tokens_512": f"{(512 // factor) ** 2:,}",
        "parts": "".join(
            part_of_card(
                part, its_records, lineage.learning_rate if part is lineage.parts[-1] else None
            )
            for part, its_records in parts
        ).strip(),
        "checkpoint": inline(subject.made_from["source"]),
        "sha256": subject.made_from["source_sha256"],
        **_parameters(networks),
        **_data(lineage, subject.records, choices),
        **_measured(subject),
        **_chosen(choices),
    }
    return fill(read_template("card.md"), values)


def _parameters(networks: CheckpointWeights) -> dict[str, str | None]:
    def count(*prefixes: str) -> str:
        weights = networks.generator.items()
        return f"{sum(weight.numel() for name, weight in weights if name.startswith(prefixes)):,}"

    trained = {
        name: w for name, w in networks.discriminator.items() if "weight" in name or "bias" in name
    }
    return {
        "parameters": count(""),
        "encoder": count("encoder."),
        "decoder": count("decoder."),
        "codebook": count("quantizer."),
        "projections": count("quant_conv.", "post_quant_conv."),
        "discriminator": f"{sum(weight.numel() for weight in trained.values()):,}"
        if trained
        else None,
    }


def _data(lineage: Lineage, records: Sequence[Records], choices: Choices) -> dict[str, str | None]:
    """Which images were seen, and how often."""
    last = lineage.parts[-1]
    images, train_images = last.end[1], last.data["train_images"]
    bad = records[-1].last("data/bad_samples")
    init_from = initial_weights(lineage)
    data = last.settings["data"]
    is_drawn_anew = data["sampling"] == "with_replacement"
    return {
        "initial_weights": f"`{init_from}`" if init_from else None,
        "datasets": "\n".join(f"* {_dataset(name)}" for name in choices.datasets) or None,
        "train_shards": _shards(data["train_shards"]),
        "val_shards": _shards(data["val_shards"]),
        "train_images": f"{train_images:,}",
        "val_images": f"{last.data['val_images']:,}",
        "images": f"{images:,}",
        "seen_once": "" if images <= train_images and not is_drawn_anew else None,
        "passes": f"{images / train_images:.4g}"
        if images > train_images and not is_drawn_anew
        else None,
        "bad_samples": f"{bad['data/bad_samples']:,.0f}" if bad else None,
        "image_size": str(data["image_size"]),
    }


def _measured(subject: Subject) -> dict[str, str | None]:
    """How well the model does, and how long that took."""
    parts, records = subject.lineage.parts, subject.records
    drawn = records[-1].pictures_step
    validation = validation_table(subject.lineage, records)
    is_other = any(not has_same_validation(part, parts[-1]) for part in parts)
    seconds = [
        its_records.training_seconds(part.start[0])
        for part, its_records in zip(parts, records, strict=True)
    ]
    return {
        "step": f"{parts[-1].end[0]:,}",
        "continued": "" if len(parts) > 1 else None,
        "duration": _duration(sum(seconds)) if all(seconds) else None,
        "validation": validation,
        "other_validation": "" if is_other else None,
        "losses": losses_table(records),
        "pictures": subject.pictures,
        "pictures_step": None if drawn is None else f"{drawn:,}",
    }


def _chosen(choices: Choices) -> dict[str, str | None]:
    """What somebody said."""
    grams = choices.emissions_grams
    repository = choices.repository
    return {
        "repository": repository,
        "directory": repository.split("/")[1] if repository else None,
        "license": choices.license,
        "license_identifier": None if choices.license_name else choices.license,
        "license_name": choices.license_name,
        "license_link": choices.license_link,
        "hardware": choices.hardware,
        "location": choices.location,
        "emissions": None if grams is None else f"{grams:,.15g}",
        "emissions_source": choices.emissions_source,
    }


def _shards(patterns: list[str] | None) -> str:
    """What the shards are called: their folder's name and their own, not where they lie."""
    if patterns is None:
        return SAMPLE_PHOTOS
    names = ["/".join(PurePosixPath(shown(pattern)).parts[-2:]) for pattern in patterns]
    return ", ".join(f"`{inline(name)}`" for name in names)


def _dataset(name: str) -> str:
    return f"[{name}](https://huggingface.co/datasets/{name})" if HUB_NAME.fullmatch(name) else name


def _duration(seconds: float) -> str:
    if seconds >= SECONDS_AN_HOUR:
        return f"{seconds / SECONDS_AN_HOUR:,.1f} hours"
    if seconds >= SECONDS_A_MINUTE:
        return f"{seconds / SECONDS_A_MINUTE:.1f} minutes"
    return f"{seconds:.1f} seconds"
