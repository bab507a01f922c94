"""Measure the speed of one training step, ours and two others', in images per second.

    python scripts/bench_step.py [--batch-sizes 1 2 4] [--rounds 5] [--sides ...]

All sides train on the same images from the same random weights, and take turns in one process:

- original: taming-transformers-rom1504 with its own order of operations in float32: generator pass,
  generator step, generator pass, discriminator step.
- modern: one generator pass and two optimizers, after LlamaGen's trainer (modern_step.py). Its loss
  and its discriminator are other ones, so its first loss is not comparable.
- ours, in several variants: what `python -m vqgan_train` does for each batch: losses, backward
  pass, the check for NaN and infinite gradients, Adam.

Peak memory and FLOP are measured in a separate process per side. Writes
docs/benchmarks/step_<device>.json and the table in docs/speed.md.
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from arithmetic import Operations, matrix_rates
from command_line import Parser, count, exit_on_signals
from pages import ROOT, machine, put, table, write_json
from steps import MODELS, SIDES, make_step
from torch import Tensor

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "step_cpu.json"
DEFAULT_SIDES = SIDES[:7]
PACKAGES = ("torch", "pytorch-lightning", "lpips", "taming-transformers-rom1504")


def draw_images(batch_size: int, side: int, device: str) -> Tensor:
    """Draw smooth random images (B, 3, side, side) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch_size, 3, 8, 8, generator=generator) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return images.to(device)


def take_turns(
    sides: Sequence[str], model: str, batch_size: int, side: int, rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measure the steps of all sides in turn.

    Returns:
        Seconds per step of each side, without the first step, and the loss of each side's first
        step. Both are empty for a side that ran out of memory.
    """
    images = draw_images(batch_size, side, device)
    shape = (batch_size, 3, side, side)
    steps, first, seconds = {}, {}, {name: list[float]() for name in sides}
    for name in sides:
        try:
            steps[name] = make_step(name, model, shape, device)
            first[name] = steps[name](images)
        except torch.OutOfMemoryError:
            steps.pop(name, None)
    for number in range(rounds):
        turn = number % len(sides)
        for name in (*sides[turn:], *sides[:turn]):
            if name in steps:
                started_at = time.perf_counter()
                steps[name](images)
                seconds[name].append(round(time.perf_counter() - started_at, 4))
                print(f"batch {batch_size}, {name}: {seconds[name][-1]:.3f} s", flush=True)
    return seconds, first


def examine(name: str, model: str, batch_size: int, side: int, device: str) -> dict[str, float]:
    """Measure the peak memory of two steps of one side, then count the FLOP of one step."""
    images = draw_images(batch_size, side, device)
    step = make_step(name, model, (batch_size, 3, side, side), device)
    step(images)
    step(images)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident_bytes()
    with Operations() as operations:
        step(images)
    return {
        "batch_size": batch_size,
        "peak_memory_gb": round(peak / 1e9, 3),
        "gflop_an_image": round(operations.count / batch_size / 1e9, 1),
    }


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process. getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return int(kilobytes) * 1024


def examine_alone(*arguments: object) -> dict[str, float]:
    """Call `examine` in a separate process, so that other sides do not count in its memory."""
    command = [sys.executable, str(Path(__file__)), "--examine", json.dumps(arguments)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measurements: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measurements


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return machine, settings and measurements, as written to the JSON file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load_before = os.getloadavg()[0]
    rates = matrix_rates(device)
    turns: dict[str, dict[int, list[float]]] = {name: {} for name in arguments.sides}
    first: dict[str, float] = {}
    for batch_size in arguments.batch_sizes:
        seconds, losses = take_turns(
            arguments.sides, arguments.model, batch_size, arguments.side, arguments.rounds, device
        )
        first = first or losses
        for name, values in seconds.items():
            turns[name][batch_size] = values
        gc.collect()
    return {
        "what": f"one training step of {arguments.model} at {arguments.side} pixels",
        "machine": machine(PACKAGES),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "matrix_tflop_per_second": {name: round(rate / 1e12, 3) for name, rate in rates.items()},
        "loss_of_the_first_step": first,
        "seconds_a_step": turns,
        "alone": {
            name: examine_alone(
                name, arguments.model, arguments.batch_sizes[0], arguments.side, device
            )
            for name in arguments.sides
        },
    }


def speeds(results: dict[str, Any], name: str) -> dict[str, float]:
    """Return the median images per second of a side, by batch size."""
    return {
        size: int(size) / statistics.median(seconds)
        for size, seconds in results["seconds_a_step"][name].items()
        if seconds
    }


def to_table(results: dict[str, Any]) -> str:
    """Format the table of docs/speed.md, with speeds relative to the first side's."""
    best = {}
    for name in results["seconds_a_step"]:
        by_size = speeds(results, name)
        if by_size:  # empty if the side ran out of memory at every size
            best[name] = max(by_size.items(), key=lambda pair: pair[1])
    first, (_, first_speed) = next(iter(best.items()))
    rows = []
    for name, (size, speed) in best.items():
        seconds, alone = results["seconds_a_step"][name][size], results["alone"][name]
        rates = results["matrix_tflop_per_second"]
        # On a GPU, torch computes fp32 convolutions in TF32, for ours and for the original.
        rate = rates["bf16"] if "bf16" in name else rates.get("tf32", rates["fp32"])
        rows.append(
            (
                name,
                size,
                f"{speed:.3g}",
                f"{int(size) / max(seconds):.3g} to {int(size) / min(seconds):.3g}",
                f"{speed / first_speed:.2f}",
                f"{alone['gflop_an_image']:,.0f}",
                f"{speed * alone['gflop_an_image'] / 1e3 / rate:.0%}",
                f"{alone['peak_memory_gb']:.1f}",
            )
        )
    head = (
        "step", "best batch", "images/s", "all turns", f"speed / {first}", "GFLOP an image",
        "of the matrix rate", "peak GB, batch " + str(alone["batch_size"]),
    )  # fmt: skip
    where = results["machine"]
    products = ", ".join(
        f"{rate} TFLOP/s in {name}" for name, rate in results["matrix_tflop_per_second"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    device = results["device"] if results["device"] != "cpu" else where["processor"]
    return (
        f"{table(head, rows)}\n\n{results['what'].capitalize()}. {where['date']}, {device}, "
        f"{where['cores']} cores, {results['threads']} threads, load "
        f"{results['load_average']['before']}; matrix products: {products}. {versions}."
    )


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    option = parser.add_argument
    option("--batch-sizes", type=count, nargs="+", default=[1, 2, 4], metavar="N",
           help="images per step, measured one after the other (default: 1 2 4)")  # fmt: skip
    option("--rounds", type=count, default=5, metavar="N",
           help="measured steps per side and batch size, after a warm-up (default: 5)")  # fmt: skip
    quoted = " ".join(f"'{name}'" for name in SIDES)
    option("--sides", choices=SIDES, nargs="+", default=list(DEFAULT_SIDES), metavar="SIDE",
           help=f"steps to compare, each in quotes: {quoted} (default: the first 7)")  # fmt: skip
    option("--model", choices=MODELS, default="f16_16384",
           help="model, a file of conf/model (default: f16_16384)")  # fmt: skip
    option("--side", type=count, default=256, metavar="PIXELS",
           help="width and height of the images (default: 256)")  # fmt: skip
    parser.add_output("docs/benchmarks/step_<device>.json", "docs/speed.md")
    option("--examine", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    arguments = read_arguments()
    exit_on_signals()
    if arguments.examine:
        print(json.dumps(examine(*json.loads(arguments.examine))))
        return
    results = json.loads(json.dumps(measure(arguments)))
    name = "cpu" if results["device"] == "cpu" else results["device"].split()[-1].lower()
    write_json(arguments.output or RESULTS.with_name(f"step_{name}.json"), results)
    if arguments.output is None:
        put(PAGE, f"step on {name}", to_table(results))
    print(to_table(results))


if __name__ == "__main__":
    main()
