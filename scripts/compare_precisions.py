"""Compare bf16 and other precisions with float32, on one batch and over 200 training steps.

    python scripts/compare_precisions.py [CHECKPOINT] [--steps 200] [--output FILE]

1. One batch of photos through the small model of the default job: compares tokens, gradients and
   adaptive weight. CHECKPOINT is that job's; without it, the job is run first (2 minutes).
2. The same for f16-16384 after 100 steps from random weights (10 minutes on 2 cores). After fewer
   steps its images are so flat that rounding alone changes the direction of the gradients.
3. Training runs with both precisions and two seeds from CHECKPOINT. The differences between seeds
   show how much is noise.

Writes docs/benchmarks/precisions.json and the tables in docs/speed.md.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from command_line import Parser, count, exit_on_signals
from pages import ROOT, machine, put, table, write_json

from vqgan_train.system.exit_codes import USER_ERROR

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "precisions.json"
PACKAGES = ("torch", "pytorch-lightning")
LAST = Path("checkpoints", "last.ckpt")
SEEDS = (0, 1)
OF_THE_WHOLE = ("equal_tokens", "adaptive_weight")
"""Columns of the batch table besides the gradients of each network part."""

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
"""Settings of the run that trains f16-16384 before its batch is compared."""


def train(folder: Path, *settings: str) -> dict[str, float]:
    """Run the default job with other settings; return the metrics of its last validation."""
    command = [sys.executable, "-m", "vqgan_train", f"run.output_dir={folder}", *settings]
    # Temporary files of a killed run are removed together with the folder of all runs.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "TMPDIR": str(folder.parent)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with (folder / "metrics.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if row["val/psnr"]][-1]
    return {name: float(last[name]) for name in COMPARED}


def compare_runs(folder: Path, checkpoint: Path, steps: int) -> list[dict[str, Any]]:
    """Train from one checkpoint with each precision and seed; return the final metrics."""
    runs = []
    for seed in SEEDS:
        for precision in ("fp32", "bf16"):
            settings = (
                f"model.init_from={checkpoint}",
                f"run.seed={seed}",
                f"run.max_steps={steps}",
                f"trainer.precision={precision}",
                "loss.discriminator_start_step=0",
                "loss.adversarial_start_step=0",
            )
            metrics = train(folder / f"{precision}_{seed}", *settings)
            runs.append({"precision": precision, "seed": seed, **metrics})
            print(runs[-1], flush=True)
    return runs


def batch_table(results: dict[str, Any]) -> str:
    """Format the table that compares one batch with fp32."""
    parts = [name for name in results["batch"]["small"]["bf16"] if name not in OF_THE_WHOLE]
    head = ("against fp32", "equal tokens", "adaptive weight", *parts)
    rows = [
        (
            f"{model}, {name}",
            f"{values['equal_tokens']:.1%}",
            f"{values['adaptive_weight']:.3f}",
            *(f"{values[part]:.2g}" for part in parts),
        )
        for model, precisions in results["batch"].items()
        for name, values in precisions.items()
    ]
    return table(head, rows)


def run_table(results: dict[str, Any]) -> str:
    """Format the table of the runs, with the mean differences between precisions and seeds."""
    rows = [
        (f"{run['precision']}, seed {run['seed']}", *(f"{run[name]:.4g}" for name in COMPARED))
        for run in results["runs"]
    ]
    for label, pairs in gaps(results).items():
        rows.append((label, *(f"{pairs[name]:.2g}" for name in COMPARED)))
    return table((f"after {results['steps']} steps", *COMPARED.values()), rows)


def gaps(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return mean differences of runs that differ only in precision, and only in the seed."""
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


def measure(folder: Path, checkpoint: Path | None, steps: int) -> dict[str, Any]:
    """Return machine and measurements, as written to precisions.json.

    Args:
        folder: folder for the runs.
        checkpoint: the default job's checkpoint. None: run that job first.
        steps: training steps of each compared run.

    Raises:
        CheckpointError: the file is not a checkpoint, or of another model.
    """
    if checkpoint is None:
        train(folder / "start")
        checkpoint = folder / "start" / LAST
    from precisions import (
        FAST_ON_CPUS,
        PRECISIONS,
        compare_batches,
    )  # importing torch takes seconds

    # First, because this refuses a wrong checkpoint before f16-16384 trains for 10 minutes.
    small = compare_batches("small", checkpoint, 64, PRECISIONS)
    train(folder / "full", *FULL_SIZE)
    full = compare_batches("f16_16384", folder / "full" / LAST, 128, FAST_ON_CPUS)
    return {
        "machine": machine(PACKAGES),
        "batch": {"small": small, "f16-16384": full},
        "steps": steps,
        "runs": compare_runs(folder, checkpoint, steps),
    }


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, metavar="CHECKPOINT",
        help="checkpoints/last.ckpt of the default job (default: the job is run first)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=count, default=200, metavar="N",
        help="training steps of each of the four compared runs (default: 200)",
    )  # fmt: skip
    parser.add_output("docs/benchmarks/precisions.json", "docs/speed.md")
    arguments = parser.parse_args()
    if arguments.checkpoint is not None and not arguments.checkpoint.is_file():
        parser.error(f"argument CHECKPOINT: {arguments.checkpoint} is not a file")
    return arguments


def main() -> None:
    """Run the comparison."""
    arguments = read_arguments()
    exit_on_signals()
    from vqgan_train.system.errors import CheckpointError

    with tempfile.TemporaryDirectory() as folder:
        try:
            results = measure(Path(folder), arguments.checkpoint, arguments.steps)
        except CheckpointError as error:
            sys.stderr.write(f"Error: {error}\n")
            sys.exit(USER_ERROR)
    write_json(arguments.output or RESULTS, results)
    if arguments.output is None:
        put(PAGE, "one batch", batch_table(results))
        put(PAGE, "200 steps", run_table(results))
    print(json.dumps(gaps(results), indent=1))


if __name__ == "__main__":
    main()
