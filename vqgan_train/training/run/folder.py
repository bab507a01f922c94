"""The folder of a run: whose it is, what it holds, and the settings that it was started with."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import remove_partial, write_atomically
from vqgan_train.training.run.logs import is_first_rank

CONFIG_FILE = "config.yaml"
CURVES_FILE = "curves.png"
WANDB_ID_FILE = "wandb_id"
CHECKPOINTS = "checkpoints"
PICTURES = "images"
PROFILES = "profile"
STOPPED_FILE = "stopped"
"""There if the run saved its state because it was told to stop, and has not gone on since."""

OUTPUT_DIR_VARIABLE = "VQGAN_TRAIN_OUTPUT_DIR"
"""Tells the processes that the first rank launches which folder it chose."""

CHANGEABLE = re.compile(
    r"(?!run\.(seed|parent)$)(run|trainer|logger)\.|data\.(num_workers|train_shards|val_shards"
    r"|cache_dir|cache_gb|stall_seconds|attempts)$"
)
"""Settings that may differ when a run goes on: how long and where, not what is trained on what.

The seed orders the data: with another one a run would repeat some samples and skip others. Shards
may have moved; whether they are the same ones is told by their fingerprint.
"""

CHECKPOINTS_AT_ONCE = 3
BYTES_A_WEIGHT = 12
"""last, best and one in the making; float32, and Adam's two moments."""

DIFFERENCES_SHOWN = 8


class RunFolderError(UserError):
    """The output folder cannot be used; the message says why and what to do."""


def last_checkpoint(folder: Path) -> Path:
    """Where a run keeps its newest state."""
    return folder / CHECKPOINTS / "last.ckpt"


def best_checkpoint(folder: Path) -> Path:
    """Where a run keeps its best state."""
    return folder / CHECKPOINTS / "best.ckpt"


def holds_run(path: Path) -> bool:
    """Whether a folder is that of a run; one that is empty or not there is not.

    Raises:
        RunFolderError: it holds something else.
    """
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / CONFIG_FILE).is_file():
        raise RunFolderError(
            f"run.output_dir={path} holds no run of vqgan_train, but "
            f"{', '.join(sorted(entry.name for entry in path.iterdir())[:5])}. "
            "Choose another folder."
        )
    return True


def require_same_run(path: Path, settings: Mapping[str, Any]) -> None:
    """Check that the run in a folder is the one that the settings describe.

    Raises:
        RunFolderError: it is another one.
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


def require_same_settings(
    problem: str, stored: Mapping[str, Any], settings: Mapping[str, Any], advice: str
) -> None:
    """Check that two runs' settings differ in nothing but what is `CHANGEABLE`.

    Args:
        problem: the beginning of the message.
        stored: nested plain values.
        settings: likewise, of the run that is to go on.
        advice: the end of the message.

    Raises:
        RunFolderError: they do; the message names each with both values.
    """
    different = different_settings(stored, settings, CHANGEABLE)
    if different:
        raise RunFolderError(f"{problem}:\n{differences(different, 'there', 'now')}\n{advice}")


def different_settings(
    one: Mapping[str, Any], other: Mapping[str, Any], may_differ: re.Pattern[str]
) -> dict[str, tuple[Any, Any]]:
    """Both values of each setting that differs and may not, by its name."""
    first, second = dict(_leaves(one)), dict(_leaves(other))
    both = {
        name: (first.get(name, "absent"), second.get(name, "absent"))
        for name in sorted(first.keys() | second.keys())
        if not may_differ.match(name)
    }
    return {name: (there, here) for name, (there, here) in both.items() if there != here}


def differences(different: Mapping[str, tuple[Any, Any]], one: str, other: str) -> str:
    """A line for each of the first few settings, and how many more there are.

    Args:
        different: of `different_settings`.
        one: where the first value is.
        other: where the second is.
    """
    lines = [
        f"  {name}: {there} {one}, {here} {other}" for name, (there, here) in different.items()
    ]
    more = len(lines) - DIFFERENCES_SHOWN
    return "\n".join(lines[:DIFFERENCES_SHOWN]) + (f"\n  and {more} more" if more > 0 else "")


def require_named_folder(environment: Mapping[str, str], output_dir: str | None) -> None:
    """Check that a job that Slurm has started again knows where it was.

    Raises:
        RunFolderError: it would begin anew.
    """
    times = environment.get("SLURM_RESTART_COUNT", "0")
    if times != "0" and output_dir is None:
        raise RunFolderError(
            f"Slurm has started this job again ({times} times so far), but run.output_dir=null is "
            "a new folder each time. Give the job a folder of its own, such as "
            "run.output_dir=runs/$SLURM_JOB_ID."
        )


def claim_folder(output_dir: str | None) -> Path:
    """The folder of the run: the one given, or a new one under runs/, which is made at once."""
    if output_dir is not None:
        return Path(output_dir)
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


def not_writable(path: Path, error: OSError) -> RunFolderError:
    """What to say of a folder that cannot be written."""
    return RunFolderError(
        f"run.output_dir={path} cannot be written ({error.strerror}). Choose another."
    )


@rank_zero_only
def require_space(path: Path, num_weights: int) -> None:
    """Check that the checkpoints of a run fit onto its disk.

    Args:
        path: the run's folder.
        num_weights: parameters that are trained.

    Raises:
        RunFolderError: they do not.
    """
    kept = sum(file.stat().st_size for file in (path / CHECKPOINTS).glob("*.ckpt"))
    needed = CHECKPOINTS_AT_ONCE * BYTES_A_WEIGHT * num_weights - kept
    free = shutil.disk_usage(path).free
    if free < needed:
        raise RunFolderError(
            f"The checkpoints of this run take {needed / 1e9:.1f} GB, and the disk of "
            f"run.output_dir={path} has {free / 1e9:.1f} GB left. Make room, or choose another."
        )


@rank_zero_only
def start_folder(path: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and write config.yaml, whole or not at all; clear what a kill left behind.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    try:
        remove_partial(path)
        (path / STOPPED_FILE).unlink(missing_ok=True)
        with write_atomically(path / CONFIG_FILE) as file:
            file.write(yaml.safe_dump(dict(settings), sort_keys=False).encode())
    except OSError as error:
        raise not_writable(path, error) from error
    os.environ[OUTPUT_DIR_VARIABLE] = str(path)


@rank_zero_only
def mark_stopped(path: Path, why: str) -> None:
    """Leave a file that says that the same command is to go on.

    What srun and torchrun make of the ranks' exit codes does not tell.
    """
    with write_atomically(path / STOPPED_FILE) as file:
        file.write(f"{why}\n".encode())


def wandb_id(folder: Path) -> str:
    """The id of the folder's W&B run: drawn once, so that a resumed run goes on there."""
    if not is_first_rank():
        return ""  # only the first rank logs
    file = folder / WANDB_ID_FILE
    if not file.exists():
        with write_atomically(file) as written:
            written.write(secrets.token_hex(4).encode())
    return file.read_text()


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node


LOCK_FILE = ".lock"
LOCK_SECONDS = 10
"""A job that was ended may need some to go."""


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other runs out of a folder until this one has ended, however it ends.

    Raises:
        RunFolderError: another run is in it, or it cannot be written.
    """
    if not is_first_rank():
        yield
        return
    lock = FileLock(path / LOCK_FILE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise RunFolderError(
            f"run.output_dir={path} is in use by another run. Wait for it to end, stop it, or "
            "choose another folder."
        ) from error
    except OSError as error:
        raise not_writable(path, error) from error
    try:
        yield
    finally:
        (path / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def saved_states(output_dir: str | None) -> list[tuple[str, int]]:
    """Names and times of the checkpoints in a folder."""
    folder = Path(output_dir or os.devnull) / CHECKPOINTS
    return sorted((file.name, file.stat().st_mtime_ns) for file in folder.glob("*.ckpt"))


@rank_zero_only
def require_unmoved(path: Path, saved: list[tuple[str, int]]) -> None:
    """Check that no other run has saved in a folder since it was looked at.

    Raises:
        RunFolderError: one has, and this one would go on from what is no longer the newest.
    """
    if saved_states(str(path)) != saved:
        raise RunFolderError(
            f"Another run has saved its last state in run.output_dir={path} while this one waited "
            "for it. The same command again goes on from there."
        )
