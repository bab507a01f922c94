"""Write a checkpoint with random weights in the format of 2021.

    python scripts/make_legacy_checkpoint.py OUTPUT [--architecture JSON] [--discriminator JSON]

Its settings are objects of omegaconf 2.0.0 and its callbacks are keyed by Lightning's classes, as
in the checkpoints of CompVis and of boris/vqgan_f16_16384. Needs pip and a package index, because
it installs omegaconf 2.0.0 into a temporary folder: newer versions pickle differently.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OMEGACONF = "omegaconf==2.0.0"

TINY_ARCHITECTURE = {
    "channels": 32,
    "channel_multipliers": [1, 1, 2],
    "num_residual_blocks": 1,
    "attention_resolutions": [64],
    "resolution": 256,
    "latent_channels": 32,
    "code_dim": 16,
    "codebook_size": 128,
}
TINY_DISCRIMINATOR = {"in_channels": 3, "channels": 8, "num_layers": 2}

TAMING_NAMES = {
    "channels": "ch",
    "channel_multipliers": "ch_mult",
    "num_residual_blocks": "num_res_blocks",
    "attention_resolutions": "attn_resolutions",
    "resolution": "resolution",
    "latent_channels": "z_channels",
}


def make_legacy_checkpoint(
    output: Path,
    architecture: Mapping[str, Any] = TINY_ARCHITECTURE,
    discriminator: Mapping[str, Any] = TINY_DISCRIMINATOR,
) -> None:
    """Install omegaconf 2.0.0 into a temporary folder and write the checkpoint in a child process.

    Args:
        output: the file to write.
        architecture: keyword arguments of `VQGAN`.
        discriminator: keyword arguments of `PatchDiscriminator`.

    Raises:
        subprocess.CalledProcessError: pip or the child process failed; their output is printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", folder, "--no-deps", OMEGACONF], check=True)
        search_path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        sizes = [
            f"--architecture={json.dumps(dict(architecture))}",
            f"--discriminator={json.dumps(dict(discriminator))}",
        ]
        subprocess.run(
            [sys.executable, __file__, str(output), "--inside", *sizes],
            check=True,
            env={**os.environ, "PYTHONPATH": search_path},
        )


def write_checkpoint(
    output: Path, architecture: Mapping[str, Any], discriminator: Mapping[str, Any]
) -> None:
    """Write the checkpoint; must run in a process that imports omegaconf 2.0.0."""
    import omegaconf
    import torch

    from vqgan_train.checkpoint.weight_names import to_original
    from vqgan_train.models import VQGAN, PatchDiscriminator

    if f"omegaconf=={omegaconf.__version__}" != OMEGACONF:
        raise RuntimeError(f"omegaconf {omegaconf.__version__} was imported instead of {OMEGACONF}")
    torch.manual_seed(0)
    generator = VQGAN(**architecture)
    generator.quantizer.draw_codes(1.0)
    networks = torch.nn.ModuleDict(
        {"generator": generator, "discriminator": PatchDiscriminator(**discriminator)}
    )
    model_checkpoint = type("ModelCheckpoint", (), {})
    _pretend_importable(model_checkpoint, "pytorch_lightning.callbacks.model_checkpoint")
    torch.save(
        {
            "epoch": 3,
            "global_step": 1234,
            "pytorch-lightning_version": "1.0.8",
            "callbacks": {model_checkpoint: {"monitor": "val/rec_loss", "best_model_path": ""}},
            "state_dict": to_original(networks.state_dict()),
            "hparams_name": "kwargs",
            "hyper_parameters": omegaconf.OmegaConf.create(_settings(architecture)),
        },
        output,
    )


def _settings(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under taming's names; one of them is an interpolation."""
    sizes = {TAMING_NAMES[name]: architecture[name] for name in TAMING_NAMES}
    return {
        "base_learning_rate": 4.5e-06,
        "embed_dim": architecture["code_dim"],
        "n_embed": architecture["codebook_size"],
        "ddconfig": {**sizes, "double_z": False, "in_channels": 3, "out_ch": 3, "dropout": 0.0},
        "image_size": "${ddconfig.resolution}",
    }


def _pretend_importable(stand_in: type, module: str) -> None:
    """Make pickle accept a class of a module that does not exist in this process."""
    import types

    for depth in range(module.count(".") + 1):
        package = module.rsplit(".", depth)[0]
        sys.modules[package] = types.ModuleType(package)
    stand_in.__module__ = module
    setattr(sys.modules[module], stand_in.__name__, stand_in)


def main() -> None:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument(
        "--architecture", type=json.loads, default=TINY_ARCHITECTURE, metavar="JSON",
        help="arguments of VQGAN (default: a tiny model)",
    )  # fmt: skip
    parser.add_argument(
        "--discriminator", type=json.loads, default=TINY_DISCRIMINATOR, metavar="JSON",
        help="arguments of PatchDiscriminator (default: a tiny one)",
    )  # fmt: skip
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    make = write_checkpoint if arguments.inside else make_legacy_checkpoint
    make(arguments.output, arguments.architecture, arguments.discriminator)


if __name__ == "__main__":
    main()
