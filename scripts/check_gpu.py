"""Check and measure the package on one GPU, in at most 8 minutes, without any data.

    python scripts/check_gpu.py [--device cuda] [--output FILE]

Runs these parts one after the other, each in a process of its own with a time limit of its own:

- tokens: those of four photos, in fp32 and bf16, against the CPU's.
- tests: `pytest -m gpu`.
- steps, compiled steps: images per second of ours and the original's, in turns.
- kernels: the ten costliest of a training step, by name.
- run: 60 compiled steps of `python -m vqgan_train` on the package's photos, one of them damaged.
- golden losses: five steps, against the CPU's and those that this model of GPU had before.

A part that fails or takes too long is recorded with its error, and the others go on. Writes
docs/benchmarks/gpu_<device>.json, and prints the tables for docs/speed.md. The exit code is 1 if
any part failed. Without a GPU, or with --device cpu, everything is small and nothing is compiled:
this tests the script.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from command_line import Parser, exit_on_signals
from gpu_parts import BENCHMARKS, FULL, PARTS, SMALL, Results, file_name
from pages import machine, table, write_json

PACKAGES = ("torch", "triton", "pytorch-lightning", "taming-transformers-rom1504")


def main() -> None:
    """Run all parts, write their results and print the tables."""
    arguments = read_arguments()
    exit_on_signals()
    if arguments.part:
        carry_out(arguments.part, arguments.device, arguments.output)
        return
    results = check(arguments.device)
    write_json(arguments.output or BENCHMARKS / file_name(arguments.device), results)
    print(to_markdown(results))
    sys.exit(any("error" in part for part in results["parts"].values()))


def check(device: str) -> Results:
    """Return machine, device and the results of all parts."""
    return {
        "machine": machine(PACKAGES),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "parts": {name: run_alone(name, device) for name in PARTS},
    }


def run_alone(name: str, device: str) -> Results:
    """Run a part in a process of its own, so that a broken GPU context ends with it."""
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        options = ["--part", name, "--device", device, "--output", str(file)]
        return run_limited([sys.executable, __file__, *options], PARTS[name][1], file)


def run_limited(command: Sequence[str], limit_seconds: float, file: Path) -> Results:
    """Run a command that writes its results to a file, and stop it at the limit.

    Returns:
        The results so far and `seconds`; also `error`, if the command failed or was stopped.
    """
    started_at = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    error = None
    try:
        if process.wait(limit_seconds) != 0:
            error = f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        error = f"stopped after {limit_seconds:.0f} s"
    finally:
        stop_group(process)
    results = json.loads(file.read_text()) if file.exists() else {}
    if error is not None:
        results.setdefault("error", error)
    return {**results, "seconds": round(time.monotonic() - started_at, 1)}


def stop_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process with all that it started, such as loaders and compilers."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def carry_out(name: str, device: str, file: Path) -> None:
    """Run a part in this process; write its results to a file after each step."""
    part, _ = PARTS[name]
    results: Results = {}
    try:
        for more in part(device, FULL if device == "cuda" else SMALL):
            results |= more
            replace_json(file, results)
    except Exception as error:  # recorded, because the other parts go on
        replace_json(file, {**results, "error": f"{type(error).__name__}: {error}"[:1000]})
        raise


def replace_json(file: Path, results: Results) -> None:
    """Write a file in one piece: the process may be stopped at any time."""
    part = file.with_suffix(".part")
    write_json(part, results)
    part.replace(file)


def to_markdown(results: dict[str, Any]) -> str:
    """Format the tables for docs/speed.md."""
    parts = results["parts"]
    where = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return "\n\n".join(
        [
            parts_table(parts),
            steps_table([parts["steps"], parts["compiled steps"]]),
            kernels_table(parts["kernels"]),
            f"{where['date']}, {results['device']}, {where['cores']} cores; {versions}.",
        ]
    )


def parts_table(parts: dict[str, Results]) -> str:
    """Format one row a part: what it found, or its error."""
    rows = [
        (name, (part.get("error") or finding(name, part)).replace("\n", " "), part["seconds"])
        for name, part in parts.items()
    ]
    return table(("part", "result", "seconds"), rows)


def finding(name: str, part: Results) -> str:
    """Say in a few words what a part found."""
    if name == "tokens":
        shares = (f"{share:.2%} in {precision}" for precision, share in part["equal"].items())
        return f"equal to the CPU's: {', '.join(shares)}"
    if name == "tests":
        return str(part["summary"])
    if name == "run":
        speed, wait = part["train/images_per_second"], part["train/data_seconds"]
        return f"{part['steps']} steps, {speed:.3g} images/s, wait {wait * 1e3:.0f} ms a step"
    if name == "golden losses":
        return ", ".join(f"{side}: {values[-1]:.5f}" for side, values in part["losses"].items())
    return "" if len(part) > 1 else "left out"


def steps_table(parts: Sequence[Results]) -> str:
    """Format images per second: a row for each step, batch size and part."""
    rows = []
    for part in parts:
        turns = part.get("seconds_a_step", {})
        for side, by_size in turns.items():
            for size, seconds in by_size.items():
                theirs = turns["original"].get(size)
                if not seconds:
                    rows.append((side, size, "out of memory", ""))
                    continue
                median = statistics.median(seconds)
                ratio = f"{statistics.median(theirs) / median:.2f}" if theirs else ""
                rows.append((side, size, f"{int(size) / median:.3g}", ratio))
    return table(("step", "batch", "images/s", "speed / original"), rows)


def kernels_table(part: Results) -> str:
    """Format the costliest kernels of each profiled step."""
    rows = [
        (f"`{kernel['name'][:60]}`", side, kernel["calls"], kernel["milliseconds"],
         f"{kernel['share']:.1%}")
        for side, kernels in part.items() if isinstance(kernels, list) for kernel in kernels
    ]  # fmt: skip
    return table(("kernel", "step", "calls", "ms", "of the step"), rows)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu else "cpu",
                        help="device to check (default: cuda, or cpu without one)")  # fmt: skip
    parser.add_output("docs/benchmarks/gpu_<device>.json", "docs/speed.md")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not has_gpu:
        parser.error(f"--device cuda, but torch {torch.__version__} finds no GPU here")
    return arguments


if __name__ == "__main__":
    main()
