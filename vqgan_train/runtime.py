"""The process a run happens in: its log, its devices, where its code came from."""

import logging
import os
import pickle
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.checkpoint import CheckpointError, write_atomically

RECORDED_PACKAGES = (
    "vqgan_train",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "webdataset",
    "numpy",
)


PROVENANCE = "vqgan_train"
"""Where a checkpoint says what made it."""


class DeviceError(ValueError):
    """The device that was asked for is not here."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints: a crash leaves a whole file, and reading one runs nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside, sync, rename."""
        write_atomically(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read tensors and plain values.

        Raises:
            CheckpointError: the file holds something else, which is not run.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, so a run does not go on from "
                f"it. To start from its weights, set model.init_from={path}."
            ) from error
        return content


def configure_logging() -> None:
    """Send our log to the terminal, from the first rank only, and hush Lightning's advice."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if is_first_rank() else logging.ERROR)
    package = logging.getLogger("vqgan_train")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)  # each rank has a file of its own, too
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for shown in logger.handlers:
            shown.setLevel(logging.WARNING if is_first_rank() else logging.ERROR)
    # Lightning 2.6 asks torch 2.14 in a way that later versions will not answer.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # Wherever Slurm is installed, used or not; what matters of it ranks/launch.py checks.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # The progress bar shows the loader's wait; a general advice for more workers helps no CPU.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # What is logged in validation was summed over ranks by the module itself.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # torch 2.14 deprecates switching it off, which is still the only way to do without.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")


def is_first_rank() -> bool:
    """Whether this process speaks and writes for all."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def require_devices(accelerator: str, devices: int | str) -> int:
    """Check that the machine has what was asked for.

    Returns:
        How many devices a node that is: for auto all GPUs, or one process on a CPU.

    Raises:
        DeviceError: it has not.
    """
    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and gpus == 0:
        raise DeviceError(
            "trainer.accelerator=gpu, but torch finds no GPU here"
            f" (torch {torch.__version__}, CUDA build {torch.version.cuda}). "
            "Check nvidia-smi and the driver, or take trainer.accelerator=cpu."
        )
    on_gpus = gpus > 0 and accelerator in ("auto", "gpu")
    if on_gpus and isinstance(devices, int) and devices > gpus:
        raise DeviceError(
            f"trainer.devices={devices}, but torch finds {gpus} GPUs here. Lower it, or "
            "check CUDA_VISIBLE_DEVICES."
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("trainer.accelerator=mps, but this is no Apple GPU. Take auto or cpu.")
    if isinstance(devices, int):
        return devices
    return gpus if on_gpus else 1


def require_precision(accelerator: str, precision: str) -> None:
    """Check that a GPU computes in bf16 itself, if that is asked of it.

    Raises:
        DeviceError: it would only emulate it, slower than fp32.
    """
    if precision != "bf16-mixed" or accelerator not in ("auto", "gpu"):
        return
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError(
            f"trainer.precision=bf16, but {torch.cuda.get_device_name()} has no arithmetic for it. "
            "Take trainer.precision=fp16, or fp32."
        )


def require_gpus(accelerator: str, setting: str) -> None:
    """Check that a setting that only GPUs know is used on them.

    Raises:
        DeviceError: it is not.
    """
    if accelerator in ("auto", "gpu") and torch.cuda.device_count() > 0:
        return
    raise DeviceError(
        f"{setting} needs GPUs (torch's SyncBatchNorm refuses anything else), but "
        f"trainer.accelerator={accelerator} means none here. Set it to false, or train on GPUs."
    )


def first_line(error: Exception) -> str:
    """The first line of what an error of a library says."""
    return next(filter(None, map(str.strip, str(error).splitlines())), repr(error))


def set_clock(trainer: Trainer, step: int) -> None:
    """Make a trainer count on from an optimizer step, as if it had made the steps before.

    Lightning's own loop state says where inside its hooks a checkpoint was written, and resuming
    from some of those places repeats or skips a validation. Ours are written between two steps,
    where one number says everything.
    """
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_batches_that_stepped"), "this Lightning counts steps in another place"
    loop._batches_that_stepped = step
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.batch_progress.total.ready = step * trainer.accumulate_grad_batches


def provenance(
    settings: dict[str, Any], data: dict[str, Any], parent: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What made a checkpoint: settings, data, git revision, versions and the run before.

    Args:
        settings: nested plain values.
        data: plain values that describe the data.
        parent: what is known of the run that this one continues, its own provenance included.
    """
    return {
        "config": settings,
        "data": data,
        "parent": None if parent is None else dict(parent),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "command": sys.argv,
    }


def _git_revision() -> str:
    """The checkout's commit, marked if it was changed since; empty outside of one."""
    home = Path(__file__).parents[1]
    # An installed package may lie inside of somebody else's repository.
    if _git("rev-parse", "--show-toplevel") != str(home.resolve()):
        return ""
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str:
    """What git answers about the folder of this file; empty if there is no git or no repository."""
    try:
        output = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.stdout.strip()
