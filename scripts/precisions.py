"""What each precision makes of one batch, against float32."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from steps import make_config, sample_images
from torch import Tensor

from vqgan_train.training.lightning.module import TRAINING_METRICS, VQGANModule
from vqgan_train.training.setup.networks import build_module, initialise

PRECISIONS = {
    "fp32, contiguous": (None, ("trainer.memory_format=contiguous",)),
    "bf16": (torch.bfloat16, ()),
    "fp16": (torch.float16, ()),
}
"""What is compared with fp32 as it is by default: autocast's type, settings."""

FAST_ON_CPUS = tuple(name for name in PRECISIONS if name != "fp16")
"""Processors emulate fp16, too slowly for f16-16384."""

PARTS = ("encoder", "codebook", "decoder", "discriminator")

LOSS_SCALE = 2.0**10
"""In fp16, near where a GradScaler settles."""


class Batch(NamedTuple):
    """What a precision makes of one batch."""

    tokens: Tensor
    adaptive_weight: float
    gradients: dict[str, Tensor]


def one_batch(module: VQGANModule, images: Tensor, dtype: torch.dtype | None) -> Batch:
    """One step's tokens, weight and gradients, a vector a part."""
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        tokens = module.generator.encode(images)
        outputs = module.training_step({"image": images})
    scale = LOSS_SCALE if dtype == torch.float16 else 1.0
    (outputs["loss"] * scale).backward()
    gradients = defaultdict(list)
    for name, weight in module.named_parameters():
        assert weight.grad is not None
        gradients[_part(name)].append(weight.grad.flatten() / scale)
    weight = outputs["terms"][list(TRAINING_METRICS).index("adaptive_weight")]
    return Batch(tokens, float(weight), {part: torch.cat(g) for part, g in gradients.items()})


def _part(name: str) -> str:
    """The part of the networks that a weight belongs to; the 1x1 convolutions count as codebook."""
    return next((part for part in PARTS if part in name.split(".")[:2]), "codebook")


def compare_batches(
    model: str, checkpoint: Path, side: int, precisions: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Each precision against fp32, on the same photos and weights."""
    images = sample_images(4, side)
    shape = (len(images), 3, side, side)

    def run(dtype: torch.dtype | None, *settings: str) -> Batch:
        torch.manual_seed(0)
        config = make_config(model, shape, *settings)
        config = replace(config, model=replace(config.model, init_from=str(checkpoint)))
        module = build_module(config).train()
        initialise(module, config)
        module.warm_step = 0
        return one_batch(module, images, dtype)

    expected = run(None)
    found = {}
    for name in precisions:
        dtype, settings = PRECISIONS[name]
        batch = run(dtype, *settings)
        found[name] = {
            "equal_tokens": (batch.tokens == expected.tokens).float().mean().item(),
            "adaptive_weight": batch.adaptive_weight / expected.adaptive_weight,
            **{part: relative_error(batch, expected, part) for part in PARTS},
        }
        print(model, name, found[name], flush=True)
    return found


def relative_error(found: Batch, expected: Batch, part: str) -> float:
    """Norm of the difference of two gradients, in norms of the second."""
    difference = found.gradients[part] - expected.gradients[part]
    return (difference.norm() / expected.gradients[part].norm()).item()
