"""Formats that a checkpoint can be exported to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from vqgan_train.checkpoint.architecture import discriminator_architecture
from vqgan_train.checkpoint.diffusers import to_diffusers
from vqgan_train.checkpoint.flax import write_flax_msgpack
from vqgan_train.checkpoint.model_configs import (
    RECIPE,
    diffusers_config,
    flax_config,
    not_in_taming,
    taming_config,
)
from vqgan_train.checkpoint.reading import DISCRIMINATOR, GENERATOR, CheckpointWeights
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.checkpoint.wrapped_weights import STATE_DICT

LENGTH_BYTES = 8
"""Bytes of a safetensors file's first field, the header's length. The header is padded to a
multiple of this number, so that tensors stay aligned."""


class Format(NamedTuple):
    """An export format: how it is written, and what it holds."""

    write: Callable[[CheckpointWeights, Mapping[str, str], Path], None]
    """Function of weights, their origin and an existing folder, which writes files into the folder.

    The origin goes into the files' metadata; Flax's have none. An ExportError is raised if the
    format cannot hold the architecture."""

    weights_file: str
    """Name of the written file that holds the weights; `read_networks` can read it."""

    has_discriminator: bool
    """Whether the format stores the discriminator of a checkpoint that has one."""


def _write_flax(networks: CheckpointWeights, _: Mapping[str, str], folder: Path) -> None:
    write_flax_msgpack(_generator(networks), folder / "flax_model.msgpack")
    _write_json(flax_config(networks.architecture), folder / "config.json")


def _write_safetensors(
    networks: CheckpointWeights, origin: Mapping[str, str], folder: Path
) -> None:
    metadata = {**origin, "architecture": json.dumps(networks.architecture)}
    _write_safe(_generator(networks), metadata, folder / "model.safetensors")


def _write_taming(networks: CheckpointWeights, origin: Mapping[str, str], folder: Path) -> None:
    discriminator = networks.discriminator
    weights = {**_generator(networks), **_original(DISCRIMINATOR, discriminator)}
    torch.save({STATE_DICT: weights, "vqgan_train": dict(origin)}, folder / "model.ckpt")
    shape = discriminator_architecture(discriminator) if discriminator else None
    training = networks.training or RECIPE
    config = yaml.safe_dump(taming_config(networks.architecture, shape, training), sort_keys=False)
    comment = not_in_taming(training)
    (folder / "config.yaml").write_text((f"# {comment}\n" if comment else "") + config)


def _write_diffusers(networks: CheckpointWeights, origin: Mapping[str, str], folder: Path) -> None:
    _write_json(diffusers_config(networks.architecture), folder / "config.json")
    weights = to_diffusers(_generator(networks))
    _write_safe(weights, origin, folder / "diffusion_pytorch_model.safetensors")


FORMATS = {
    "flax": Format(_write_flax, "flax_model.msgpack", has_discriminator=False),
    "safetensors": Format(_write_safetensors, "model.safetensors", has_discriminator=False),
    "taming": Format(_write_taming, "model.ckpt", has_discriminator=True),
    "diffusers": Format(
        _write_diffusers, "diffusion_pytorch_model.safetensors", has_discriminator=False
    ),
}
"""Formats by their names in `format=`; docs/export.md says which program reads which."""


def _generator(networks: CheckpointWeights) -> dict[str, Tensor]:
    return _original(GENERATOR, networks.generator)


def _original(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return to_original({f"{prefix}{name}": weight for name, weight in weights.items()})


def _write_safe(weights: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    # `save_file` would make files that only their owner can read. `save` orders metadata randomly,
    # so the header is sorted, to give equal exports equal bytes. transformers needs "format".
    content = save(weights, {"format": "pt", **metadata})
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.dumps(json.loads(content[LENGTH_BYTES:start]), sort_keys=True).encode()
    header = header.ljust(-(-len(header) // LENGTH_BYTES) * LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        file.write(memoryview(content)[start:])


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
