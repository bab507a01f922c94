"""The folder of a run: whose it is, and where in the run to go on."""

import os
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.checkpoint import read_checkpoint
from vqgan_train.runtime import is_first_rank

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"
CHECKPOINTS = "checkpoints"
PICTURES = "images"
OUTPUT_DIR_VARIABLE = "VQGAN_TRAIN_OUTPUT_DIR"
"""Tells the processes that the first rank launches which folder it chose."""

CHANGEABLE = ("run.", "trainer.", "logger.", "data.num_workers")
"""Settings that may differ when a run goes on: how long and where, not what is trained on what."""

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
    """Decide where the run lives and whether it goes on; make nothing yet.

    Args:
        output_dir: the folder, or None for a new one under runs/.
        resume: auto, never, or the path of a checkpoint.
        settings: nested plain values, compared with those of the run that a folder holds.

    Raises:
        RunFolderError: the folder holds something else, or the checkpoint does not exist.
    """
    path = Path(output_dir) if output_dir else _new_folder()
    last = path / CHECKPOINTS / "last.ckpt"
    if not is_first_rank():
        return _going_on(path, last if resume == "auto" else None)
    if resume not in ("auto", "never"):
        return _going_on(path, _given_checkpoint(path, Path(resume)))
    if not path.exists() or not any(path.iterdir()):
        return _going_on(path, None)
    if not (path / CONFIG_FILE).is_file():
        raise RunFolderError(
            f"run.output_dir={path} holds no run of vqgan_train, but "
            f"{', '.join(sorted(entry.name for entry in path.iterdir())[:5])}. "
            "Choose another folder."
        )
    if resume == "never":
        raise RunFolderError(
            f"run.output_dir={path} holds a run already, and run.resume=never. Choose another "
            "folder, or go on with run.resume=auto."
        )
    _require_same(path, settings)
    return _going_on(path, last)


@rank_zero_only
def start_folder(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Make the folder and write config.yaml, whole or not at all.

    A run that starts anew drops the metrics of one that died here before its first checkpoint.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    partial = folder.path / f"{CONFIG_FILE}.partial"
    partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    partial.replace(folder.path / CONFIG_FILE)
    os.environ[OUTPUT_DIR_VARIABLE] = str(folder.path)
    if folder.checkpoint is None:
        (folder.path / METRICS_FILE).unlink(missing_ok=True)


def wandb_id(folder: Path) -> str:
    """The id of the folder's W&B run: drawn once, so that a resumed run goes on there."""
    file = folder / "wandb_id"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()


def _new_folder() -> Path:
    if not is_first_rank() and OUTPUT_DIR_VARIABLE in os.environ:
        return Path(os.environ[OUTPUT_DIR_VARIABLE])
    stamp = datetime.now(UTC).astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    number, path = 1, Path("runs") / stamp
    while path.exists():
        number += 1
        path = Path("runs") / f"{stamp}-{number}"
    path.mkdir(parents=True)
    return path


def _going_on(path: Path, checkpoint: Path | None) -> RunFolder:
    if checkpoint is None or not checkpoint.exists():
        return RunFolder(path, None, 0)
    return RunFolder(path, checkpoint, int(read_checkpoint(checkpoint)["global_step"]))


def _given_checkpoint(path: Path, checkpoint: Path) -> Path:
    if not checkpoint.is_file():
        raise RunFolderError(
            f"run.resume={checkpoint} is neither auto, never, nor a checkpoint that exists."
        )
    if (path / CONFIG_FILE).exists() and path.resolve() not in checkpoint.resolve().parents:
        raise RunFolderError(
            f"run.output_dir={path} holds another run than the one of run.resume={checkpoint}. "
            "Choose a new folder."
        )
    return checkpoint


def _require_same(path: Path, settings: Mapping[str, Any]) -> None:
    stored = dict(_leaves(yaml.safe_load((path / CONFIG_FILE).read_text())))
    now = dict(_leaves(settings))
    different = [
        f"  {name}: {stored.get(name, 'absent')} there, {now.get(name, 'absent')} now"
        for name in sorted(stored.keys() | now.keys())
        if stored.get(name) != now.get(name) and not name.startswith(CHANGEABLE)
    ]
    if different:
        raise RunFolderError(
            f"run.output_dir={path} holds another run:\n"
            + "\n".join(different[:DIFFERENCES_SHOWN])
            + "\nChoose another folder, or set these as they were."
        )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
