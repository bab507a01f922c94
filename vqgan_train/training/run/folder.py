"""The folder of a run: checked before anything is written, then held by one run at a time."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.system.errors import RunFolderError
from vqgan_train.system.files import remove_partial, write_atomically
from vqgan_train.system.locks import file_lock
from vqgan_train.system.path_errors import DISK_FULL, is_about
from vqgan_train.training.run.contents import (
    CHECKPOINTS,
    CONFIG_FILE,
    STOPPED_FILE,
    checkpoint_times,
)
from vqgan_train.training.run.logs import RankLog, is_first_rank
from vqgan_train.training.run.start import find_start

log = logging.getLogger(__name__)

OUTPUT_DIR_VARIABLE = "VQGAN_TRAIN_OUTPUT_DIR"
"""Environment variable that tells the ranks which folder the first one chose."""

CHECKPOINTS_AT_ONCE = 3
"""Checkpoints on disk at a time: last.ckpt, best.ckpt, and one that is being written."""

BYTES_PER_WEIGHT = 12
"""The weight and Adam's two moments, float32."""

LOCK_FILE = ".lock"
LOCK_SECONDS = 10
"""Time to wait for another run to leave the folder: one that was told to stop takes seconds."""


class RunFolder:
    """The folder of one run, from the first look at it until the run ends.

    Making the object only reads, so that errors that the user can fix are raised before anything is
    written. `opened` then takes the folder for this run alone.

    Args:
        output_dir: the configured folder; None: a new one under runs/.
        resume: `auto`, `never`, or the path of a checkpoint.
        parent: checkpoint of the run that a new folder continues; None: there is none.
        settings: nested plain values: all settings of this rank.

    Raises:
        RunFolderError: the folder cannot be used, or the run cannot resume from its checkpoint.
        CheckpointError: a checkpoint cannot be read or fetched.
    """

    def __init__(
        self, output_dir: str | None, *, resume: str, parent: str | None, settings: dict[str, Any]
    ) -> None:
        require_named_folder(os.environ, output_dir)
        self.settings = settings
        self._output_dir = output_dir
        self._path: Path | None = None
        self._checkpoints = checkpoint_times(Path(output_dir)) if output_dir else []
        self.start = find_start(output_dir, resume, parent, settings)
        """The state that the run starts from."""

    @property
    def path(self) -> Path:
        """The folder; known once `opened` is entered."""
        assert self._path is not None, "the folder is not open yet"
        return self._path

    @property
    def stored_settings(self) -> dict[str, Any]:
        """Settings for config.yaml and checkpoints: those given, with the folder's real path."""
        return {**self.settings, "run": {**self.settings["run"], "output_dir": str(self.path)}}

    @contextmanager
    def opened(self, rank_log: RankLog, num_weights: int) -> Iterator[None]:
        """Hold the folder: locked against other runs, with config.yaml and this run's log in it.

        Args:
            rank_log: log of this rank; the first rank's is written into the folder from here on.
            num_weights: number of trained parameters, which determines the size of checkpoints.

        Raises:
            RunFolderError: another run is in the folder, or has saved a checkpoint there since it
                was looked at; the folder cannot be written; or its disk is too small or gets full.
        """
        self._path = path = claim_folder(self._output_dir)
        with _explain_write_errors(path), lock_folder(path):
            require_no_newer_checkpoint(path, self._checkpoints)
            write_config(path, self.stored_settings)
            if is_first_rank():  # the others open theirs once they are told the folder
                rank_log.open(path)
            require_space(path, num_weights)
            yield


def require_named_folder(environment: Mapping[str, str], output_dir: str | None) -> None:
    """Check that a job that Slurm has started again can find its earlier folder.

    Raises:
        RunFolderError: the folder has no configured name, so the job would begin anew.
    """
    times = environment.get("SLURM_RESTART_COUNT", "0")
    if times != "0" and output_dir is None:
        raise RunFolderError(
            f"Slurm has started this job again (restarts: {times}), but run.output_dir=null is a "
            "new folder each time. Give the job a folder of its own, such as "
            "run.output_dir=runs/$SLURM_JOB_ID."
        )


def claim_folder(output_dir: str | None) -> Path:
    """Return the configured folder, or make a new one under runs/.

    Ranks other than the first make none. If the first rank started them, they return its folder;
    else they return runs/, and write nothing there.
    """
    if output_dir is not None:
        return Path(output_dir)
    if not is_first_rank():
        return Path(os.environ.get(OUTPUT_DIR_VARIABLE, "runs"))
    stamp = datetime.now(UTC).astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        path = Path("runs") / (stamp if number == 1 else f"{stamp}-{number}")
        # Making the folder claims it: another run may start in the same second.
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("there is always a next number")


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other runs out of a folder until this one has ended, however it ends.

    Raises:
        RunFolderError: another run is in the folder.
        OSError: the folder cannot be written.
    """
    if not is_first_rank():
        yield
        return
    path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        lock = file_lock(path / LOCK_FILE, "training in this folder", timeout=LOCK_SECONDS)
        try:
            has_locks = held.enter_context(lock)
        except TimeoutError as error:
            raise RunFolderError(
                f"run.output_dir={path} is in use by another run. Wait for it to end, stop it, or "
                "choose another folder."
            ) from error
        if not has_locks:
            log.warning(
                "WARNING: The disk of run.output_dir=%s has no file locks (flock), so another run "
                "in the same folder would not be noticed. Start only one at a time.",
                path,
            )
        yield


@rank_zero_only
def require_no_newer_checkpoint(path: Path, checkpoints: list[tuple[str, int]]) -> None:
    """Check that no other run saved a checkpoint since this one chose where to start.

    Args:
        path: the folder.
        checkpoints: result of `checkpoint_times` when this run decided where to start.

    Raises:
        RunFolderError: another run has, so this one would resume from an outdated checkpoint.
    """
    if checkpoint_times(path) != checkpoints:
        raise RunFolderError(
            f"Another run has changed the checkpoints in run.output_dir={path} since this run "
            "began. Give the same command again: it resumes from the newest one."
        )


@rank_zero_only
def write_config(path: Path, settings: Mapping[str, Any]) -> None:
    """Remove leftovers of earlier processes, write config.yaml, and tell other ranks the folder."""
    remove_partial(path)
    (path / STOPPED_FILE).unlink(missing_ok=True)
    with write_atomically(path / CONFIG_FILE) as file:
        os.fchmod(file.fileno(), 0o600)  # it has the secrets of addresses
        file.write(yaml.safe_dump(dict(settings), sort_keys=False).encode())
    os.environ[OUTPUT_DIR_VARIABLE] = str(path)


@rank_zero_only
def require_space(path: Path, num_weights: int) -> None:
    """Check that the checkpoints of a run fit onto its disk.

    Args:
        path: the run's folder.
        num_weights: number of trained parameters.

    Raises:
        RunFolderError: the disk has too little space left.
    """
    kept = sum(file.stat().st_size for file in (path / CHECKPOINTS).glob("*.ckpt"))
    needed = CHECKPOINTS_AT_ONCE * BYTES_PER_WEIGHT * num_weights - kept
    free = shutil.disk_usage(path).free
    if free < needed:
        raise RunFolderError(
            f"The checkpoints of this run take {needed / 1e9:.1f} GB more, but the disk of "
            f"run.output_dir={path} has {free / 1e9:.1f} GB left. Make room, or take another disk."
        )


@contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    """Explain an error of writing a file in the folder, such as a checkpoint or a picture.

    Other OSErrors pass: they may be defects of ours, and keep their traceback.

    Raises:
        RunFolderError: the folder's disk is full, or a file in it cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        # Errors of writing to an open file name no file; only a full or broken disk causes them.
        is_disk = error.filename is None and error.errno in (*DISK_FULL, errno.EIO)
        if not is_disk and not is_about(error, path):
            raise
        file = "" if error.filename in (None, str(path)) else f": {error.filename}"
        raise RunFolderError(
            f"run.output_dir={path} cannot be written ({error.strerror}{file}). Make room there, "
            "or correct its permissions; the same command then resumes from the newest checkpoint."
        ) from error
