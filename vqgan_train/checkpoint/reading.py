"""Read checkpoints of any supported format as data, without running code that a file names."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vqgan_train.checkpoint.architecture import (
    ASSUMED_ARGUMENTS,
    architecture_differences,
    generator_architecture,
)
from vqgan_train.checkpoint.diffusers import CODEBOOK, from_diffusers, is_diffusers
from vqgan_train.checkpoint.file_kind import FileKind, file_kind
from vqgan_train.checkpoint.flax import read_flax_msgpack
from vqgan_train.checkpoint.model_configs import TrainingSettings, read_training
from vqgan_train.checkpoint.torch_files import read_torch_legacy, read_torch_zip
from vqgan_train.checkpoint.unpickling import StandIn, printable_text
from vqgan_train.checkpoint.weight_names import to_original, to_ours
from vqgan_train.checkpoint.wrapped_weights import STATE_DICT, take_weights
from vqgan_train.system.errors import CheckpointError

log = logging.getLogger(__name__)

GENERATOR = "generator."
DISCRIMINATOR = "discriminator."
BATCH_NORM_COUNTER = ".num_batches_tracked"
PERCEPTUAL = "loss.perceptual_loss."
"""Prefix of LPIPS' weights, which taming-transformers stores in its checkpoints; we do not."""

FLOATS: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FLOATS += (torch.float8_e4m3fn, torch.float8_e5m2)
"""Types of numbers that are converted to float32, to the values that torch gives them."""

MAX_SHARING = 2
"""Maximum ratio of the weights' bytes to the file's. Weights may share bytes in the file, but their
copies in memory must not be much larger than it."""

MAX_LEVELS, MAX_SETTING = 100, 2**31
"""Limits of a recorded architecture; settings beyond them are those of another program."""

MAX_DEPTH = 50
"""Nesting depth down to which settings are converted; real settings are less deep."""

OTHER_MODELS = {
    "encoder.conv_blocks.": "of LlamaGen's tokenizer, whose network is another",
    ".norm_layer.": "of a MoVQ (Kandinsky), whose decoder also takes the codes in its norms",
    "quantize.embed.": "of a VQGAN with Gumbel quantization (f8), another model",
    "loss.logvar": "of a KL-VAE, which has no codebook",
    "encoder.down_blocks.": "of a model of diffusers without a codebook, such as its KL-VAE",
    "first_stage_model.": "of a latent diffusion model or a transformer, around a VQGAN or KL-VAE",
    "model.diffusion_model.": "of a latent diffusion model",
    "transformer.": "of a transformer",
}
"""Descriptions of other models' checkpoints, by a part of their weight names."""


class CheckpointWeights(NamedTuple):
    """Weights and architecture of a checkpoint, without optimizer state."""

    architecture: dict[str, Any]
    """Arguments of `VQGAN`."""

    generator: dict[str, Tensor]
    """The tokenizer's weights under our names without the leading `generator.`, float32."""

    discriminator: dict[str, Tensor]
    """The discriminator's weights under our names without the leading `discriminator.`, float32
    except for BatchNorm's counters; empty if the checkpoint has none."""

    training: TrainingSettings | None = None
    """Settings of the run that made the weights; None if the file does not record them."""


def read_checkpoint(path: Path, *, averaged: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: its weights, and everything else in it as plain data.

    The file may be one of torch (before or since 1.6; from Lightning or weights alone), of
    safetensors, or of Flax. If weights are taken out of a wrapper, a warning says which.

    Args:
        path: the file.
        averaged: take moving averages of the weights; see `take_weights`.

    Returns:
        The file's content, with at least `state_dict`: weights in memory, under the file's names
        without a common prefix (those of Flax, diffusers' VQModel and our own: under taming's).
        Settings of omegaconf and subclasses of dict are plain dicts and lists. Objects of other
        classes are `StandIn`s.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged, hostile or no checkpoint.
    """
    if not os.path.isfile(path):  # noqa: PTH113  # a name may be too long for pathlib's is_file
        problem = "a folder, not a file," if os.path.isdir(path) else "no checkpoint"  # noqa: PTH112
        raise CheckpointError(f"There is {problem} at {path}. Check the path.")
    try:
        content = _READERS[file_kind(path)](path)
        weights, others, description = take_weights(content, averaged=averaged)
        _require_plausible_size(weights, path)
        if is_diffusers(weights):
            weights = from_diffusers(weights)
        if description:
            log.warning("%s: %s.", path, description)
        return {**{k: plain_values(v) for k, v in others.items()}, STATE_DICT: weights}
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be used as a checkpoint: {error}.") from error
    except (OSError, MemoryError) as error:
        problem = str(error) or "no memory left"
        raise CheckpointError(f"{path} could not be read: {problem}.") from error
    # The readers may raise nearly any exception for a damaged file.
    except Exception as error:
        raise CheckpointError(
            f"{path} is probably damaged: reading it failed with {type(error).__name__} "
            f"({printable_text(error)}). Download or copy it again."
        ) from error


def read_networks(path: Path, *, averaged: bool = False) -> CheckpointWeights:
    """Read the tokenizer of a checkpoint, and its discriminator if it has one.

    Args:
        path: the file.
        averaged: take moving averages of the weights; see `take_weights`.

    Raises:
        CheckpointError: `read_checkpoint` failed, the weights are not those of a VQGAN, or the
            settings in the file contradict its weights.
    """
    checkpoint = read_checkpoint(path, averaged=averaged)
    weights = weights_under_our_names(checkpoint.pop(STATE_DICT), path)
    generator = _network_weights(weights, GENERATOR)
    try:
        architecture = generator_architecture(generator)
    except KeyError as error:
        (name,) = to_original({f"{GENERATOR}{error.args[0]}": torch.empty(0)})
        hint = " A KL-VAE has no codebook." if name == CODEBOOK else ""
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: '{name}' is not among its {len(generator)} weights "
            f"of a tokenizer.{hint}"
        ) from error
    except (IndexError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: one of its {len(generator)} weights of a tokenizer "
            "has too few dimensions, or its first convolution has no channels."
        ) from error
    recorded = _recorded_architecture(checkpoint, {**ASSUMED_ARGUMENTS, **architecture})
    differences = architecture_differences(recorded, architecture)
    if differences:
        raise CheckpointError(f"The settings in {path} contradict its weights: {differences}.")
    return CheckpointWeights(
        architecture={**ASSUMED_ARGUMENTS, **architecture, **recorded},
        generator=generator,
        discriminator=_network_weights(weights, DISCRIMINATOR),
        training=read_training(checkpoint),
    )


def weights_under_our_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename a file's weights from the original's names to ours, and drop those of LPIPS.

    Raises:
        CheckpointError: a name belongs to neither generator nor discriminator, or a weight is of
            none of the `FLOATS`.
    """
    kept = {name: w for name, w in weights.items() if not name.startswith(PERCEPTUAL)}
    try:
        renamed = to_ours(kept)
    except KeyError as error:
        raise CheckpointError(_foreign_weight_message(weights, error.args[0], path)) from error
    for name, weight in kept.items():
        if weight.dtype not in FLOATS and not name.endswith(BATCH_NORM_COUNTER):
            raise CheckpointError(
                f"The weight '{printable_text(name)}' in {path} is of {weight.dtype}, not float32 "
                "or another type for weights of a VQGAN. Give a checkpoint that is not quantized."
            )
    return renamed


def _foreign_weight_message(weights: Mapping[str, Tensor], name: str, path: Path) -> str:
    message = (
        f"{path} holds a weight named '{printable_text(name)}', which taming's VQModel does not "
        "have. "
    )
    for part, model in OTHER_MODELS.items():
        if any(part in other for other in weights):
            return f"{message}It is a checkpoint {model}."
    return f"{message}It is probably a checkpoint of another model."


def _recorded_architecture(
    checkpoint: Mapping[str, Any], actual: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of `VQGAN` that our own checkpoints store; empty for other files."""
    settings = checkpoint.get("hyper_parameters")
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict):
        return {}
    recorded = {name: model[name] for name in actual if name in model}
    if not all(_is_like(value, actual[name]) for name, value in recorded.items()):
        return {}
    if not {"resolution", "attention_resolutions"} <= recorded.keys():  # one is useless alone
        recorded = {n: v for n, v in recorded.items() if "resolution" not in n}
    return recorded


def _is_like(value: Any, example: Any) -> bool:
    """Return whether a value is plausible for an argument of `VQGAN` with an example's type."""
    if isinstance(example, list):
        plausible = isinstance(value, list | tuple) and len(value) <= MAX_LEVELS
        return plausible and all(_is_like(entry, 0) for entry in value)
    if isinstance(example, float):
        return type(value) in (int, float) and 0 <= value < 1
    return type(value) is type(example) and 0 <= value <= MAX_SETTING


def _network_weights(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select one network's weights, each in memory of its own; all but counters in float32."""
    selected = {}
    for name, weight in weights.items():
        if name.startswith(prefix):
            number = weight if name.endswith(BATCH_NORM_COUNTER) else weight.float()
            selected[name.removeprefix(prefix)] = _unshared(number)
    return selected


def _unshared(weight: Tensor) -> Tensor:
    plain = weight.contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _require_plausible_size(weights: Mapping[str, Tensor], path: Path) -> None:
    total = sum(weight.nbytes for weight in weights.values())
    if total > MAX_SHARING * path.stat().st_size:
        raise ValueError(f"its weights claim {total:,} bytes, far more than the file holds")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {STATE_DICT: {name: file.get_tensor(name).clone() for name in names}}
    except SafetensorError as error:
        raise ValueError(f"it is damaged or was cut short ({printable_text(error)})") from error


def plain_values(value: Any) -> Any:
    """Copy nested dicts and lists; a `StandIn` of omegaconf or of a dict becomes its content.

    Checkpoints of 2021 store settings as objects of omegaconf 2.0.0, which later versions cannot
    read. Their stand-ins hold the settings under omegaconf's attribute names. Interpolations stay
    text, such as `${data.image_size}`; the remaining stand-ins stay unchanged.
    """
    return _plain(value, MAX_DEPTH, {})


def _plain(value: Any, depth: int, converted: dict[int, Any]) -> Any:
    # `converted` holds results by id, because a pickled list may contain itself.
    if id(value) in converted or depth == 0:
        return converted.get(id(value), value)
    content = _unwrapped(value)
    if isinstance(content, dict):
        settings: dict[Any, Any] = {}
        converted[id(value)] = settings
        settings.update((key, _plain(item, depth - 1, converted)) for key, item in content.items())
        return settings
    if isinstance(content, list):
        entries: list[Any] = []
        converted[id(value)] = entries
        entries.extend(_plain(item, depth - 1, converted) for item in content)
        return entries
    return content


def _unwrapped(value: Any) -> Any:
    """Return a stand-in's content if it is an omegaconf node or a dict; else the value itself."""
    if not isinstance(value, StandIn):
        return value
    if value.name.startswith("omegaconf.") and isinstance(value.state, dict):
        if "_content" in value.state:
            return value.state["_content"]
        return value.state.get("_val", value)
    return value.entries if value.entries and not value.state else value


_READERS: dict[FileKind, Callable[[Path], Any]] = {
    FileKind.TORCH_ZIP: read_torch_zip,
    FileKind.TORCH_LEGACY: read_torch_legacy,
    FileKind.SAFETENSORS: _read_safetensors,
    FileKind.FLAX_MSGPACK: lambda path: {STATE_DICT: read_flax_msgpack(path)},
}
