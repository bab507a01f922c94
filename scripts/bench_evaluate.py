"""The memory that `python -m vqgan_train.evaluate` needs, and how it grows with the images.

    python scripts/bench_evaluate.py [--images 4000 16000] [--num-workers 2]

Makes shards of small pictures with captions, evaluates two tiny models of random weights on each
number of them by the command itself, and notes the resident memory of its process and of its
loader processes while it runs. What two numbers of images differ by is what an image costs:
pixels are not kept, so it is the same for pictures of any size. Linux only. Writes
docs/benchmarks/evaluate.json and the table of docs/evaluation.md.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import ROOT, machine, put, table, write_json
from PIL import Image

from vqgan_train.checkpoint import to_original
from vqgan_train.data.writing import write_shard
from vqgan_train.models import VQGAN

RESULTS = ROOT / "docs" / "benchmarks" / "evaluate.json"
PAGE = ROOT / "docs" / "evaluation.md"
PACKAGES = ("torch", "torchmetrics", "numpy", "pillow")
SIDE, SAMPLES_A_SHARD = 32, 1000
ARCHITECTURE: dict[str, Any] = {
    "base_channels": 32,
    "channel_multipliers": [1, 1],
    "num_residual_blocks": 1,
    "attention_resolutions": [],
    "resolution": SIDE,
    "latent_channels": 8,
    "code_dim": 8,
    "codebook_size": 64,
}
METRICS = ("psnr", "ssim", "l1")
SECONDS_BETWEEN_LOOKS = 0.1
EXAMPLE_IMAGES = 50_000


def measure(counts: Sequence[int], *, num_workers: int) -> dict[str, Any]:
    """Evaluate each number of images.

    Args:
        counts: of images, ascending; two at least.
        num_workers: processes that read.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = [make_weights(folder / f"{seed}.ckpt", seed) for seed in range(2)]
        shards = make_shards(folder, max(counts))
        runs = [evaluate(checkpoints, shards, folder, count, num_workers) for count in counts]
    return {
        "machine": machine(PACKAGES),
        "settings": {
            "image_size": SIDE,
            "batch_size": 32,
            "num_workers": num_workers,
            "checkpoints": len(checkpoints),
            "metrics": list(METRICS),
        },
        "runs": runs,
        "bytes_an_image": bytes_an_image(runs),
    }


def make_weights(path: Path, seed: int) -> Path:
    """Write random weights as the original does."""
    torch.manual_seed(seed)
    weights = {f"generator.{n}": w for n, w in VQGAN(**ARCHITECTURE).state_dict().items()}
    torch.save({"state_dict": to_original(weights)}, path)
    return path
