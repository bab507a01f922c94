"""How a checkpoint's run trained, as far as other programs can train on like that."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vqgan_train.system.errors import ExportError

NOT_THERE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


class Training(NamedTuple):
    """Of one run."""

    perceptual_weight: float
    adversarial_weight: float
    codebook_weight: float
    commitment_weight: float
    legacy_codebook_loss: bool
    steps_to_adversary: int
    """From the checkpoint on, until discriminator and adversarial term both take part."""

    learning_rate: float
    """For one image of a step."""


RECIPE = Training(
    perceptual_weight=1.0,
    adversarial_weight=0.75,
    codebook_weight=1.0,
    commitment_weight=0.25,
    legacy_codebook_loss=True,
    steps_to_adversary=0,
    learning_rate=4.5e-6,
)
"""Of the released f16-16384 weights."""


def read_training(checkpoint: Mapping[str, Any]) -> Training | None:
    """Read it off a checkpoint of ours, which is given as `read_checkpoint` returns it.

    Returns:
        None where the checkpoint is not of a run of ours.
    """
    try:
        module, config = checkpoint["hyper_parameters"], checkpoint["vqgan_train"]["config"]
        objective = module["objective"]
        start = max(
            module["discriminator_start_step"],
            module["adversarial_start_step"],
            checkpoint["warm_step"],
        )
        images = config["data"]["batch_size"] * config["optim"]["accumulate_batches"]
        devices = int(config["trainer"]["devices"]) * int(config["trainer"]["num_nodes"])
        # taming multiplies by images a device and by devices.
        counted_there_alone = {
            "none": images * devices,
            "device_batch": devices,
            "global_batch": 1,
        }
        scaling = config["optim"]["learning_rate_scaling"]
        rate = config["optim"]["learning_rate"] / counted_there_alone[scaling]
        training = Training(
            perceptual_weight=float(objective["perceptual_weight"]),
            adversarial_weight=float(objective["adversarial_weight"]),
            codebook_weight=float(objective["codebook_weight"]),
            commitment_weight=float(objective["commitment_weight"]),
            legacy_codebook_loss=bool(objective["legacy_codebook_loss"]),
            steps_to_adversary=max(0, int(start) - int(checkpoint["global_step"])),
            learning_rate=float(rate),
        )
    except NOT_THERE:
        return None
    return training if all(math.isfinite(value) for value in training) else None


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
"""Our names of settings, and taming's in its `ddconfig`."""

CODEBOOK = {"codebook_size": "n_embed", "code_dim": "embed_dim"}
"""Likewise, beside `ddconfig`."""

ANOTHER_FORMAT = "Take another format, such as safetensors."

TRANSFORMERS = "4.25.1"
"""The version that DALL-E mini pins; the published config.json names one, and nobody reads it."""


def taming_config(
    architecture: Mapping[str, Any], discriminator: Mapping[str, int] | None, training: Training
) -> dict[str, Any]:
    """What `taming.main.instantiate_from_config` builds a VQModel from, under `model`.

    Args:
        architecture: of the tokenizer.
        discriminator: arguments of `PatchDiscriminator`; None is for a VQModel without losses,
            which needs no LPIPS and cannot be trained.
        training: what to go on with. taming counts steps from 0 again.
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
    # taming's main.py multiplies the rate by the images of a step.
    model = {"base_learning_rate": training.learning_rate, "target": target, "params": params}
    return {"model": model}


def not_in_taming(training: Training) -> str:
    """What of a training no settings of taming's VQModel say; empty if they say all."""
    ours = (training.commitment_weight, training.legacy_codebook_loss)
    theirs = (RECIPE.commitment_weight, RECIPE.legacy_codebook_loss)
    if ours == theirs:
        return ""
    return (
        f"The run had commitment_weight {ours[0]:g} and legacy_codebook_loss {str(ours[1]).lower()}"
        f"; taming's VQModel always has {theirs[0]:g} and {str(theirs[1]).lower()}."
    )


def flax_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What vqgan-jax's VQGANConfig reads, with the keys of the published model's config.json."""
    return {
        **_renamed(architecture, {**DDCONFIG, **CODEBOOK}),
        "double_z": False,
        "give_pre_end": False,
        "num_resolutions": len(architecture["channel_multipliers"]),
        # transformers cut four letters off VQModel.
        "architectures": ["del"],
        "transformers_version": TRANSFORMERS,
    }


def diffusers_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What diffusers' VQModel is built from.

    Raises:
        ExportError: VQModel cannot be this architecture.
    """
    multipliers = architecture["channel_multipliers"]
    if len(multipliers) > 1 and not architecture["resample_with_convolution"]:
        raise ExportError(
            "diffusers' VQModel always resamples by convolution, but this model averages and "
            "repeats pixels (resample_with_convolution is false), so diffusers cannot hold it. "
            + ANOTHER_FORMAT
        )
    if multipliers[0] != 1:
        raise ExportError(
            "The first convolution of diffusers' VQModel is as wide as its first level, but this "
            f"model's has {architecture['channels']} channels before a level of {multipliers[0]} "
            f"times as many, so diffusers cannot hold it. {ANOTHER_FORMAT}"
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
        "lookup_from_codebook": True,  # so that decode takes tokens
        "mid_block_add_attention": True,
        "norm_num_groups": NORM_GROUPS,
        "norm_type": "group",
        "num_vq_embeddings": architecture["codebook_size"],
        "sample_size": architecture["resolution"],
        "scaling_factor": 1.0,  # for diffusion in its latents; this model was trained with none
        "vq_embed_dim": architecture["code_dim"],
    }


def _renamed(architecture: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: architecture[ours] for ours, theirs in names.items()}
