"""The training runs that produced a model, as its checkpoint records them."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.system.addresses import map_texts, redact
from vqgan_train.system.errors import UserError
from vqgan_train.training.run.provenance import PROVENANCE
from vqgan_train.training.run.saved_state import DATA_STATE

MAX_RUNS = 100
"""Longest accepted chain of runs. A damaged checkpoint can name itself as its own parent."""

UNCOMMITTED_SUFFIX = "-dirty"
"""Suffix of a git revision whose checkout had uncommitted changes."""

OUTSIDE = ("/", "~", "../", "file:/")
"""Starts of paths that may name users and folders of a machine."""

METADATA_ERRORS = (ArithmeticError, LookupError, TypeError, AttributeError, ValueError)
"""Exceptions raised when metadata in a checkpoint is missing or has an unexpected type."""


def incomplete_metadata(checkpoint: Path, cause: Exception) -> UserError:
    """Return the error for a run's checkpoint whose metadata does not suffice for a model card.

    Args:
        checkpoint: path of the checkpoint.
        cause: exception raised while reading the metadata.
    """
    return UserError(
        f"{checkpoint} lacks metadata for the model card, or has it in an unexpected form "
        f"({type(cause).__name__}: {cause}). Another version of vqgan_train probably wrote it. Use "
        "that version, or export only the weights, for example with format=safetensors."
    )


class Progress(NamedTuple):
    """Training progress, counted from the first step of the first run."""

    steps: int
    """Training steps; each updates the generator and the discriminator once."""

    images: int
    """Training images seen; an image seen twice counts twice."""


class TrainingRun(NamedTuple):
    """One training run; the model card calls it Part 1, Part 2, and so on."""

    number: int
    """Position in the chain of runs, starting at 1."""

    checkpoint: Path
    """Checkpoint from which the next run continued, or which is released; it may be gone."""

    start: Progress
    end: Progress
    settings: dict[str, Any]
    """Configuration of the run, by group."""

    data: dict[str, Any]
    """Numbers and fingerprints of the training and validation images."""

    git_revision: str
    """Commit of the training code; empty if unknown."""

    has_uncommitted_changes: bool
    """Whether the training code differed from `git_revision`."""

    packages: dict[str, str]
    """Versions of the installed packages, by name."""

    wandb: dict[str, str]
    """`entity`, `project`, `id` and `url` of the W&B run; empty if W&B was not used."""

    @property
    def num_steps(self) -> int:
        """Training steps of this run alone."""
        return self.end.steps - self.start.steps

    @property
    def num_images(self) -> int:
        """Training images that this run alone has seen."""
        return self.end.images - self.start.images

    def public_settings(self) -> dict[str, Any]:
        """Copy the settings without secrets, and of absolute paths only the last name."""
        public: dict[str, Any] = map_texts(_public_text, self.settings)
        return public


class Lineage(NamedTuple):
    """Chain of training runs that produced a checkpoint."""

    runs: tuple[TrainingRun, ...]
    """Runs in the order of training; at least one."""

    first_validation: dict[str, float]
    """Validation metrics before the first training step, by log name."""

    learning_rate: float
    """Learning rate of the last run, after scaling."""

    @property
    def initial_weights(self) -> str | None:
        """Publishable name of the weights that training started from; None if they were random.

        A local path is reduced to its file name; an address loses user, password, query and hash.
        """
        source = self.runs[0].settings["model"]["init_from"]
        if source is None:
            return None
        if "://" in source:
            return redact(source).partition("#")[0]
        return PurePosixPath(source).name


def read_lineage(checkpoint: Path) -> Lineage:
    """Read the chain of training runs from a checkpoint.

    Raises:
        CheckpointError: the file cannot be read.
        UserError: the checkpoint was not saved by a run of vqgan_train, lacks metadata, or records
            more than `MAX_RUNS` runs.
    """
    content = read_checkpoint(checkpoint)
    del content["state_dict"]
    if PROVENANCE not in content or DATA_STATE not in content:
        raise UserError(
            f"{checkpoint} holds weights but no record of a vqgan_train run, so a model card "
            "cannot be written. Give last.ckpt or best.ckpt of a run, or export only the weights, "
            "for example with format=safetensors."
        )
    try:
        last = {
            "source": str(checkpoint),
            "step": content["global_step"],
            "images": content[DATA_STATE]["position"],
            "provenance": content[PROVENANCE],
        }
        return Lineage(
            runs=_training_runs(list(_records_from_last(last))[::-1]),
            first_validation={
                n: float(v) for n, v in content["callbacks"]["Summary"]["first"].items()
            },
            learning_rate=float(content["hyper_parameters"]["optimizer"]["lr"]),
        )
    except METADATA_ERRORS as error:
        raise incomplete_metadata(checkpoint, error) from error


def _records_from_last(last: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the record of the last run, then its parent's, up to the first run."""
    record: Mapping[str, Any] | None = last
    for _ in range(MAX_RUNS + 1):
        if record is None:
            return
        yield record
        record = record["provenance"]["parent"]
    raise ValueError(f"it records more than {MAX_RUNS} consecutive runs")


def _training_runs(records: list[Mapping[str, Any]]) -> tuple[TrainingRun, ...]:
    runs: list[TrainingRun] = []
    for number, record in enumerate(records, 1):
        provenance = record["provenance"]
        revision = str(provenance["git_revision"])
        runs.append(
            TrainingRun(
                number=number,
                checkpoint=Path(record["source"]),
                start=runs[-1].end if runs else Progress(0, 0),
                end=Progress(int(record["step"]), int(record["images"])),
                settings=dict(provenance["config"]),
                data=dict(provenance["data"]),
                git_revision=revision.removesuffix(UNCOMMITTED_SUFFIX),
                has_uncommitted_changes=revision.endswith(UNCOMMITTED_SUFFIX),
                packages=dict(provenance["packages"]),
                wandb=dict(provenance.get("wandb") or {}),
            )
        )
    return tuple(runs)


def _public_text(text: str) -> str:
    shown = redact(text)
    return f".../{PurePosixPath(shown).name}" if shown.startswith(OUTSIDE) else shown
