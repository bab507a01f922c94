"""The parts of scripts/check_gpu.py: what each one runs and measures on a device.

A part is a generator of results: dictionaries that are merged as they come, so that a part which is
stopped keeps those that it had. A part that finds something wrong raises `CheckError` after them.
"""

import csv
import gc
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bench_step import draw_images, take_turns
from pages import ROOT
from steps import make_config, make_step, sample_images
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from vqgan_train.models import VQGAN
from vqgan_train.shards.sample_photos import pack_sample_photos
from vqgan_train.system.devices import arithmetic

sys.path.insert(0, str(ROOT / "tests"))
from factories import spread_codes

Results = dict[str, Any]
BENCHMARKS = ROOT / "docs" / "benchmarks"


class CheckError(Exception):
    """A part ran to its end and found something wrong."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the models, images and batches of all parts are."""

    model: str
    """Name of a file in conf/model."""

    side: int
    """Width and height of the images, in pixels."""

    batch_sizes: tuple[int, ...]
    """Of the steps in turns; those of compiled steps are the first two."""

    rounds: int
    """Measured steps of each side and batch size."""

    compiled: bool
    """Also measure, profile and run compiled steps."""

    run_steps: int
    """Optimizer steps of the run."""


FULL = Sizes(
    model="f16_16384", side=256, batch_sizes=(32, 8, 64, 16), rounds=5, compiled=True, run_steps=60
)
SMALL = Sizes(model="small", side=64, batch_sizes=(1,), rounds=1, compiled=False, run_steps=10)
"""For the script's own test on a CPU, where compiling takes minutes."""


def tokens(device: str, sizes: Sizes) -> Iterator[Results]:
    """Compare tokens of four photos with the CPU's in fp32."""
    images = sample_images(4, sizes.side)
    config = make_config(sizes.model, (4, 3, sizes.side, sizes.side))
    torch.manual_seed(0)
    model = VQGAN(**asdict(config.model.architecture)).eval()
    spread_codes(model.quantizer.codebook.weight, model.quant_conv.weight)
    with torch.no_grad(), arithmetic("fp32", torch.device("cpu")):
        expected = model.encode(images)
    equal = {}
    model.to(device)
    for precision in ("fp32", "bf16"):
        with torch.no_grad(), arithmetic(precision, torch.device(device)):
            found = model.encode(images.to(device)).cpu()
        equal[precision] = float((found == expected).double().mean())
    yield {"tokens": expected.numel(), "equal": equal}
    if equal["fp32"] < 0.999:
        raise CheckError(f"only {equal['fp32']:.2%} of the tokens in fp32 equal the CPU's")


def tests(device: str, sizes: Sizes) -> Iterator[Results]:
    """Run the tests that are marked gpu."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests/test_gpu.py"]
    command += ["tests/models/test_precisions.py"]
    visible = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **visible}, stdout=subprocess.PIPE, text=True
    )
    lines = finished.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"summary": lines[-1] if lines else "", "failed": failed}
    if finished.returncode != 0:
        raise CheckError(f"pytest -m gpu: {lines[-1] if lines else 'it printed nothing'}")


def steps(device: str, sizes: Sizes) -> Iterator[Results]:
    """Measure our uncompiled steps and the original's in turns."""
    sides = ("original", "ours, bf16", "ours, bf16, contiguous")
    yield from _in_turns(sides, sizes.batch_sizes, device, sizes)


def compiled_steps(device: str, sizes: Sizes) -> Iterator[Results]:
    """Measure our compiled step, the uncompiled one and the original's in turns."""
    if sizes.compiled:
        sides = ("original", "ours, bf16", "ours, bf16, compiled")
        yield from _in_turns(sides, sizes.batch_sizes[:2], device, sizes)


def _in_turns(
    sides: Sequence[str], batch_sizes: Sequence[int], device: str, sizes: Sizes
) -> Iterator[Results]:
    seconds: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    for batch_size in batch_sizes:
        turns, _ = take_turns(sides, sizes.model, batch_size, sizes.side, sizes.rounds, device)
        for side, values in turns.items():
            seconds[side][str(batch_size)] = values
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        yield {"seconds_a_step": seconds}


def kernels(device: str, sizes: Sizes) -> Iterator[Results]:
    """Profile one step of the first batch size, and list its ten costliest kernels."""
    batch_size, side = sizes.batch_sizes[0], sizes.side
    images = draw_images(batch_size, side, device)
    for name in ("ours, bf16", "ours, bf16, compiled")[: 1 + sizes.compiled]:
        step = make_step(name, sizes.model, (batch_size, 3, side, side), device)
        for _ in range(2):
            step(images)
        activities = [ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]
        with profile(activities=activities) as trace:
            step(images)
        yield {name: _costliest(trace.key_averages(), device)}


def _costliest(events: Sequence[Any], device: str, count: int = 10) -> list[Results]:
    """List kernels (on a CPU, operations) by their own time, longest first."""
    on_gpu = device == "cuda"
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times = {event: getattr(event, attribute) for event in events if event.device_type == kind}
    total = sum(times.values()) or 1
    longest = sorted(times, key=lambda event: -times[event])[:count]
    return [
        {
            "name": event.key,
            "calls": event.count,
            "milliseconds": round(times[event] / 1e3, 3),
            "share": round(times[event] / total, 4),
        }
        for event in longest
    ]


def run(device: str, sizes: Sizes) -> Iterator[Results]:
    """Train on the package's photos, one of which is damaged."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        train, val = pack_sample_photos()
        damage_one_photo(train, folder / "train.tar")
        settings = {
            "experiment": "finetune",
            "model": sizes.model,
            "model.init_from": "null",
            "data.train_shards": folder / "train.tar",
            "data.val_shards": val,
            "data.max_bad_fraction": 0.2,
            "data.batch_size": max(sizes.batch_sizes[0], 8),
            "data.image_size": sizes.side,
            "data.resize": sizes.side,
            "run.output_dir": folder / "run",
            "run.max_steps": sizes.run_steps,
            "run.log_every_steps": sizes.run_steps // 5,
            "run.val_every_steps": sizes.run_steps,
            "run.checkpoint_every_steps": sizes.run_steps,
            "trainer.accelerator": "gpu" if device == "cuda" else "cpu",
            "trainer.devices": 1,
            "trainer.precision": "bf16",
            "trainer.compile": str(sizes.compiled).lower(),
        }
        command = [sys.executable, "-m", "vqgan_train"]
        command += [f"{name}={value}" for name, value in settings.items()]
        finished = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(finished.stdout, flush=True)
        if finished.returncode != 0:
            raise CheckError(f"the run exited with {finished.returncode}")
        results = summary(folder / "run" / "metrics.csv", finished.stdout)
    yield results
    _require_good_run(results, sizes)


def damage_one_photo(source: Path, target: Path) -> None:
    """Copy a shard, with zeros in place of the first JPEG's second half."""
    is_whole = True
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]  # all are files
            if is_whole and member.name.endswith(".jpg"):
                content, is_whole = content[:20] + bytes(len(content) - 20), False
            new.addfile(member, io.BytesIO(content))


def summary(metrics: Path, log: str) -> Results:
    """Summarise a run's metrics.csv and log."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss/total"]]
    medians = ("train/images_per_second", "train/step_seconds", "train/data_seconds")
    return {
        "steps": int(rows[-1]["step"]),
        **{name: statistics.median(float(row[name]) for row in rows) for name in medians},
        "losses": [float(row["train/loss/total"]) for row in rows],
        "bad_samples": max(float(row["data/bad_samples"] or 0) for row in rows),
        "compiled": "Compiled the networks" in log,
    }


def _require_good_run(results: Results, sizes: Sizes) -> None:
    faults = {
        f"it made {results['steps']} steps": results["steps"] != sizes.run_steps,
        "the damaged photo was not counted": results["bad_samples"] < 1,
        "a loss is not finite": not all(map(math.isfinite, results["losses"])),
        "its steps were not compiled": sizes.compiled and not results["compiled"],
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    if found:
        raise CheckError("the run: " + ", ".join(found))


def golden_losses(device: str, sizes: Sizes) -> Iterator[Results]:
    """Train five steps on four photos; compare with the CPU, and with the device's own record."""
    side = 64
    images = sample_images(4, side)
    losses = {}
    for place in dict.fromkeys((device, "cpu")):
        for name in ("ours", "ours, bf16"):
            step = make_step(name, "small", tuple(images.shape), place)  # type: ignore[arg-type]
            losses[f"{name}, {place}"] = [step(images.to(place)) for _ in range(5)]
    yield {"losses": losses}
    recorded = BENCHMARKS / file_name(device)
    before = json.loads(recorded.read_text()) if recorded.exists() else {}
    known = before.get("parts", {}).get("golden losses", {}).get("losses", {})
    expected = {f"ours, {device}": losses["ours, cpu"][:1], **known}
    for name, values in expected.items():
        if any(abs(a / b - 1) > 2e-3 for a, b in zip(losses[name], values, strict=False)):
            raise CheckError(f"{name}: losses {losses[name]}, expected {values}")


def file_name(device: str) -> str:
    """Return the name of the results' file, which has that of the GPU's model."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return f"gpu_{name.lower().replace(' ', '_')}.json"


PARTS: dict[str, tuple[Callable[[str, Sizes], Iterator[Results]], int]] = {
    "tokens": (tokens, 30),
    "tests": (tests, 110),
    "steps": (steps, 80),
    "compiled steps": (compiled_steps, 120),
    "kernels": (kernels, 40),
    "run": (run, 80),
    "golden losses": (golden_losses, 20),
}
"""All parts in their order, with the most seconds that each may take: 8 minutes in all."""
