"""Is bf16 harmless? One batch and 200 steps, against float32.

    python scripts/compare_precisions.py [CHECKPOINT]

The small model of the default job goes on from CHECKPOINT, which is that job's; without it, the job
is run first (2 minutes). First one batch of photos: the tokens, the gradients and the adaptive
weight of each precision against float32's. The same for f16-16384, after 100 steps from random
weights (with fewer its pictures are so flat that any rounding turns the gradients). Then 200
training steps with each precision and two seeds; what the seeds change is the noise. Writes
docs/benchmarks/precisions.json and the tables in docs/speed.md.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pages import ROOT, machine, put, table, write_json
from steps import make_config, sample_images
from torch import Tensor

from vqgan_train.build import build_module, initialise
from vqgan_train.module import TRAINING_METRICS, VQGANModule

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "precisions.json"
PACKAGES = ("torch", "pytorch-lightning")
PRECISIONS = {
    "fp32, contiguous": (None, ("trainer.memory_format=contiguous",)),
    "bf16": (torch.bfloat16, ()),
    "fp16": (torch.float16, ()),
}
"""What is compared with fp32 as it is by default: autocast's type, settings."""

SLOW_ON_CPUS = "fp16"
"""A processor emulates it, too slowly for f16-16384."""

PARTS = ("encoder", "codebook", "decoder", "discriminator")
LAST = Path("checkpoints", "last.ckpt")
STEPS = 200
SEEDS = (0, 1)
COMPARED = {
    "val/loss/reconstruction": "reconstruction",
    "val/loss/perceptual": "LPIPS",
    "val/loss/pixel": "L1",
    "val/psnr": "PSNR",
    "val/codebook/used": "codes used",
}
FULL_SIZE = (
    "model=f16_16384",
    "model.init_from=null",
    "model.code_scale=0.2",
    "data.image_size=128",
    "data.resize=160",
    "run.max_steps=100",
    "run.val_every_steps=100",
    "optim.learning_rate=1e-4",
    "trainer.precision=bf16",
)
"""What f16-16384 trains before it is compared."""

LOSS_SCALE = 2.0**10
"""In fp16, near where a GradScaler settles."""

TWO_THREADS = {**os.environ, "OMP_NUM_THREADS": "2"}


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
        config.model.init_from = str(checkpoint)
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


def train(folder: Path, *settings: str) -> dict[str, float]:
    """Run the default job with changes; what its last validation found."""
    command = [sys.executable, "-m", "vqgan_train", f"run.output_dir={folder}", *settings]
    subprocess.run(command, check=True, env=TWO_THREADS, stdout=subprocess.DEVNULL)
    with (folder / "metrics.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if row["val/psnr"]][-1]
    return {name: float(last[name]) for name in COMPARED}


def compare_runs(folder: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """200 steps from the same start, by precision and seed."""
    runs = []
    for seed in SEEDS:
        for precision in ("fp32", "bf16"):
            settings = (
                f"model.init_from={checkpoint}",
                f"run.seed={seed}",
                f"run.max_steps={STEPS}",
                f"trainer.precision={precision}",
                "loss.discriminator_start_step=0",
                "loss.adversarial_start_step=0",
            )
            found = train(folder / f"{precision}_{seed}", *settings)
            runs.append({"precision": precision, "seed": seed, **found})
            print(runs[-1], flush=True)
    return runs


def batch_table(results: dict[str, Any]) -> str:
    """One batch against fp32."""
    head = ("against fp32", "equal tokens", "adaptive weight", *PARTS)
    rows = [
        (
            f"{model}, {name}",
            f"{found['equal_tokens']:.1%}",
            f"{found['adaptive_weight']:.3f}",
            *(f"{found[part]:.2g}" for part in PARTS),
        )
        for model, precisions in results["batch"].items()
        for name, found in precisions.items()
    ]
    return table(head, rows)


def run_table(results: dict[str, Any]) -> str:
    """200 steps: each run, then how far apart precisions and seeds are on average."""
    rows = [
        (f"{run['precision']}, seed {run['seed']}", *(f"{run[name]:.4g}" for name in COMPARED))
        for run in results["runs"]
    ]
    for label, pairs in gaps(results).items():
        rows.append((label, *(f"{pairs[name]:.2g}" for name in COMPARED)))
    return table((f"after {STEPS} steps", *COMPARED.values()), rows)


def gaps(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean distance between runs that differ in precision alone, and in the seed alone."""
    runs = {(run["precision"], run["seed"]): run for run in results["runs"]}
    between = {
        "between precisions": [(("fp32", s), ("bf16", s)) for s in SEEDS],
        "between seeds": [((p, SEEDS[0]), (p, SEEDS[1])) for p in ("fp32", "bf16")],
    }
    return {
        label: {
            name: sum(abs(runs[a][name] - runs[b][name]) for a, b in pairs) / len(pairs)
            for name in COMPARED
        }
        for label, pairs in between.items()
    }


def main() -> None:
    """Compare and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = given.checkpoint
        if checkpoint is None:
            train(folder / "start")
            checkpoint = folder / "start" / LAST
        train(folder / "full", *FULL_SIZE)
        results = {
            "machine": machine(PACKAGES),
            "batch": {
                "small": compare_batches("small", checkpoint, 64, PRECISIONS),
                "f16-16384": compare_batches(
                    "f16_16384",
                    folder / "full" / LAST,
                    128,
                    [n for n in PRECISIONS if n != SLOW_ON_CPUS],
                ),
            },
            "runs": compare_runs(folder, checkpoint),
        }
    write_json(RESULTS, results)
    put(PAGE, "one batch", batch_table(results))
    put(PAGE, "200 steps", run_table(results))
    print(json.dumps(gaps(results), indent=1))


if __name__ == "__main__":
    main()
