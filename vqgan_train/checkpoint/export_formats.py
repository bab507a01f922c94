"""The formats that a checkpoint can be exported to."""

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
from vqgan_train.checkpoint.reading import DISCRIMINATOR, GENERATOR, Networks
from vqgan_train.checkpoint.tensors import STATE_DICT
from vqgan_train.checkpoint.weight_names import to_original

LENGTH_BYTES = 8
"""At the start of a safetensors file: how long its header is. The header is padded to as much."""


class Format(NamedTuple):
    """One way to write networks into a folder of their own."""

    write: Callable[[Networks, Mapping[str, str], Path], None]
    """Writes networks, and where they come from, into an empty folder.

    It may raise ExportError: the format cannot hold them.
    """

    weights_file: str
    """What in the folder `read_networks` reads back."""

    has_discriminator: bool
    """Whether the discriminator goes along, if there is one."""


def _write_flax(networks: Networks, _: Mapping[str, str], folder: Path) -> None:
    write_flax_msgpack(_generator(networks), folder / "flax_model.msgpack")
    _write_json(flax_config(networks.architecture), folder / "config.json")


def _write_safetensors(networks: Networks, origin: Mapping[str, str], folder: Path) -> None:
    metadata = {**origin, "architecture": json.dumps(networks.architecture)}
    _write_safe(_generator(networks), metadata, folder / "model.safetensors")


def _write_taming(networks: Networks, origin: Mapping[str, str], folder: Path) -> None:
    discriminator = networks.discriminator
    weights = {**_generator(networks), **_original(DISCRIMINATOR, discriminator)}
    torch.save({STATE_DICT: weights, "vqgan_train": dict(origin)}, folder / "model.ckpt")
    shape = discriminator_architecture(discriminator) if discriminator else None
    training = networks.training or RECIPE
    config = yaml.safe_dump(taming_config(networks.architecture, shape, training), sort_keys=False)
    missing = not_in_taming(training)
    (folder / "config.yaml").write_text((f"# {missing}\n" if missing else "") + config)


def _write_diffusers(networks: Networks, origin: Mapping[str, str], folder: Path) -> None:
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
"""By the names that `format=` takes; docs/export.md says who reads which."""


def _generator(networks: Networks) -> dict[str, Tensor]:
    return _original(GENERATOR, networks.generator)


def _original(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return to_original({f"{prefix}{name}": weight for name, weight in weights.items()})


def _write_safe(weights: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    # save_file makes files that only their owner may read, and both put metadata in an order of
    # chance; the same export is to have the same bytes. transformers asks for the format.
    whole = save(weights, {"format": "pt", **metadata})
    start = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    header = json.dumps(json.loads(whole[LENGTH_BYTES:start]), sort_keys=True).encode()
    header = header.ljust(-(-len(header) // LENGTH_BYTES) * LENGTH_BYTES)  # keeps tensors aligned
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        file.write(memoryview(whole)[start:])


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
