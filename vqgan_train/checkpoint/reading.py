"""Settings out of stand-ins: what omegaconf's objects and subclasses of dict held, as plain values.

Checkpoints of 2021 have their settings as objects of omegaconf 2.0.0, which no other version can
read. What they held is in the stand-ins for them, under the names that omegaconf gives its
attributes.
"""

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqgan_train.checkpoint.architecture import (
    UNREADABLE,
    architecture_differences,
    generator_architecture,
)
from vqgan_train.checkpoint.diffusers import from_diffusers, is_diffusers
from vqgan_train.checkpoint.file_kind import FileKind, file_kind
from vqgan_train.checkpoint.flax import read_flax_msgpack
from vqgan_train.checkpoint.model_configs import Training, read_training
from vqgan_train.checkpoint.tensors import STATE_DICT
from vqgan_train.checkpoint.torch_files import read_torch_legacy, read_torch_zip
from vqgan_train.checkpoint.unpickling import StandIn, shown
from vqgan_train.checkpoint.weight_names import to_ours
from vqgan_train.system.errors import CheckpointError

MAX_DEPTH = 50
"""Settings are not nested deeper; what is stays as it was."""


def plain_values(value: Any) -> Any:
    """A copy of nested dicts and lists in which stand-ins for settings are the settings.

    Interpolations stay text, as `${data.image_size}`. All other stand-ins stay what they are.
    """
    return _Plain().convert(value, MAX_DEPTH)


class _Plain:
    """One conversion, which remembers what it has met: pickles may hold a list within itself."""

    def __init__(self) -> None:
        self.converted: dict[int, Any] = {}

    def convert(self, value: Any, depth: int) -> Any:
        if id(value) in self.converted or depth == 0:
            return self.converted.get(id(value), value)
        value_within = _unwrapped(value)
        if isinstance(value_within, dict):
            settings: dict[Any, Any] = {}
            self.converted[id(value)] = settings
            settings.update(
                (key, self.convert(item, depth - 1)) for key, item in value_within.items()
            )
            return settings
        if isinstance(value_within, list):
            entries: list[Any] = []
            self.converted[id(value)] = entries
            entries.extend(self.convert(item, depth - 1) for item in value_within)
            return entries
        return value_within


def _unwrapped(value: Any) -> Any:
    """What a stand-in for a node of omegaconf or for a subclass of dict held."""
    if not isinstance(value, StandIn):
        return value
    if value.name.startswith("omegaconf.") and isinstance(value.state, dict):
        if "_content" in value.state:
            return value.state["_content"]
        return value.state.get("_val", value)
    return dict(value.pairs) if value.pairs and not value.state else value


GENERATOR = "generator."
DISCRIMINATOR = "discriminator."
COUNTER = ".num_batches_tracked"
PERCEPTUAL = "loss.perceptual_loss."
"""LPIPS, which the original stores in its checkpoints and we never do."""

MAX_SHARING = 2
"""Weights may share memory, but not so that copies of them need much more than the file."""

OTHER_MODELS = {
    "first_stage_model.": "of a latent diffusion model or a transformer, around a VQGAN or KL-VAE",
    "model.diffusion_model.": "of a latent diffusion model",
    "transformer.": "of a transformer",
    "quantize.embed.": "of a VQGAN with Gumbel quantization (f8), another model",
    "loss.logvar": "of a KL-VAE, which has no codebook",
    "encoder.down_blocks.": "of a model of diffusers without a codebook, such as its KL-VAE",
    "module.": "saved from within a wrapper (DataParallel)",
}


class Networks(NamedTuple):
    """What a checkpoint holds besides the state of a training."""

    architecture: dict[str, Any]
    """The arguments of `VQGAN`."""

    generator: dict[str, Tensor]
    """The tokenizer's weights under our names without the leading `generator.`, float32."""

    discriminator: dict[str, Tensor]
    """Likewise, BatchNorm's counters as they are; empty if there is none."""

    training: Training | None = None
    """How they came about; None: a run of ours did not make them, or it is not known."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the weights of a checkpoint onto the CPU, and what lies beside them as data.

    Reads files of torch in its old and new format, of any Lightning or of weights alone, of
    safetensors, and of Flax.

    Returns:
        A dictionary with at least `state_dict`: the weights, in memory of their own, under the
        file's names (those of Flax and of diffusers' VQModel under the original's). Beside them
        plain values; settings of omegaconf are plain too; all other objects, an optimizer's tensors
        among them, are `StandIn`s.

    Raises:
        CheckpointError: the file is missing, damaged, hostile or no checkpoint.
    """
    if not path.is_file():
        found = "a folder, not a file," if path.is_dir() else "no checkpoint"
        raise CheckpointError(f"There is {found} at {path}. Check the path.")
    try:
        content = _READERS[file_kind(path)](path)
        _require_honest_size(content[STATE_DICT], path)
        if is_diffusers(content[STATE_DICT]):
            content[STATE_DICT] = from_diffusers(content[STATE_DICT])
        return content
    except ValueError as error:
        raise CheckpointError(f"{path} is not a checkpoint that can be used: {error}.") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path} could not be read: {error or 'no memory left'}.") from error
    # Damage may show as nearly anything, deep in the readers.
    except Exception as error:
        raise CheckpointError(
            f"{path} was not read: it is damaged ({type(error).__name__}: {shown(error)})."
        ) from error


def read_generator(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the tokenizer of a checkpoint.

    Returns:
        The arguments of `VQGAN`, and its weights under our names, float32.

    Raises:
        CheckpointError: as `read_networks`.
    """
    networks = read_networks(path)
    return networks.architecture, networks.generator


def read_networks(path: Path) -> Networks:
    """Read the tokenizer of a checkpoint, and the discriminator that may lie beside it.

    Raises:
        CheckpointError: as `read_checkpoint`; the weights are not those of a VQGAN; or the file's
            own settings say something else than its weights.
    """
    checkpoint = read_checkpoint(path)
    ours = weights_under_our_names(checkpoint.pop(STATE_DICT), path)
    weights = _part(ours, GENERATOR)
    try:
        found = generator_architecture(weights)
    except (LookupError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} is not a VQGAN checkpoint: {error} is not among its {len(weights)} weights."
        ) from error
    given = _given_architecture(checkpoint, {*found, *UNREADABLE})
    differences = architecture_differences(given, found)
    if differences:
        raise CheckpointError(f"The settings in {path} are not its weights': {differences}.")
    return Networks(
        architecture={**UNREADABLE, **found, **given},
        generator=weights,
        discriminator=_part(ours, DISCRIMINATOR),
        training=read_training(checkpoint),
    )


def weights_under_our_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Translate a file's weights, all but LPIPS.

    Raises:
        CheckpointError: a name is neither the generator's nor the discriminator's.
    """
    try:
        return to_ours({n: w for n, w in weights.items() if not n.startswith(PERCEPTUAL)})
    except KeyError as error:
        raise CheckpointError(_foreign_weight(weights, error.args[0], path)) from error


def _foreign_weight(weights: Mapping[str, Tensor], name: str, path: Path) -> str:
    message = f"{path} holds a weight named '{shown(name)}', which taming's VQModel does not have. "
    for prefix, model in OTHER_MODELS.items():
        if any(other.startswith(prefix) for other in weights):
            return f"{message}It is a checkpoint {model}."
    return f"{message}Is it a checkpoint of another model?"


def _given_architecture(checkpoint: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """The architecture in the settings of our own checkpoints, if these are settings of ours."""
    settings = checkpoint.get("hyper_parameters")
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict) or not all(_is_setting(value) for value in model.values()):
        return {}
    return {name: value for name, value in model.items() if name in names}


def _is_setting(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value]
    return all(isinstance(entry, (int, float)) and entry >= 0 for entry in entries)


def _part(ours: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): _alone(weight if name.endswith(COUNTER) else weight.float())
        for name, weight in ours.items()
        if name.startswith(prefix)
    }


def _alone(weight: Tensor) -> Tensor:
    """A weight in memory that it shares with nothing."""
    plain = weight.contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _require_honest_size(weights: Mapping[str, Tensor], path: Path) -> None:
    total = sum(weight.nbytes for weight in weights.values())
    if total > MAX_SHARING * path.stat().st_size:
        raise ValueError(f"its weights claim {total} bytes, more than the file holds")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return {STATE_DICT: {name: weight.clone() for name, weight in load_file(path).items()}}
    except SafetensorError as error:
        raise ValueError(f"it is damaged or was cut short ({shown(error)})") from error


def _read_pickled(read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    content = read(path)
    return {key: v if key == STATE_DICT else plain_values(v) for key, v in content.items()}


_READERS: dict[FileKind, Callable[[Path], dict[str, Any]]] = {
    FileKind.TORCH_ZIP: lambda path: _read_pickled(read_torch_zip, path),
    FileKind.TORCH_LEGACY: lambda path: _read_pickled(read_torch_legacy, path),
    FileKind.SAFETENSORS: _read_safetensors,
    FileKind.FLAX_MSGPACK: lambda path: {STATE_DICT: read_flax_msgpack(path)},
}
