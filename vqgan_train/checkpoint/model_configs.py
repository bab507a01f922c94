"""Configs from which other programs build an exported model, or train it further."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vqgan_train.system.errors import ExportError


class TrainingSettings(NamedTuple):
    """Loss weights and learning rate of a run, for further training in taming-transformers."""

    perceptual_weight: float
    adversarial_weight: float
    codebook_weight: float
    commitment_weight: float
    legacy_codebook_loss: bool
    steps_to_adversary: int
    """Steps from the checkpoint until both discriminator and adversarial term are active."""

    learning_rate: float
    """Learning rate divided by the images of a step; taming multiplies it by them again."""


RECIPE = TrainingSettings(
    perceptual_weight=1.0,
    adversarial_weight=0.75,
    codebook_weight=1.0,
    commitment_weight=0.25,
    legacy_codebook_loss=True,
    steps_to_adversary=0,
    learning_rate=4.5e-6,
)
"""Training settings of the released f16-16384 weights, for checkpoints that record none."""


def read_training(checkpoint: Mapping[str, Any]) -> TrainingSettings | None:
    """Read the training settings stored in a checkpoint of this package.

    Args:
        checkpoint: the result of `read_checkpoint`.

    Returns:
        None if the checkpoint does not record them, or records impossible values.
    """
    try:
        module, config = checkpoint["hyper_parameters"], checkpoint["vqgan_train"]["config"]
        objective, optim, trainer = module["objective"], config["optim"], config["trainer"]
        start = max(
            _number(module["discriminator_start_step"]),
            _number(module["adversarial_start_step"]),
            _number(checkpoint["warm_step"]),
        )
        images = _number(config["data"]["batch_size"]) * _number(optim["accumulate_batches"])
        devices = int(trainer["devices"]) * int(trainer["num_nodes"])
        # taming multiplies its base rate by images per device and by devices. A factor that our
        # scaling rule does not apply is divided out here.
        taming_only_factor = {
            "none": images * devices,
            "device_batch": devices,
            "global_batch": 1,
        }
        scaling = optim["learning_rate_scaling"]
        if not isinstance(scaling, str):  # a nested tuple could not even be hashed
            return None
        rate = _number(optim["learning_rate"]) / taming_only_factor[scaling]
        training = TrainingSettings(
            perceptual_weight=float(_number(objective["perceptual_weight"])),
            adversarial_weight=float(_number(objective["adversarial_weight"])),
            codebook_weight=float(_number(objective["codebook_weight"])),
            commitment_weight=float(_number(objective["commitment_weight"])),
            legacy_codebook_loss=bool(_number(objective["legacy_codebook_loss"])),
            steps_to_adversary=max(0, int(start) - int(_number(checkpoint["global_step"]))),
            learning_rate=float(rate),
        )
        return training if all(math.isfinite(value) for value in training) else None
    # A foreign checkpoint may hold anything under these keys.
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):
        return None


def _number(value: Any) -> float:
    """Return a number; anything else, which arithmetic might repeat or enlarge, is a TypeError."""
    if not isinstance(value, int | float):
        raise TypeError
    return value


NORM_GROUPS = 32

DDCONFIG = {
    "channels": "ch",
    "out_channels": "out_ch",
    "channel_multipliers": "ch_mult",
    "num_residual_blocks": "num_res_blocks",
    "attention_resolutions": "attn_resolutions",
    "in_channels": "in_channels",
    "resolution": "resolution",
    "latent_channels": "z_channels",
    "dropout": "dropout",
    "resample_with_convolution": "resamp_with_conv",
}
"""Names in taming's `ddconfig`, by our names of the settings."""

CODEBOOK = {"codebook_size": "n_embed", "code_dim": "embed_dim"}
"""Names in taming's config outside `ddconfig`, by our names of the settings."""

OTHER_FORMAT_ADVICE = "Choose another format, such as safetensors."

TRANSFORMERS_VERSION = "4.25.1"
"""Version of transformers that config.json names: the one of DALL-E mini. No program reads it."""


def taming_config(
    architecture: Mapping[str, Any],
    discriminator: Mapping[str, int] | None,
    training: TrainingSettings,
) -> dict[str, Any]:
    """Build the config from which taming's `instantiate_from_config` makes a VQModel.

    Args:
        architecture: arguments of `VQGAN`.
        discriminator: arguments of `PatchDiscriminator`; None makes a VQModel without losses, which
            needs no LPIPS and cannot be trained.
        training: settings for further training. taming counts steps from 0 again.
    """
    losses = "taming.modules.losses.vqperceptual"
    lossconfig: dict[str, Any] = {"target": f"{losses}.DummyLoss"}
    if discriminator is not None:
        lossconfig = {
            "target": f"{losses}.VQLPIPSWithDiscriminator",
            "params": {
                "codebook_weight": training.codebook_weight,
                "perceptual_weight": training.perceptual_weight,
                "disc_conditional": False,
                "disc_start": training.steps_to_adversary,
                "disc_weight": training.adversarial_weight,
                "disc_in_channels": discriminator["in_channels"],
                "disc_ndf": discriminator["channels"],
                "disc_num_layers": discriminator["num_layers"],
            },
        }
    params = {
        **_renamed(architecture, CODEBOOK),
        "ddconfig": {**_renamed(architecture, DDCONFIG), "double_z": False},
        "lossconfig": lossconfig,
    }
    target = "taming.models.vqgan.VQModel"
    # taming's main.py multiplies the rate by the images per step.
    model = {"base_learning_rate": training.learning_rate, "target": target, "params": params}
    return {"model": model}


def not_in_taming(training: TrainingSettings) -> str:
    """Describe training settings that taming's VQModel cannot have; empty if there are none."""
    ours = (training.commitment_weight, training.legacy_codebook_loss)
    theirs = (RECIPE.commitment_weight, RECIPE.legacy_codebook_loss)
    if ours == theirs:
        return ""
    return (
        f"The run had commitment_weight {ours[0]:g} and legacy_codebook_loss {str(ours[1]).lower()}"
        f"; taming's VQModel always has {theirs[0]:g} and {str(theirs[1]).lower()}."
    )


def flax_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Build the config of vqgan-jax's VQGANConfig, with the keys of the published config.json."""
    return {
        **_renamed(architecture, {**DDCONFIG, **CODEBOOK}),
        "double_z": False,
        "give_pre_end": False,
        "num_resolutions": len(architecture["channel_multipliers"]),
        # transformers removed four letters, meant to be "Flax", from the class name VQModel.
        "architectures": ["del"],
        "transformers_version": TRANSFORMERS_VERSION,
    }


def diffusers_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Build the config of diffusers' VQModel.

    Raises:
        ExportError: VQModel cannot have this architecture.
    """
    multipliers = architecture["channel_multipliers"]
    if len(multipliers) > 1 and not architecture["resample_with_convolution"]:
        raise ExportError(
            "diffusers' VQModel always resamples by convolution, but this model averages and "
            f"repeats pixels (resample_with_convolution is false), so diffusers cannot hold it. "
            f"{OTHER_FORMAT_ADVICE}"
        )
    if multipliers[0] != 1:
        raise ExportError(
            "diffusers' VQModel needs channel_multipliers to begin with 1, but this model's begin "
            f"with {multipliers[0]}. {OTHER_FORMAT_ADVICE}"
        )
    resolutions = [architecture["resolution"] // 2**level for level in range(len(multipliers))]
    kinds = [
        "Attn{}2D" if resolution in architecture["attention_resolutions"] else "{}2D"
        for resolution in resolutions
    ]
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": [architecture["channels"] * m for m in multipliers],
        "down_block_types": [kind.format("DownEncoderBlock") for kind in kinds],
        "up_block_types": [kind.format("UpDecoderBlock") for kind in reversed(kinds)],
        "in_channels": architecture["in_channels"],
        "out_channels": architecture["out_channels"],
        "latent_channels": architecture["latent_channels"],
        "layers_per_block": architecture["num_residual_blocks"],
        "lookup_from_codebook": True,  # lets decode() take tokens
        "mid_block_add_attention": True,
        "norm_num_groups": NORM_GROUPS,
        "norm_type": "group",
        "num_vq_embeddings": architecture["codebook_size"],
        "sample_size": architecture["resolution"],
        "scaling_factor": 1.0,  # latents for diffusion are not scaled
        "vq_embed_dim": architecture["code_dim"],
    }


def _renamed(architecture: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: architecture[ours] for ours, theirs in names.items()}
