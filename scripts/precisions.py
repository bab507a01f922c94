"""Comparison of tokens, gradients and adaptive weight of one batch between precisions."""

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
"""Precisions that are compared with the default fp32: autocast's type and settings."""

FAST_ON_CPUS = tuple(name for name in PRECISIONS if name != "fp16")
"""Without fp16, which CPUs emulate too slowly for f16-16384."""

PARTS = ("encoder", "codebook", "decoder", "discriminator")

LOSS_SCALE = 2.0**10
"""Loss scale in fp16, close to the value that GradScaler reaches."""


class Batch(NamedTuple):
    """Results of one training step on one batch."""

    tokens: Tensor
    adaptive_weight: float
    gradients: dict[str, Tensor]


def one_batch(module: VQGANModule, images: Tensor, dtype: torch.dtype | None) -> Batch:
    """Run one step; return tokens, adaptive weight and one gradient vector per network part."""
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
    """Return the network part of a weight; the 1x1 convolutions belong to the codebook."""
    return next((part for part in PARTS if part in name.split(".")[:2]), "codebook")


def compare_batches(
    model: str, checkpoint: Path, side: int, precisions: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Compare each precision with fp32 on the same photos and weights."""
    images = sample_images(4, side)
    shape = (len(images), 3, side, side)

    def run(dtype: torch.dtype | None, *settings: str) -> Batch:
        torch.manual_seed(0)
        config = make_config(model, shape, *settings)
        config = replace(config, model=replace(config.model, init_from=str(checkpoint)))
        module = build_module(config).train()
        initialise(module, config)
        module.discriminator_warmup_end_step = 0
        return one_batch(module, images, dtype)

    expected = run(None)
    comparisons = {}
    for name in precisions:
        dtype, settings = PRECISIONS[name]
        batch = run(dtype, *settings)
        comparisons[name] = {
            "equal_tokens": (batch.tokens == expected.tokens).float().mean().item(),
            "adaptive_weight": batch.adaptive_weight / expected.adaptive_weight,
            **{part: relative_error(batch, expected, part) for part in PARTS},
        }
        print(model, name, comparisons[name], flush=True)
    return comparisons


def relative_error(batch: Batch, expected: Batch, part: str) -> float:
    """Return the norm of the difference of two gradients, relative to the expected one's norm."""
    difference = batch.gradients[part] - expected.gradients[part]
    return (difference.norm() / expected.gradients[part].norm()).item()
