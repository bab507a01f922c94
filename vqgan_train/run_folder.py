"""The folder of a run: whose it is, and where in the run to go on."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.cache import write_whole
from vqgan_train.checkpoint import read_checkpoint
from vqgan_train.runtime import is_first_rank

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"
CHECKPOINTS = "checkpoints"
PICTURES = "images"
OUTPUT_DIR_VARIABLE = "VQGAN_TRAIN_OUTPUT_DIR"
"""Tells the processes that the first rank launches which folder it chose."""

CHANGEABLE = re.compile(r"(?!run\.seed$)(run|trainer|logger)\.|data\.num_workers$")
"""Settings that may differ when a run goes on: how long and where, not what is trained on what.

The seed orders the data: with another one a run would repeat some samples and skip others.
"""

DIFFERENCES_SHOWN = 8


class RunFolderError(ValueError):
    """The output folder cannot be used; the message says why and what to do."""


class RunFolder(NamedTuple):
    """Where a run lives and what it starts from."""

    path: Path
    checkpoint: Path | None
    """The checkpoint to go on from."""

    step: int
    """Optimizer steps that it has behind it."""


def open_run(output_dir: str | None, resume: str, settings: Mapping[str, Any]) -> RunFolder:
    """Decide where the run lives and whether it goes on; make nothing yet but the new name.

    Args:
        output_dir: the folder, or None for a new one under runs/.
        resume: auto, never, or the path of a checkpoint.
        settings: nested plain values, compared with those of the run that a folder holds.

    Raises:
        RunFolderError: the folder holds something else, or the checkpoint cannot be gone on from.
    """
    path = Path(output_dir) if output_dir else None
    given = None if resume in ("auto", "never") else Path(resume)
    if is_first_rank():
        _check_folder(path, resume, settings, given)
    path = path or _new_folder()
    if given is not None:
        return _going_on(path, given)
    last = path / CHECKPOINTS / "last.ckpt"
    return _going_on(path, last if resume == "auto" and last.exists() else None)


@rank_zero_only
def start_folder(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Make the folder and write config.yaml, whole or not at all.

    A run that starts anew drops the metrics of one that died here before its first checkpoint.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    try:
        with write_whole(folder.path / CONFIG_FILE) as file:
            file.write(yaml.safe_dump(dict(settings), sort_keys=False).encode())
    except OSError as error:
        raise RunFolderError(
            f"run.output_dir={folder.path} cannot be written ({error.strerror}). Choose another."
        ) from error
    os.environ[OUTPUT_DIR_VARIABLE] = str(folder.path)
    if folder.checkpoint is None:
        (folder.path / METRICS_FILE).unlink(missing_ok=True)


def wandb_id(folder: Path) -> str:
    """The id of the folder's W&B run: drawn once, so that a resumed run goes on there."""
    if not is_first_rank():
        return ""  # only the first rank logs
    file = folder / "wandb_id"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()


def _check_folder(
    path: Path | None, resume: str, settings: Mapping[str, Any], given: Path | None
) -> None:
    holds_run = path is not None and _holds_run(path)
    if given is not None:
        _check_given(given, path if holds_run else None)
        stored = read_checkpoint(given)["vqgan_train"]["config"]
        _require_same(f"run.resume={given} is of another run", stored, settings)
    elif holds_run and resume == "never":
        raise RunFolderError(
            f"run.output_dir={path} holds a run already, and run.resume=never. Choose another "
            "folder, or go on with run.resume=auto."
        )
    elif holds_run and path is not None:
        stored = _read_settings(path / CONFIG_FILE)
        _require_same(f"run.output_dir={path} holds another run", stored, settings)


def _holds_run(path: Path) -> bool:
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / CONFIG_FILE).is_file():
        raise RunFolderError(
            f"run.output_dir={path} holds no run of vqgan_train, but "
            f"{', '.join(sorted(entry.name for entry in path.iterdir())[:5])}. "
            "Choose another folder."
        )
    return True


def _check_given(checkpoint: Path, run: Path | None) -> None:
    if not checkpoint.is_file():
        raise RunFolderError(
            f"run.resume={checkpoint} is neither auto, never, nor a checkpoint that exists."
        )
    if run is not None and run.resolve() not in checkpoint.resolve().parents:
        raise RunFolderError(
            f"run.output_dir={run} holds another run than the one of run.resume={checkpoint}. "
            "Choose a new folder."
        )
    if "vqgan_train" not in read_checkpoint(checkpoint):
        raise RunFolderError(
            f"run.resume={checkpoint} holds no run of vqgan_train to go on with. To start from its "
            f"weights, set model.init_from={checkpoint}."
        )


def _new_folder() -> Path:
    if not is_first_rank():  # it writes nothing
        return Path(os.environ.get(OUTPUT_DIR_VARIABLE, "runs"))
    stamp = datetime.now(UTC).astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        path = Path("runs") / (stamp if number == 1 else f"{stamp}-{number}")
        # Making it is what claims it: another run may start in the same second.
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("there is always a next number")


def _going_on(path: Path, checkpoint: Path | None) -> RunFolder:
    if checkpoint is None:
        return RunFolder(path, None, 0)
    return RunFolder(path, checkpoint, int(read_checkpoint(checkpoint)["global_step"]))


def _read_settings(file: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, Mapping):
        raise RunFolderError(f"{file} holds no settings of a run. Choose another run.output_dir.")
    return settings


def _require_same(problem: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    there, now = dict(_leaves(stored)), dict(_leaves(settings))
    different = [
        f"  {name}: {there.get(name, 'absent')} there, {now.get(name, 'absent')} now"
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name) and not CHANGEABLE.match(name)
    ]
    if different:
        more = len(different) - DIFFERENCES_SHOWN
        raise RunFolderError(
            f"{problem}:\n"
            + "\n".join(different[:DIFFERENCES_SHOWN])
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nChoose another folder, or set these as they were."
        )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
