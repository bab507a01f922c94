"""How a checkpoint's run trained, as far as other programs can train on like that."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

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
