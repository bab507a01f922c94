"""Where a run starts: from nothing, from its own checkpoint, or from its parent's."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.system.addresses import redact_all
from vqgan_train.system.errors import CheckpointError, RunFolderError
from vqgan_train.training.run.contents import (
    best_checkpoint,
    holds_run,
    last_checkpoint,
    require_same_run,
)
from vqgan_train.training.run.logs import is_first_rank
from vqgan_train.training.run.provenance import PROVENANCE
from vqgan_train.training.run.saved_state import DATA_STATE, is_resumable, read_state
from vqgan_train.training.run.settings_comparison import require_same_settings

log = logging.getLogger(__name__)


class RunStart(NamedTuple):
    """State that a run starts from."""

    is_new: bool
    """Whether the run itself has made no step yet; its parent may have."""

    checkpoint: Path | None
    """Checkpoint of the run or its parent to resume from; None: there is none."""

    step: int
    """Optimizer steps so far, the parent's included."""

    data: Mapping[str, Any] | None
    """State of the data module; None: training begins with the first sample."""

    parent: Mapping[str, Any] | None
    """Run that this one continues: `source`, `step`, `images`, `provenance`, which names the
    parent's own parent. None: there is none."""


ANEW = RunStart(True, None, 0, None, None)


def find_start(
    output_dir: str | None, resume: str, parent: str | None, settings: Mapping[str, Any]
) -> RunStart:
    """Decide where the run starts; write nothing.

    Args:
        output_dir: the configured folder; None: a new one.
        resume: `auto`, `never`, or the path of a checkpoint.
        parent: checkpoint that the run continues if its own folder holds none.
        settings: nested plain values, compared with those of the run to resume.

    Raises:
        RunFolderError: the folder holds another run or other files, or the run cannot resume from
            the checkpoint.
        CheckpointError: a checkpoint cannot be read or fetched.
    """
    folder = Path(output_dir) if output_dir else None
    is_held = is_first_rank() and folder is not None and holds_run(folder)
    if resume not in ("auto", "never"):
        return _from_configured(Path(resume), folder if is_held else None, settings)
    if is_held and folder is not None:
        if resume == "never":
            raise RunFolderError(
                f"run.output_dir={folder} holds a run already, and run.resume=never. Choose "
                "another folder, or resume with run.resume=auto."
            )
        require_same_run(folder, settings)
    newest = _newest_in(folder) if resume == "auto" and folder is not None else None
    if newest is not None:
        return newest
    if parent is not None:
        return _from_parent(parent, settings)
    return ANEW


def _from_configured(
    checkpoint: Path, folder: Path | None, settings: Mapping[str, Any]
) -> RunStart:
    if not checkpoint.is_file():
        raise RunFolderError(
            f"run.resume={checkpoint} is neither auto nor never, and no such file exists."
        )
    if folder is not None and folder.resolve() not in checkpoint.resolve().parents:
        raise RunFolderError(
            f"run.output_dir={folder} holds a run, but run.resume={checkpoint} is not in that "
            "folder. Choose a new folder, or a checkpoint of that run."
        )
    content = _read_resumable(checkpoint, "run.resume")
    require_same_settings(
        f"run.resume={checkpoint} was trained with other settings",
        content[PROVENANCE]["config"],
        settings,
        "Set these as they were.",
    )
    return _resumed_from(checkpoint, content)


def _newest_in(folder: Path) -> RunStart | None:
    """Find the newest readable state in a run's folder; None if none was written yet.

    Raises:
        RunFolderError: there are checkpoints, and none of them can be read.
    """
    written = [path for path in (last_checkpoint(folder), best_checkpoint(folder)) if path.exists()]
    starts, damaged = [], []
    for path in written:
        try:
            starts.append(_resumed_from(path, _read_resumable(path, "run.output_dir")))
        except (CheckpointError, RunFolderError) as error:
            log.warning("WARNING: skipped the unreadable checkpoint %s: %s", path, error)
            damaged.append(str(path))
    if damaged and not starts:
        raise RunFolderError(
            f"{' and '.join(damaged)} cannot be read, and there is nothing else to resume from. "
            "Restore a copy, or move them away to begin the run anew."
        )
    return max(starts, key=lambda start: start.step, default=None)


def _resumed_from(checkpoint: Path, content: Mapping[str, Any]) -> RunStart:
    parent = content[PROVENANCE]["parent"]
    return RunStart(False, checkpoint, content["global_step"], content[DATA_STATE], parent)


def _from_parent(source: str, settings: Mapping[str, Any]) -> RunStart:
    checkpoint = fetch_checkpoint(source, "run.parent")
    content = _read_resumable(checkpoint, "run.parent")
    step, data, provenance = (content[key] for key in ("global_step", DATA_STATE, PROVENANCE))
    require_same_settings(
        f"run.parent={source} was trained with other settings",
        _shared_with_parent(provenance["config"]),
        _shared_with_parent(settings),
        f"Set these as they were, or start from its weights alone: model.init_from={source}.",
    )
    images = data["position"]
    parent = {"source": source, "step": step, "images": images, "provenance": provenance}
    parent = redact_all(parent)  # a parent of an earlier version may record secrets
    return RunStart(True, checkpoint, step, data, parent)


def _shared_with_parent(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a run must share with its parent: networks, trained part and seed.

    Adam's state belongs to the trained part, and the seed orders the data.
    """
    run, model = settings.get("run", {}), settings.get("model", {})
    names = ("architecture", "discriminator", "trained")
    return {
        "run": {"seed": run.get("seed")},
        "model": {name: model[name] for name in names if name in model},
    }


def _read_resumable(checkpoint: Path, setting: str) -> dict[str, Any]:
    content = read_state(checkpoint)
    if not is_resumable(content):
        raise RunFolderError(
            f"{checkpoint} ({setting}) holds no state of a run of vqgan_train to resume from. To "
            f"start from its weights alone, set model.init_from={checkpoint}."
        )
    return content
