"""The runs that made a model, as its checkpoint remembers them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.checkpoint import read_checkpoint
from vqgan_train.release.errors import NOT_THERE, HolesError, ReleaseError
from vqgan_train.training.data.data_module import DATA_STATE
from vqgan_train.training.run.provenance import PROVENANCE

MOST_PARTS = 100
"""A file may say that a run continued itself."""


class Part(NamedTuple):
    """One run."""

    number: int
    """From 1 up: Part 1, Part 2, ..."""

    checkpoint: Path
    """The file that the next part, or the model, was made from. It need not be there any more."""

    start: tuple[int, int]
    """Steps and images of the parts before."""

    end: tuple[int, int]
    """Likewise, with this one's."""

    settings: dict[str, Any]
    data: dict[str, Any]
    """Counts and fingerprints of images."""

    git_revision: str
    packages: dict[str, str]
    wandb: dict[str, str]
    """`entity`, `project`, `id` and `url`; empty if W&B was not used."""


class Lineage(NamedTuple):
    """All that a checkpoint says of how it came about."""

    parts: tuple[Part, ...]
    """From Part 1 on; at least one."""

    first_validation: dict[str, float]
    """Metrics before the first step of Part 1, by name."""

    learning_rate: float
    """That the last part used."""


def read_lineage(checkpoint: Path) -> Lineage:
    """Read what made a checkpoint.

    Raises:
        CheckpointError: the file cannot be read.
        ReleaseError: it is not of a run of ours.
    """
    content = read_checkpoint(checkpoint)
    del content["state_dict"]
    if PROVENANCE not in content or DATA_STATE not in content:
        raise ReleaseError(
            f"{checkpoint} holds weights but no run of vqgan_train, so there is nothing to fill a "
            "model card from. Give last.ckpt or best.ckpt of a run, or export the weights alone: "
            "format=safetensors, for one."
        )
    try:
        last = {
            "source": str(checkpoint),
            "step": content["global_step"],
            "images": content[DATA_STATE]["position"],
            "provenance": content[PROVENANCE],
        }
        links = list(_chain(last))[::-1]
        return Lineage(
            parts=tuple(
                _part(number, before, link)
                for number, (before, link) in enumerate(zip([None, *links], links, strict=False), 1)
            ),
            first_validation={
                n: float(v) for n, v in content["callbacks"]["Summary"]["first"].items()
            },
            learning_rate=float(content["hyper_parameters"]["optimizer"]["lr"]),
        )
    except NOT_THERE as error:
        raise HolesError(checkpoint, error) from error


def _chain(link: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The last run, the one that it continued, and so on."""
    following: Mapping[str, Any] | None = link
    for _ in range(MOST_PARTS):
        if following is None:
            return
        yield following
        following = following["provenance"]["parent"]
    raise ValueError(f"more than {MOST_PARTS} runs after one another")


def _part(number: int, before: Mapping[str, Any] | None, link: Mapping[str, Any]) -> Part:
    made_by = link["provenance"]
    return Part(
        number=number,
        checkpoint=Path(link["source"]),
        start=(0, 0) if before is None else (int(before["step"]), int(before["images"])),
        end=(int(link["step"]), int(link["images"])),
        settings=dict(made_by["config"]),
        data=dict(made_by["data"]),
        git_revision=str(made_by["git_revision"]),
        packages=dict(made_by["packages"]),
        wandb=dict(made_by.get("wandb") or {}),
    )
