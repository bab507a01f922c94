"""Where a run begins: anew, from a checkpoint of its own, or where its parent stopped."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.checkpoint import read_checkpoint
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.system.errors import CheckpointError
from vqgan_train.training.data.data_module import DATA_STATE, DATA_STATE_KEYS
from vqgan_train.training.run.folder import (
    RunFolderError,
    best_checkpoint,
    holds_run,
    last_checkpoint,
    require_same_run,
    require_same_settings,
)
from vqgan_train.training.run.logs import is_first_rank
from vqgan_train.training.run.provenance import PROVENANCE

log = logging.getLogger(__name__)


class RunStart(NamedTuple):
    """What a run has behind it."""

    is_new: bool
    """Whether the run itself has made no step yet: it begins anew, or where its parent stopped."""

    checkpoint: Path | None
    """The state to go on from. None: there is none."""

    step: int
    """Optimizer steps, the parent's included."""

    data: Mapping[str, Any] | None
    """The data module's state."""

    parent: Mapping[str, Any] | None
    """What is known of the run that this one continues: `source`, `step`, `images`, `provenance`;
    in the latter its own parent."""


ANEW = RunStart(True, None, 0, None, None)

STATE = {
    "global_step": int,
    "optimizer_states": list,
    "warm_step": int,
    PROVENANCE: dict,
    DATA_STATE: dict,
}
"""What a checkpoint must hold for a run to go on from it, beside the weights."""


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
    own = _newest_of(folder) if resume == "auto" and folder is not None else None
    if own is not None:
        return own
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
    require_same_settings(
        f"run.resume={checkpoint} is of another run",
        content[PROVENANCE]["config"],
        settings,
        "Set these as they were.",
    )
    return _going_on(checkpoint, content)


def _newest_of(folder: Path) -> RunStart | None:
    """The newest state in a run's folder that can be read; None if none was written yet.

    Raises:
        RunFolderError: there are some, and none can be read.
    """
    written = [path for path in (last_checkpoint(folder), best_checkpoint(folder)) if path.exists()]
    states, damaged = [], []
    for path in written:
        try:
            states.append(_going_on(path, _read_run(path, "run.output_dir")))
        except (CheckpointError, RunFolderError) as error:
            log.warning("WARNING: passed over %s: %s", path, error)
            damaged.append(str(path))
    if damaged and not states:
        raise RunFolderError(
            f"{' and '.join(damaged)} cannot be read, and there is nothing else to go on from. "
            "Restore a copy, or move them away to begin the run anew."
        )
    return max(states, key=lambda state: state.step, default=None)


def _going_on(checkpoint: Path, content: Mapping[str, Any]) -> RunStart:
    parent = content[PROVENANCE]["parent"]
    return RunStart(False, checkpoint, content["global_step"], content[DATA_STATE], parent)


def _from_parent(source: str, settings: Mapping[str, Any]) -> RunStart:
    checkpoint = fetch_checkpoint(source, "run.parent")
    content = _read_run(checkpoint, "run.parent")
    step, data, provenance = (content[key] for key in ("global_step", DATA_STATE, PROVENANCE))
    require_same_settings(
        f"run.parent={source} cannot be continued like this",
        _what_must_stay(provenance["config"]),
        _what_must_stay(settings),
        f"Set these as they were, or start from its weights alone: model.init_from={source}.",
    )
    images = data["position"]
    parent = {"source": source, "step": step, "images": images, "provenance": provenance}
    return RunStart(True, checkpoint, step, data, parent)


def _what_must_stay(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run may train otherwise than its parent, but the same networks, in the same data order."""
    run, model = settings.get("run", {}), settings.get("model", {})
    return {
        "run": {"seed": run.get("seed")},
        "model": {name: model.get(name) for name in ("architecture", "discriminator")},
    }


def _read_run(checkpoint: Path, setting: str) -> dict[str, Any]:
    content = read_checkpoint(checkpoint)
    is_whole = all(isinstance(content.get(key), kind) for key, kind in STATE.items())
    if not (
        is_whole
        and content["optimizer_states"]
        and {"config", "parent"} <= content[PROVENANCE].keys()
        and content[DATA_STATE].keys() >= DATA_STATE_KEYS
    ):
        raise RunFolderError(
            f"{setting}={checkpoint} holds no run of vqgan_train to go on with. To start from its "
            f"weights, set model.init_from={checkpoint}."
        )
    return content
