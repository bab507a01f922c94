"""Read checkpoints of any supported format as data, without running code that a file names."""

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqgan_train.checkpoint.architecture import (
    ASSUMED_ARGUMENTS,
    architecture_differences,
    generator_architecture,
)
from vqgan_train.checkpoint.diffusers import from_diffusers, is_diffusers
from vqgan_train.checkpoint.file_kind import FileKind, file_kind
from vqgan_train.checkpoint.flax import read_flax_msgpack
from vqgan_train.checkpoint.model_configs import TrainingSettings, read_training
from vqgan_train.checkpoint.torch_files import STATE_DICT, read_torch_legacy, read_torch_zip
from vqgan_train.checkpoint.unpickling import StandIn, printable_text
from vqgan_train.checkpoint.weight_names import to_ours
from vqgan_train.system.errors import CheckpointError

GENERATOR = "generator."
DISCRIMINATOR = "discriminator."
BATCH_NORM_COUNTER = ".num_batches_tracked"
PERCEPTUAL = "loss.perceptual_loss."
"""Prefix of LPIPS' weights, which taming-transformers stores in its checkpoints; we do not."""

MAX_SHARING = 2
"""Maximum ratio of the weights' bytes to the file's. Weights may share bytes in the file, but their
copies in memory must not be much larger than it."""

MAX_DEPTH = 50
"""Nesting depth down to which settings are converted; real settings are less deep."""

OTHER_MODELS = {
    "first_stage_model.": "of a latent diffusion model or a transformer, around a VQGAN or KL-VAE",
    "model.diffusion_model.": "of a latent diffusion model",
    "transformer.": "of a transformer",
    "quantize.embed.": "of a VQGAN with Gumbel quantization (f8), another model",
    "loss.logvar": "of a KL-VAE, which has no codebook",
    "encoder.down_blocks.": "of a model of diffusers without a codebook, such as its KL-VAE",
    "module.": "saved from within DataParallel; save the weights of its `module` instead",
}
"""Descriptions of other models' checkpoints, by a prefix of their weight names."""


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: its weights, and everything else in it as plain data.

    The file may be one of torch (before or since 1.6; from Lightning or weights alone), of
    safetensors, or of Flax.

    Returns:
        The file's content, with at least `state_dict`: weights in memory, under the file's names
        (those of Flax and of diffusers' VQModel: under taming's). Settings of omegaconf and
        subclasses of dict are plain dicts and lists. Objects of other classes are `StandIn`s.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged, hostile or no checkpoint.
    """
    if not path.is_file():
        problem = "a folder, not a file," if path.is_dir() else "no checkpoint"
        raise CheckpointError(f"There is {problem} at {path}. Check the path.")
    try:
        content = _READERS[file_kind(path)](path)
        _require_plausible_size(content[STATE_DICT], path)
        if is_diffusers(content[STATE_DICT]):
            content[STATE_DICT] = from_diffusers(content[STATE_DICT])
        return content
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be used as a checkpoint: {error}.") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path} could not be read: {error or 'no memory left'}.") from error
    # The readers may raise nearly any exception for a damaged file.
    except Exception as error:
        raise CheckpointError(
            f"{path} is probably damaged: reading it failed with {type(error).__name__} "
            f"({printable_text(error)}). Download or copy it again."
        ) from error


def read_networks(path: Path) -> CheckpointWeights:
    """Read the tokenizer of a checkpoint, and its discriminator if it has one.

    Raises:
        CheckpointError: `read_checkpoint` failed, the weights are not those of a VQGAN, or the
            settings in the file contradict its weights.
    """
    checkpoint = read_checkpoint(path)
    weights = weights_under_our_names(checkpoint.pop(STATE_DICT), path)
    for name, weight in weights.items():
        if not weight.is_floating_point() and not name.endswith(BATCH_NORM_COUNTER):
            raise CheckpointError(
                f"The weight '{printable_text(name)}' in {path} is of {weight.dtype}, but weights "
                "of a VQGAN are floating-point numbers. Give a checkpoint that is not quantized."
            )
    generator = _network_weights(weights, GENERATOR)
    try:
        architecture = generator_architecture(generator)
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: {error} is not among its {len(generator)} weights "
            "of a tokenizer."
        ) from error
    except (IndexError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: one of its {len(generator)} weights of a tokenizer "
            "has too few dimensions, or its first convolution has no channels."
        ) from error
    recorded = _recorded_architecture(checkpoint, {*architecture, *ASSUMED_ARGUMENTS})
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
        CheckpointError: a name belongs to neither generator nor discriminator.
    """
    try:
        return to_ours({n: w for n, w in weights.items() if not n.startswith(PERCEPTUAL)})
    except KeyError as error:
        raise CheckpointError(_foreign_weight_message(weights, error.args[0], path)) from error


def _foreign_weight_message(weights: Mapping[str, Tensor], name: str, path: Path) -> str:
    message = (
        f"{path} holds a weight named '{printable_text(name)}', which taming's VQModel does not "
        "have. "
    )
    for prefix, model in OTHER_MODELS.items():
        if any(other.startswith(prefix) for other in weights):
            return f"{message}It is a checkpoint {model}."
    return f"{message}It is probably a checkpoint of another model."


def _recorded_architecture(checkpoint: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Return the arguments of `VQGAN` that our own checkpoints store; empty for other files."""
    settings = checkpoint.get("hyper_parameters")
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict) or not all(_is_setting(value) for value in model.values()):
        return {}
    return {name: value for name, value in model.items() if name in names}


def _is_setting(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value]
    return all(isinstance(entry, (int, float)) and entry >= 0 for entry in entries)


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
        return {STATE_DICT: {name: weight.clone() for name, weight in load_file(path).items()}}
    except SafetensorError as error:
        raise ValueError(f"it is damaged or was cut short ({printable_text(error)})") from error


def _read_pickled(read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    content = read(path)
    return {key: v if key == STATE_DICT else plain_values(v) for key, v in content.items()}


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


_READERS: dict[FileKind, Callable[[Path], dict[str, Any]]] = {
    FileKind.TORCH_ZIP: lambda path: _read_pickled(read_torch_zip, path),
    FileKind.TORCH_LEGACY: lambda path: _read_pickled(read_torch_legacy, path),
    FileKind.SAFETENSORS: _read_safetensors,
    FileKind.FLAX_MSGPACK: lambda path: {STATE_DICT: read_flax_msgpack(path)},
}
