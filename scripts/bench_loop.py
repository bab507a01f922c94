"""Compare the speed of `python -m vqgan_train` with that of its bare training step, on a CPU.

    python scripts/bench_loop.py [--steps 120] [--model small] [--batch-size 4] [--side 64]

Measures the bare step of scripts/bench_step.py, then a whole run on the sample photos with
validations, pictures, checkpoints and metrics, then the bare step again. With the default options
this takes 2 minutes on 2 idle cores: 120 steps three times, 0.3 s each, and the run's start and
validations. Writes docs/benchmarks/loop.json and the table in docs/speed.md.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_step import draw_images
from command_line import Parser, count, exit_on_signals
from pages import ROOT, machine, put, table, write_json
from steps import MODELS, make_step

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "loop.json"
PACKAGES = ("torch", "pytorch-lightning", "webdataset")
ROWS = 6
"""Rows of training metrics in a run."""


def bare_speed(model: str, batch_size: int, side: int, steps: int) -> float:
    """Return the median images per second of the bare step."""
    images = draw_images(batch_size, side, "cpu")
    step = make_step("ours", model, (batch_size, 3, side, side), "cpu")
    seconds = []
    for _ in range(steps):
        started_at = time.perf_counter()
        step(images)
        seconds.append(time.perf_counter() - started_at)
    return batch_size / statistics.median(seconds)


def run_speed(model: str, batch_size: int, side: int, steps: int) -> dict[str, float]:
    """Train; return medians over the rows of metrics, and the durations of run and training."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": model,
            "data.batch_size": batch_size,
            "data.image_size": side,
            "data.resize": side * 5 // 4,
            "run.output_dir": folder + "/run",
            "run.max_steps": steps,
            "run.log_every_steps": steps // ROWS,
            "run.val_every_steps": steps,
            "run.checkpoint_every_steps": steps // 2,
            "trainer.precision": "fp32",
            "trainer.accelerator": "cpu",
            "loss.discriminator_start_step": 0,
            "loss.adversarial_start_step": 0,
        }
        command = [sys.executable, "-m", "vqgan_train"]
        command += [f"{name}={value}" for name, value in settings.items()]
        started_at = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - started_at
        with Path(folder, "run", "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/images_per_second"]]
    return {
        "images_per_second": statistics.median(float(r["train/images_per_second"]) for r in rows),
        "data_seconds_a_step": statistics.median(float(r["train/data_seconds"]) for r in rows),
        "step_seconds": statistics.median(float(r["train/step_seconds"]) for r in rows),
        "seconds_in_all": total,
        "seconds_training": sum(float(r["train/step_seconds"]) for r in rows) * (steps // ROWS),
    }


def kept(results: dict[str, Any]) -> float:
    """Return the run's speed as a fraction of the bare step's mean speed before and after it."""
    return float(results["run"]["images_per_second"] / statistics.mean(results["bare"]))


def to_table(results: dict[str, Any]) -> str:
    """Format the table of docs/speed.md."""
    run, where = results["run"], results["machine"]
    rows = [
        ("the bare step, before and after", " and ".join(f"{b:.1f}" for b in results["bare"]), ""),
        ("in a run", f"{run['images_per_second']:.1f}", f"{kept(results):.0%}"),
    ]
    head = (f"{results['model']}, batch {results['batch_size']}, {results['side']} pixels",
            "images/s", "of the bare step")  # fmt: skip
    beside = run["seconds_in_all"] - run["seconds_training"]
    return (
        f"{table(head, rows)}\n\n{results['steps']} steps; of {run['step_seconds'] * 1e3:.0f} ms a "
        f"step, {run['data_seconds_a_step'] * 1e3:.1f} ms were waits for data. Beside the steps, "
        f"the run took {beside:.0f} s for its start, two validations, pictures and checkpoints. "
        f"{where['date']}, {where['processor']}, {where['cores']} cores, {results['threads']} "
        f"threads, load {where['load_average'][0]}; torch {where['versions']['torch']}."
    )


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__)
    option = parser.add_argument
    option("--steps", type=count, default=120, metavar="N",
           help="steps of each of the three measurements; at least 6 (default: 120, as in "
           "docs/speed.md)")  # fmt: skip
    option(
        "--model",
        choices=MODELS,
        default="small",
        help="model, a file of conf/model (default: small)",
    )
    option("--batch-size", type=count, default=4, metavar="N", help="images per step (default: 4)")
    option("--side", type=count, default=64, metavar="PIXELS",
           help="width and height of the images (default: 64)")  # fmt: skip
    parser.add_output("docs/benchmarks/loop.json", "docs/speed.md")
    arguments = parser.parse_args()
    if arguments.steps < ROWS:
        parser.error(f"argument --steps: {arguments.steps} are too few for {ROWS} rows of metrics")
    exit_on_signals()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    shape = (arguments.model, arguments.batch_size, arguments.side, arguments.steps)
    where = machine(PACKAGES)
    before = bare_speed(*shape)
    run = run_speed(*shape)
    results = {
        "machine": where,
        "threads": torch.get_num_threads(),
        **dict(zip(("model", "batch_size", "side", "steps"), shape, strict=True)),
        "bare": [before, bare_speed(*shape)],
        "run": run,
    }
    write_json(arguments.output or RESULTS, results)
    if arguments.output is None:
        put(PAGE, "loop", to_table(results))
    print(json.dumps(results["run"]), to_table(results))


if __name__ == "__main__":
    main()
