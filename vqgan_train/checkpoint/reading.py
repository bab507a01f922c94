"""Reading checkpoints: our own, taming's where torch reads them safely, safetensors.

Nothing here runs code from a file: `torch.load(weights_only=True)` and safetensors only.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqgan_train.checkpoint.architecture import generator_architecture
from vqgan_train.checkpoint.names import to_ours

GENERATOR = "generator."
PERCEPTUAL = "loss.perceptual_loss."
"""LPIPS, which the original stores in its checkpoints and we never do."""


class CheckpointError(ValueError):
    """A file cannot be used as a checkpoint; the message says why and what to do."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, memory-mapped where the format allows.

    Returns:
        A dictionary with at least `state_dict`, its weights under the file's own names.

    Raises:
        CheckpointError: the file is missing, is no checkpoint, or holds more than tensors and plain
            containers.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}. Check the path.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise CheckpointError(
            f"{path} holds no state_dict, but {sorted(map(str, content))[:8]}. "
            "A checkpoint of this model has one, or is one."
        )
    return {**content, "state_dict": weights} if weights is not content else {"state_dict": weights}


def read_generator(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the tokenizer of a checkpoint.

    Returns:
        The arguments of `VQGAN` and its weights under our names.

    Raises:
        CheckpointError: as `read_checkpoint`, or the weights are not those of a VQGAN.
    """
    checkpoint = read_checkpoint(path)
    ours = weights_under_our_names(checkpoint["state_dict"], path)
    weights = {
        name.removeprefix(GENERATOR): w for name, w in ours.items() if name.startswith(GENERATOR)
    }
    try:
        found = generator_architecture(weights)
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: {error} is not among its {len(weights)} weights."
        ) from error
    return {**found, **checkpoint.get("hyper_parameters", {}).get("model", {})}, weights


def weights_under_our_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Translate a file's weights, all but LPIPS.

    Raises:
        CheckpointError: a name is neither the generator's nor the discriminator's.
    """
    try:
        return to_ours({n: w for n, w in weights.items() if not n.startswith(PERCEPTUAL)})
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds a weight named {error}, which taming's VQModel does not have. "
            "Is it a checkpoint of another model?"
        ) from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        # Files from before torch 1.6 are no zip archives, and only those can be mapped.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # a damaged pickle fails in any way, KeyError included
        raise CheckpointError(
            f"{path} was not read: it is damaged, no checkpoint, or holds objects other than "
            f"tensors and plain containers ({_reason(error)})."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    return content


def _reason(error: Exception) -> str:
    """What torch found, without its advice to load the file in ways that run what is in it."""
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return f"an object of {foreign[1]}"
    if isinstance(error, pickle.UnpicklingError):
        return "not a pickle of tensors"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}).") from error
