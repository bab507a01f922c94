"""The model card of a release: the template card.md, filled from a run and from `CardMetadata`."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined

from vqgan_train.checkpoint.reading import CheckpointWeights
from vqgan_train.release.lineage import Lineage, TrainingRun
from vqgan_train.release.run_records import RunRecords
from vqgan_train.release.tables import has_same_validation, loss_table, validation_table
from vqgan_train.system.addresses import redact

TEMPLATE = "card.md"
LIBRARY = "vqgan_train"
TAGS = ("vqgan", "image-tokenizer", "taming-transformers", "pytorch", "jax")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_SCHEME = "hf://"
WEB_ADDRESS = re.compile(r"https?://[^\s()<>]+")
SAMPLE_PHOTOS = "the sample photos of scikit-image"
SECONDS_PER_HOUR, SECONDS_PER_MINUTE = 3600, 60


class Markdown(str):
    """Markdown that this project has put together, to be printed as it is."""


class CardMetadata(NamedTuple):
    """Facts for the model card that no run records; None or empty if the user gave none."""

    repository: str | None
    """Repository on the Hugging Face Hub, as USER/REPO."""

    license: str | None
    """License identifier of the Hub, such as `mit`; `other` for a license that it does not list."""

    license_name: str | None
    license_link: str | None
    datasets: Sequence[str]
    """Training datasets: names on the Hub, as USER/NAME, or free text."""

    hardware: str | None
    """Hardware that the model was trained on."""


class ReleasedModel(NamedTuple):
    """A model to release, with everything that its card is filled from."""

    lineage: Lineage
    records: tuple[RunRecords, ...]
    """Metrics and pictures of each run in `lineage.runs`."""

    networks: CheckpointWeights
    origin: Mapping[str, str]
    """`source` and `source_sha256`: file name and SHA-256 of the released checkpoint."""

    pictures: str | None
    """File name of the newest picture grid in the release; None if there is no grid."""


def model_card(model: ReleasedModel, metadata: CardMetadata) -> str:
    """Return the model card as Markdown with YAML front matter.

    Raises:
        lineage.METADATA_ERRORS, jinja2.UndefinedError: the checkpoint lacks metadata for the card.
    """
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=markdown_safe,  # of everything that the template prints
    )
    environment.filters.update(thousands="{:,}".format, compact="{:g}".format)
    template = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(
        front_matter=Markdown(front_matter(model.lineage, metadata).to_yaml()),
        metadata=metadata,
        datasets=[_dataset(name) for name in metadata.datasets],
        initial_weights=model.lineage.initial_weights,
        checkpoint=model.origin["source"],
        sha256=model.origin["source_sha256"],
        **_size(model.networks),
        **_images(model),
        **_training(model),
        **_evaluation(model),
    )


def front_matter(lineage: Lineage, metadata: CardMetadata) -> ModelCardData:
    """Collect the known metadata that the Hub reads from the head of a model card."""
    source = lineage.initial_weights or ""
    base = HUB_NAME.match(source.removeprefix(HUB_SCHEME))
    return ModelCardData(
        base_model=base[0] if base and source.startswith(HUB_SCHEME) else None,
        datasets=[name for name in metadata.datasets if HUB_NAME.fullmatch(name)] or None,
        library_name=LIBRARY,
        license=metadata.license,
        license_name=metadata.license_name,
        license_link=metadata.license_link,
        tags=list(TAGS),
    )


def markdown_safe(text: object) -> str:
    """Put text on one line, without the characters of links, tables, code and HTML.

    A checkpoint can come from anybody; its text must not add links or headings to the card. Only
    `Markdown` is left as it is.
    """
    if isinstance(text, Markdown):
        return text
    return " ".join(re.sub(r"[`<>|\[\]]", "", str(text)).split())


def _size(networks: CheckpointWeights) -> dict[str, Any]:
    """Reduction factor, shape of the codebook, and numbers of parameters in the weights."""

    def count(*prefixes: str) -> int:
        weights = networks.generator.items()
        return sum(weight.numel() for name, weight in weights if name.startswith(prefixes))

    num_codes, code_dim = networks.generator["quantizer.codebook.weight"].shape
    return {
        "factor": 2 ** (len(networks.architecture["channel_multipliers"]) - 1),
        "num_codes": num_codes,
        "code_dim": code_dim,
        "parameters": {
            "generator": count(""),
            "encoder": count("encoder."),
            "decoder": count("decoder."),
            "codebook": count("quantizer."),
            "projections": count("quant_conv.", "post_quant_conv."),
            # Batch norms also store running statistics, which are not parameters.
            "discriminator": sum(
                weight.numel()
                for name, weight in networks.discriminator.items()
                if "weight" in name or "bias" in name
            ),
        },
    }


def _images(model: ReleasedModel) -> dict[str, Any]:
    """Training and validation images of the last run, and images seen by all runs together."""
    last = model.lineage.runs[-1]
    data = last.settings["data"]
    unreadable = model.records[-1].last("data/bad_samples")
    return {
        "train_shards": _shards(data["train_shards"]),
        "train_images": last.data["train_images"],
        "images_seen": last.end.images,
        "is_drawn_with_replacement": data["sampling"] == "with_replacement",
        "val_shards": _shards(data["val_shards"]),
        "val_images": last.data["val_images"],
        "unreadable_samples": int(unreadable["data/bad_samples"]) if unreadable else None,
        "image_size": int(data["image_size"]),
    }


def _training(model: ReleasedModel) -> dict[str, Any]:
    """One section per run, and the duration of all runs if each one's metrics are available."""
    lineage, records = model.lineage, model.records
    runs = list(zip(lineage.runs, records, strict=True))
    seconds = [its_records.training_seconds(run.start.steps) for run, its_records in runs]
    return {
        "runs": [
            {
                "run": run,
                "learning_rates": its_records.values("train/learning_rate"),
                "has_metrics": its_records.metrics is not None,
                **_wandb_run(run),
            }
            for run, its_records in runs
        ],
        "last_learning_rate": lineage.learning_rate,
        "num_steps": lineage.runs[-1].end.steps,
        "duration": _duration(sum(seconds)) if all(seconds) else None,
    }


def _wandb_run(run: TrainingRun) -> dict[str, str]:
    url = run.wandb.get("url", "")
    names = (run.wandb.get(part) for part in ("entity", "project", "id"))
    return {
        # The URL is text from a checkpoint: link to web pages only, never to a `javascript:` URL.
        "wandb_url": url if WEB_ADDRESS.fullmatch(url) else "",
        "wandb_name": "/".join(name for name in names if name),
    }


def _evaluation(model: ReleasedModel) -> dict[str, Any]:
    lineage, records = model.lineage, model.records
    return {
        "validation_table": Markdown(validation_table(lineage, records) or ""),
        "has_other_validation": not all(
            has_same_validation(run, lineage.runs[-1]) for run in lineage.runs
        ),
        "loss_table": Markdown(loss_table(records) or ""),
        "pictures": model.pictures,
        "pictures_step": records[-1].pictures_step,
    }


def _shards(patterns: list[str] | None) -> str:
    """Names of the shards and of the folder they are in, without the path to that folder."""
    if patterns is None:
        return SAMPLE_PHOTOS
    names = ["/".join(PurePosixPath(redact(pattern)).parts[-2:]) for pattern in patterns]
    return Markdown(", ".join(f"`{markdown_safe(name)}`" for name in names))


def _dataset(name: str) -> str:
    if not HUB_NAME.fullmatch(name):
        return name
    return Markdown(f"[{name}](https://huggingface.co/datasets/{name})")


def _duration(seconds: float) -> str:
    if seconds >= SECONDS_PER_HOUR:
        return f"{seconds / SECONDS_PER_HOUR:,.1f} hours"
    if seconds >= SECONDS_PER_MINUTE:
        return f"{seconds / SECONDS_PER_MINUTE:.1f} minutes"
    return f"{seconds:.1f} seconds"
