"""Where a run begins: anew, from a checkpoint of its own, or where its parent stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.checkpoint import read_checkpoint
from vqgan_train.checkpoint_source import fetch_checkpoint
from vqgan_train.data.module import DATA_STATE
from vqgan_train.run_folder import (
    RunFolderError,
    holds_run,
    last_checkpoint,
    require_same_run,
    require_same_settings,
)
from vqgan_train.runtime import PROVENANCE, is_first_rank


class RunStart(NamedTuple):
    """What a run has behind it."""

    checkpoint: Path | None
    """The state to go on from. None: the run begins anew."""

    step: int
    """Optimizer steps."""

    data: Mapping[str, Any] | None
    """The data module's state."""

    parent: Mapping[str, Any] | None
    """What is known of the run that this one continues: `source`, `step`, `images`, `provenance`;
    in the latter its own parent."""


ANEW = RunStart(None, 0, None, None)


def find_start(
    output_dir: str | None, resume: str, parent: str | None, settings: Mapping[str, Any]
) -> RunStart:
    """Decide where the run begins; nothing is made or changed.

    Args:
        output_dir: the folder, or None for a new one.
        resume: auto, never, or the path of a checkpoint.
        parent: the checkpoint of the run that a folder without one of its own continues.
        settings: nested plain values, compared with those of the run that goes on.

    Raises:
        RunFolderError: the folder holds something else, or the checkpoint cannot be gone on from.
        CheckpointError: a checkpoint cannot be read or fetched.
    """
    folder = Path(output_dir) if output_dir else None
    held = is_first_rank() and folder is not None and holds_run(folder)
    if resume not in ("auto", "never"):
        return _from_given(Path(resume), folder if held else None, settings)
    if held and folder is not None:
        if resume == "never":
            raise RunFolderError(
                f"run.output_dir={folder} holds a run already, and run.resume=never. Choose "
                "another folder, or go on with run.resume=auto."
            )
        require_same_run(folder, settings)
    if resume == "auto" and folder is not None and last_checkpoint(folder).exists():
        return _going_on(last_checkpoint(folder), "run.output_dir")
    if parent is not None:
        return _from_parent(parent, settings)
    return ANEW


def _from_given(checkpoint: Path, folder: Path | None, settings: Mapping[str, Any]) -> RunStart:
    if not checkpoint.is_file():
        raise RunFolderError(
            f"run.resume={checkpoint} is neither auto, never, nor a checkpoint that exists."
        )
    if folder is not None and folder.resolve() not in checkpoint.resolve().parents:
        raise RunFolderError(
            f"run.output_dir={folder} holds another run than the one of run.resume={checkpoint}. "
            "Choose a new folder."
        )
    content = _read_run(checkpoint, "run.resume")
    stored = content[PROVENANCE]["config"]
    require_same_settings(f"run.resume={checkpoint} is of another run", stored, settings)
    return _start(checkpoint, content, content[PROVENANCE]["parent"])


def _going_on(checkpoint: Path, setting: str) -> RunStart:
    content = _read_run(checkpoint, setting)
    return _start(checkpoint, content, content[PROVENANCE]["parent"])


def _from_parent(source: str, settings: Mapping[str, Any]) -> RunStart:
    checkpoint = fetch_checkpoint(source, "run.parent")
    content = _read_run(checkpoint, "run.parent")
    _require_same_kind(source, content[PROVENANCE]["config"], settings)
    parent = {
        "source": source,
        "step": content["global_step"],
        "images": content[DATA_STATE]["position"],
        "provenance": content[PROVENANCE],
    }
    return _start(checkpoint, content, parent)


def _require_same_kind(source: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A run may train otherwise than its parent, but the same networks, in the same order of data.

    Raises:
        RunFolderError: the networks or the seed differ.
    """
    kinds = [
        {
            "run": {"seed": each["run"]["seed"]},
            "model": {name: each["model"][name] for name in ("architecture", "discriminator")},
        }
        for each in (stored, settings)
    ]
    require_same_settings(f"run.parent={source} cannot be continued like this", *kinds)


def _read_run(checkpoint: Path, setting: str) -> dict[str, Any]:
    content = read_checkpoint(checkpoint)
    if not {PROVENANCE, DATA_STATE, "global_step"} <= content.keys():
        raise RunFolderError(
            f"{setting}={checkpoint} holds no run of vqgan_train to go on with. To start from its "
            f"weights, set model.init_from={checkpoint}."
        )
    return content


def _start(
    checkpoint: Path, content: Mapping[str, Any], parent: Mapping[str, Any] | None
) -> RunStart:
    return RunStart(checkpoint, int(content["global_step"]), content[DATA_STATE], parent)
