"""Files in a run's folder: their names, and checks that they belong to this run."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.system.errors import RunFolderError
from vqgan_train.system.files import write_atomically
from vqgan_train.training.run.logs import is_first_rank
from vqgan_train.training.run.settings_comparison import require_same_settings

CONFIG_FILE = "config.yaml"
CURVES_FILE = "curves.png"
WANDB_ID_FILE = "wandb_id"
CHECKPOINTS = "checkpoints"
PICTURES = "images"
PROFILES = "profile"

STOPPED_FILE = "stopped"
"""File that exists from when the run was told to stop, and saved its state, until it resumes."""


def last_checkpoint(folder: Path) -> Path:
    """Return the path of a run's newest checkpoint."""
    return folder / CHECKPOINTS / "last.ckpt"


def best_checkpoint(folder: Path) -> Path:
    """Return the path of a run's best checkpoint."""
    return folder / CHECKPOINTS / "best.ckpt"


def checkpoint_times(folder: Path) -> list[tuple[str, int]]:
    """List the checkpoints in a run's folder with their modification times, in nanoseconds."""
    files = (folder / CHECKPOINTS).glob("*.ckpt")
    return sorted((file.name, file.stat().st_mtime_ns) for file in files)


def holds_run(path: Path) -> bool:
    """Return whether a folder holds a run; an empty or missing folder does not.

    Raises:
        RunFolderError: the folder holds other files, but no config.yaml.
    """
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / CONFIG_FILE).is_file():
        raise RunFolderError(
            f"run.output_dir={path} holds no run of vqgan_train, but other files, such as "
            f"{', '.join(sorted(entry.name for entry in path.iterdir())[:5])}. "
            "Choose another folder."
        )
    return True


def require_same_run(path: Path, settings: Mapping[str, Any]) -> None:
    """Check that the run in a folder is the one that the settings describe.

    Raises:
        RunFolderError: the run in the folder has other settings, or its config.yaml is unreadable.
    """
    file = path / CONFIG_FILE
    try:
        stored = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        stored = None
    if not isinstance(stored, Mapping):
        raise RunFolderError(f"{file} holds no settings of a run. Choose another run.output_dir.")
    advice = "Choose another folder, or set these as they were."
    require_same_settings(f"run.output_dir={path} holds another run", stored, settings, advice)


@rank_zero_only
def mark_stopped(path: Path, reason: str) -> None:
    """Write a file that tells scripts to start the same command again.

    The exit code cannot tell them, because srun and torchrun replace the ranks' codes by their own.
    """
    with write_atomically(path / STOPPED_FILE) as file:
        file.write(f"{reason}\n".encode())


def wandb_id(folder: Path) -> str:
    """Return the id of the folder's W&B run, which a resumed run keeps; empty on other ranks."""
    if not is_first_rank():
        return ""  # only the first rank logs
    file = folder / WANDB_ID_FILE
    if not file.exists():
        with write_atomically(file) as written:
            written.write(secrets.token_hex(4).encode())
    return file.read_text()
