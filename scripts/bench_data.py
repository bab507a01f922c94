"""Measure the data pipeline in images per second on one core, from shards to batches of tensors.

    python scripts/bench_data.py 'SHARDS' [--rounds 9] [--images 400]

Compares four sides, which take turns in one process with one thread:

- ours: what training does. It reads samples in shuffled order, then decodes, scales and batches.
- original: what taming-transformers did with image files: PIL, albumentations and batches. Its
  files are in the page cache. Without albumentations (the extra `benchmarks`), it is left out.
- two upper limits: PIL and simplejpeg, which only decode.

Writes docs/benchmarks/data.json and the table in docs/benchmarks/README.md.
"""

import importlib.util
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its version

import numpy as np
import simplejpeg
import torch
from command_line import Parser, count
from pages import ROOT, machine, put, table, write_json
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vqgan_train.images.sample import image_bytes
from vqgan_train.images.transforms import ImageTransform, to_model_range
from vqgan_train.shards.index import index_shards
from vqgan_train.shards.naming import expand_shards
from vqgan_train.training.data.orders import FullShuffle, SampleRef
from vqgan_train.training.data.pipeline import PlannedBatches, ShardDataset, collate

RESULTS = ROOT / "docs" / "benchmarks" / "data.json"
PAGE = ROOT / "docs" / "benchmarks" / "README.md"
PACKAGES = (
    "torch", "pillow", "simplejpeg", "numpy", "webdataset", "albumentations",
    "opencv-python-headless",
)  # fmt: skip
NAMES = {
    "ours": "ours: shards to batches of tensors",
    "original": "the original's: files, PIL, albumentations",
    "pil": "ceiling: PIL decodes, nothing else",
    "simplejpeg": "ceiling: simplejpeg decodes, nothing else",
}
SIZE, BATCH_SIZE, SEED = 256, 8, 0

Side = Callable[[], int]
"""Function that processes all images once and returns their number."""


class FilesOfTheOriginal(Dataset[dict[str, Any]]):
    """Dataset of image files as in taming/data/base.py: shorter side 256, centre crop, [-1, 1]."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import albumentations
        import cv2

        cv2.setNumThreads(1)
        self.paths = list(paths)
        self.scale_and_crop = albumentations.Compose(
            [albumentations.SmallestMaxSize(SIZE), albumentations.CenterCrop(SIZE, SIZE)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path = self.paths[number]
        image = Image.open(path)
        if image.mode != "RGB":
            image = image.convert("RGB")
        pixels = np.array(image).astype(np.uint8)
        pixels = self.scale_and_crop(image=pixels)["image"]
        return {"image": (pixels / 127.5 - 1.0).astype(np.float32), "file_path_": str(path)}


def measure(patterns: Sequence[str], rounds: int, max_images: int) -> dict[str, Any]:
    """Measure all sides in turn.

    Args:
        patterns: paths, globs or brace patterns of the shards.
        rounds: measured turns of each side.
        max_images: images read per turn; rounded down to whole batches.

    Returns:
        Machine, settings and measurements, as written to data.json.
    """
    torch.set_num_threads(1)
    transform = ImageTransform(SIZE, SIZE, random_crop=False, random_flip=False)
    data = ShardDataset(index_shards(expand_shards(patterns)), transform, SEED)
    images = min(len(data), max_images) // BATCH_SIZE * BATCH_SIZE
    draws = FullShuffle(len(data), SEED).sample_refs(0, images)
    encoded = [*_encoded(data, draws)]
    with tempfile.TemporaryDirectory() as folder:
        sides, difference = _make_sides(data, draws, encoded, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for name in tqdm([*sides] * (rounds + 1), "measuring", unit="turn"):
            started_at = time.process_time()
            assert sides[name]() == images
            seconds[name].append(time.process_time() - started_at)
    # The first turn of each side is dropped, because it fills caches.
    speeds = {name: [round(images / s, 1) for s in took[1:]] for name, took in seconds.items()}
    sizes = [Image.open(io.BytesIO(content)).size for content in encoded]
    return {
        "machine": machine(PACKAGES),
        "settings": {
            "images_a_turn": images,
            "rounds": rounds,
            "image_size": SIZE,
            "batch_size": BATCH_SIZE,
            "num_workers": 0,
            "threads": 1,
            "clock": "seconds of the processor",
            "median_width": statistics.median(width for width, _ in sizes),
            "median_height": statistics.median(height for _, height in sizes),
            "mean_bytes": round(statistics.mean(map(len, encoded))),
        },
        "images_a_second_and_core": speeds,
        "left_out": [] if "original" in sides else ["original: albumentations is not installed"],
        "most_grey_levels_between_ours_and_original": difference,
    }


def _encoded(data: ShardDataset, draws: Sequence[SampleRef]) -> Iterator[bytes]:
    samples = [(shard, number) for shard in data.shards for number in range(shard.num_samples)]
    for draw in draws:
        shard, number = samples[draw.sample]
        yield image_bytes(shard.read(number))


def _make_sides(
    data: ShardDataset, draws: Sequence[SampleRef], encoded: Sequence[bytes], folder: Path
) -> tuple[dict[str, Side], int | None]:
    """Build the sides, and compare the pixels of ours and the original's in grey levels."""
    plan = FullShuffle(len(data), SEED)
    batches = PlannedBatches(
        plan, position=0, num_batches=len(draws) // BATCH_SIZE, batch_size=BATCH_SIZE,
        rank=0, world_size=1,
    )  # fmt: skip
    ours = DataLoader(data, batch_sampler=batches, collate_fn=collate)
    sides: dict[str, Side] = {"ours": lambda: sum(len(b["name"]) for b in ours)}
    difference = None
    if importlib.util.find_spec("albumentations") is not None:
        paths = [folder / f"{number:06d}" for number in range(len(encoded))]
        for path, content in zip(paths, encoded, strict=True):
            path.write_bytes(content)
        original = DataLoader(FilesOfTheOriginal(paths), BATCH_SIZE)
        sides["original"] = lambda: sum(len(b["image"]) for b in original)
        difference = _grey_levels(ours, original)
    sides["pil"] = lambda: sum(_decode_by_pil(content) for content in encoded)
    sides["simplejpeg"] = lambda: sum(_decode_by_simplejpeg(content) for content in encoded)
    return sides, difference


def _grey_levels(ours: DataLoader[Any], original: DataLoader[Any]) -> int:
    pairs = zip(ours, original, strict=True)
    images = ((to_model_range(a["image"]), b["image"].permute(0, 3, 1, 2)) for a, b in pairs)
    most: Tensor = max((one - other).abs().max() for one, other in images)
    return round(float(most) * 127.5)


def _decode_by_pil(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return 1


def _decode_by_simplejpeg(content: bytes) -> int:
    simplejpeg.decode_jpeg(content, "RGB")
    return 1


def to_table(results: dict[str, Any]) -> str:
    """Format the results as a Markdown table with notes."""
    speeds = results["images_a_second_and_core"]
    ours = speeds["ours"]
    rows = []
    for name, label in NAMES.items():
        if name in speeds:
            ratios = [mine / other for mine, other in zip(ours, speeds[name], strict=True)]
            spread = f"{min(speeds[name]):.0f} to {max(speeds[name]):.0f}"
            ratio = f"{statistics.median(ratios):.2f}" if name != "ours" else ""
            rows.append((label, f"{statistics.median(speeds[name]):.0f}", spread, ratio))
    head = ("from original-size photos to 256 x 256", "images/s a core", "all turns", "ours / this")
    where, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    notes = [
        f"{settings['images_a_turn']} photos a turn (median {settings['median_width']:.0f} x "
        f"{settings['median_height']:.0f}, {settings['mean_bytes'] / 1000:.0f} kB), "
        f"{settings['rounds']} turns each, taking turns; medians, the last column of each turn's "
        f"ratio. One process, one thread, {settings['clock']}. {where['date']}, "
        f"{where['processor']}, {where['cores']} cores, load {where['load_average'][0]}; "
        f"{versions}.",
        *(f"Left out: {reason}." for reason in results["left_out"]),
    ]
    levels = results["most_grey_levels_between_ours_and_original"]
    if levels is not None:
        notes.append(f"Pixels of ours and the original's differ by {levels} of 255 at most.")
    return "\n\n".join([table(head, rows), *notes])


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__)
    parser.add_argument("shards", nargs="+", help="path, glob or brace pattern of tar files")
    parser.add_argument(
        "--rounds", type=count, default=9, metavar="N", help="turns per side (default: 9)"
    )
    parser.add_argument(
        "--images", type=count, default=400, metavar="N", help="images per turn (default: 400)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the table without writing files"
    )
    arguments = parser.parse_args()
    results = measure(arguments.shards, arguments.rounds, arguments.images)
    print(to_table(results))
    if not arguments.dry_run:
        write_json(RESULTS, results)
        put(PAGE, "data", to_table(results))


if __name__ == "__main__":
    main()
