"""Measure how much memory `python -m vqgan_train.evaluate` needs per image.

    python scripts/bench_evaluate.py [--images 1000 3000 8000] [--num-workers 2]

Runs the command on shards of small images with captions and two tiny models with random weights,
once for each number of images, and records the memory of all its processes. The difference between
two runs gives the memory per image. It does not depend on the image size, because pixels are not
kept. Linux only. Writes docs/benchmarks/evaluate.json and the table in docs/evaluation.md.
"""

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
from command_line import Parser, count
from pages import ROOT, machine, put, table, write_json
from PIL import Image

from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.models import VQGAN
from vqgan_train.shards.writing import write_shard

RESULTS = ROOT / "docs" / "benchmarks" / "evaluate.json"
PAGE = ROOT / "docs" / "evaluation.md"
PACKAGES = ("torch", "torchmetrics", "numpy", "pillow")
SIDE, SAMPLES_A_SHARD = 32, 100
ARCHITECTURE: dict[str, Any] = {
    "channels": 32,
    "channel_multipliers": [1, 1, 1, 1],
    "num_residual_blocks": 1,
    "attention_resolutions": [],
    "resolution": SIDE,
    "latent_channels": 32,
    "code_dim": 16,
    "codebook_size": 64,
}
METRICS = ("psnr", "ssim", "l1")
SECONDS_BETWEEN_LOOKS = 0.1
EXAMPLE_IMAGES = 50_000


def measure(counts: Sequence[int], *, num_workers: int) -> dict[str, Any]:
    """Run one evaluation per number of images.

    Args:
        counts: numbers of images: at least two, ascending, multiples of 100.
        num_workers: loader processes.

    Returns:
        Machine, settings and measurements, as written to evaluate.json.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = [make_weights(folder / f"{seed}.ckpt", seed) for seed in range(2)]
        make_shards(folder, max(counts))
        runs = [evaluate(checkpoints, folder, count, num_workers) for count in counts]
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
    """Write a checkpoint of random weights in the original's format."""
    torch.manual_seed(seed)
    weights = {f"generator.{n}": w for n, w in VQGAN(**ARCHITECTURE).state_dict().items()}
    torch.save({"state_dict": to_original(weights)}, path)
    return path


def make_shards(folder: Path, count: int) -> None:
    """Write shards of noise images with captions of typical length."""
    random = np.random.default_rng(0)
    for shard, first in enumerate(range(0, count, SAMPLES_A_SHARD)):
        samples = [
            {
                "__key__": f"{number:09d}",
                "txt": f"A photo of noise, number {number}, as a caption of some length has it.",
                "png": _png(random),
            }
            for number in range(first, first + SAMPLES_A_SHARD)
        ]
        write_shard(folder / f"{shard:05d}.tar", samples)


def _png(random: np.random.Generator) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(picture, "PNG")
    return picture.getvalue()


def evaluate(
    checkpoints: Sequence[Path], folder: Path, count: int, num_workers: int
) -> dict[str, Any]:
    """Run the command on the first images; return its duration and peak memory."""
    last = count // SAMPLES_A_SHARD - 1
    command = [
        *(sys.executable, "-m", "vqgan_train.evaluate"),
        f"checkpoint=[{','.join(map(str, checkpoints))}]",
        f"shards={folder}/{{00000..{last:05d}}}.tar",
        f"output={folder / f'out{count}'}",
        f"metrics=[{','.join(METRICS)}]",
        *(f"resize={SIDE}", f"image_size={SIDE}", "faces.detect=false", "accelerator=cpu"),
        f"num_workers={num_workers}",
    ]
    started_at = time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        most_resident = most_own = 0
        while process.poll() is None:
            family = list(_family(process.pid))
            most_resident = max(most_resident, sum(map(_resident_bytes, family)))
            most_own = max(most_own, sum(map(_own_bytes, family)))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "images": count,
        "seconds": round(time.perf_counter() - started_at, 1),
        "most_resident_bytes": most_resident,
        "most_own_bytes": most_own,
    }


def _family(process: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield process
    file = Path(f"/proc/{process}/task/{process}/children")
    for child in _text(file).split():
        yield from _family(int(child))


def _bytes_of(process: int, *kinds: str) -> int:
    """Sum up some of the memory kinds in a process's smaps_rollup."""
    lines = _text(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines[1:]}
    return sum(sizes.get(kind, 0) for kind in kinds)


def _resident_bytes(process: int) -> int:
    """Return the resident memory; libraries shared by several processes count in each."""
    return _bytes_of(process, "Rss")


def _own_bytes(process: int) -> int:
    """Return the memory that maps no file; pages shared by processes count once in total."""
    return _bytes_of(process, "Pss_Anon", "Pss_Shmem")


def _text(file: Path) -> str:
    """Read a file of /proc; return an empty text if the process has ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def bytes_an_image(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the additional memory of the last run per additional image."""
    before, last = runs[-2:]
    more = last["most_own_bytes"] - before["most_own_bytes"]
    return round(more / (last["images"] - before["images"]), 1)


def to_table(results: Mapping[str, Any]) -> str:
    """Format the results as a Markdown table with a note."""
    head = ("images", "most resident, MB", "without files, MB", "seconds", "images/s")
    rows = [
        (
            f"{run['images']:,}",
            f"{run['most_resident_bytes'] / 1e6:.0f}",
            f"{run['most_own_bytes'] / 1e6:.0f}",
            f"{run['seconds']:.0f}",
            f"{run['images'] / run['seconds']:.0f}",
        )
        for run in results["runs"]
    ]
    where, settings, each = results["machine"], results["settings"], results["bytes_an_image"]
    note = (
        f"From the last two: {each / 1e3:.1f} kB an image, so {EXAMPLE_IMAGES:,} images need "
        f"{EXAMPLE_IMAGES * each / 1e6:.0f} MB more than none. {settings['checkpoints']} tiny "
        f"models, {', '.join(settings['metrics'])}, {settings['image_size']} pixels, batches of "
        f"{settings['batch_size']}, {settings['num_workers']} loader processes. All "
        "processes together: resident with libraries in each, which other programs may share; "
        f"without files, what is theirs alone. Seconds include the start. {where['date']}, "
        f"{where['cores']} cores, load {where['load_average'][0]}, Python {where['python']}, "
        + ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    )
    return f"{table(head, rows)}\n\n{note}."


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__)
    option = parser.add_argument
    option("--images", type=count, nargs="+", default=[1000, 3000, 8000], metavar="N",
           help="numbers of images, one run for each (default: 1000 3000 8000)")  # fmt: skip
    option("--num-workers", type=int, default=2, metavar="N",
           help="loader processes (default: 2)")  # fmt: skip
    arguments = parser.parse_args()
    results = measure(sorted(arguments.images), num_workers=arguments.num_workers)
    print(to_table(results))
    write_json(RESULTS, results)
    put(PAGE, "evaluation memory", to_table(results))


if __name__ == "__main__":
    main()
