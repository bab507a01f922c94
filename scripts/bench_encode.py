"""Measure how many images per second are encoded, from photos on disk to token files.

    python scripts/bench_encode.py [SHARDS] [--images 48] [--rounds 3] [--batch-size 8]

Compares two sides, which take turns. Both encode the same photos at 256 pixels with the same random
weights of f16-16384, in float32 on the CPU:

- ours: `python -m vqgan_train.encode` without its start-up: shards, loader processes, parquet.
- original: what DALL-E mini's scripts did with taming-transformers: image files, PIL (LANCZOS,
  centre crop), batches through VQModel, parquet.

Without SHARDS, the photos are those of scikit-image. Writes docs/benchmarks/encode.json.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from command_line import Parser, count, exit_on_signals, output_file
from pages import ROOT, machine, write_json
from PIL import Image
from pyarrow import parquet
from torch import Tensor, nn
from tqdm import tqdm

from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.config.checks import config_dir
from vqgan_train.images.sample import image_bytes
from vqgan_train.images.sources import from_shards
from vqgan_train.models import VQGAN
from vqgan_train.shards.index import index_shard
from vqgan_train.shards.naming import expand_shards
from vqgan_train.shards.sample_photos import pack_sample_photos
from vqgan_train.shards.writing import write_shard
from vqgan_train.tokens.encode import Output, encode_chunks
from vqgan_train.tokens.formats import FORMATS as TOKEN_FORMATS
from vqgan_train.tokens.tokenizer import load_tokenizer

RESULTS = ROOT / "docs" / "benchmarks" / "encode.json"
SIDE = 256
ARCHITECTURE: dict[str, Any] = yaml.safe_load(
    (config_dir() / "model" / "f16_16384.yaml").read_text()
)["architecture"]
PACKAGES = ("torch", "pillow", "pyarrow", "taming-transformers-rom1504")


def make_weights(folder: Path) -> Path:
    """Write a checkpoint of random weights in the original's format."""
    torch.manual_seed(0)
    weights = {f"generator.{n}": w for n, w in VQGAN(**ARCHITECTURE).state_dict().items()}
    checkpoint = folder / "random.ckpt"
    torch.save({"state_dict": to_original(weights)}, checkpoint)
    return checkpoint


def make_photos(shards: Sequence[Path], count: int, folder: Path) -> tuple[Path, list[Path]]:
    """Copy the first photos into one shard and into image files; return the paths of both."""
    samples: list[dict[str, Any]] = []
    for shard in shards:
        index = index_shard(shard)
        for place in range(min(len(index.starts), count - len(samples))):
            fields = index.read(place)
            samples.append({"__key__": f"{len(samples):06d}", "jpg": image_bytes(fields)})
    write_shard(folder / "photos.tar", samples)
    files = [folder / "files" / f"{sample['__key__']}.jpg" for sample in samples]
    for file, sample in zip(files, samples, strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(sample["jpg"])
    return folder / "photos.tar", files


def our_way(checkpoint: Path, shard: Path, folder: Path, batch_size: int) -> Callable[[int], None]:
    """Return a function that encodes the shard, given the round's number."""
    tokenizer = load_tokenizer(checkpoint, torch.device("cpu"), "fp32")
    metadata = tokenizer.describe(pixel_range="signed", resize=SIDE, image_size=SIDE)
    source = from_shards([shard], samples_per_chunk=10_000)

    def encode(round_number: int) -> None:
        output = Output(folder / f"ours{round_number}", TOKEN_FORMATS["parquet"], metadata)
        with tqdm(disable=True) as bar:
            encode_chunks(
                source,
                output,
                tokenizer,
                chunks=source.chunk_names(),
                batch_size=batch_size,
                num_workers=2,
                max_bad_fraction=0,
                exif_rotate=False,
                bar=bar,
            )

    return encode


def originals_way(
    checkpoint: Path, files: Sequence[Path], folder: Path, batch_size: int
) -> Callable[[int], None]:
    """Return a function that encodes the files as DALL-E mini did, given the round's number."""
    model = original_model(checkpoint, folder)

    @torch.no_grad()
    def encode(round_number: int) -> None:
        rows: list[list[int]] = []
        for first in range(0, len(files), batch_size):
            images = torch.stack([load(file) for file in files[first : first + batch_size]])
            _, _, (_, _, tokens) = model.encode(images)
            rows += tokens.view(len(images), -1).tolist()
        table = pa.table({"caption": [""] * len(rows), "encoding": rows})
        parquet.write_table(table, folder / f"original{round_number}.parquet")

    return encode


def load(file: Path) -> Tensor:
    """Decode, resize and crop an image: float32 (3, SIDE, SIDE) in [-1, 1]."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    image = image.crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def original_model(checkpoint: Path, folder: Path) -> nn.Module:
    """Load the checkpoint into the original's VQModel."""
    # taming.models.vqgan imports this function from a script that needs a Lightning of 2021.
    script: Any = types.ModuleType("taming.main")
    script.instantiate_from_config = lambda config: config["module"]
    sys.modules["taming.main"] = script
    from taming.models.vqgan import VQModel

    exported = folder / "taming"
    exported.mkdir()
    networks = read_networks(checkpoint)
    FORMATS["taming"].write(networks, {}, exported)
    config = yaml.safe_load((exported / "config.yaml").read_text())["model"]["params"]
    config["lossconfig"] = {"module": nn.Identity()}
    return VQModel(**config, ckpt_path=str(exported / "model.ckpt")).eval()


def measure(
    sides: dict[str, Callable[[int], None]], rounds: int, images: int
) -> dict[str, list[float]]:
    """Measure images per second of each side and round, after a warm-up round."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, encode in sides.items():
            started_at = time.perf_counter()
            encode(number)
            seconds = time.perf_counter() - started_at
            print(f"round {number}, {name}: {images / seconds:.2f} images/s", flush=True)
            if number:
                speeds[name].append(round(images / seconds, 3))
    return speeds


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__)
    option = parser.add_argument
    option("shards", nargs="?", help="path, glob or brace pattern of tar files with photos")
    option("--images", type=count, default=48, metavar="N",
           help="number of photos to encode, at most all in the shards (default: 48)")  # fmt: skip
    option("--rounds", type=count, default=3, metavar="N",
           help="measured rounds, after a warm-up round (default: 3)")  # fmt: skip
    option("--batch-size", type=count, default=8, metavar="N",
           help="images per batch (default: 8)")  # fmt: skip
    option("--output", type=output_file, default=RESULTS, metavar="FILE",
           help="JSON to write (default: docs/benchmarks/encode.json)")  # fmt: skip
    arguments = parser.parse_args()
    exit_on_signals()
    shards = expand_shards([arguments.shards]) if arguments.shards else [pack_sample_photos()[0]]
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_weights(folder)
        shard, files = make_photos(shards, arguments.images, folder)
        sides = {
            "ours": our_way(checkpoint, shard, folder, arguments.batch_size),
            "original": originals_way(checkpoint, files, folder, arguments.batch_size),
        }
        speeds = measure(sides, arguments.rounds, len(files))
    medians = {name: round(statistics.median(values), 3) for name, values in speeds.items()}
    results = {
        "what": "images a second, photos to parquet, f16-16384 at 256 pixels, float32",
        "machine": machine(PACKAGES),
        "threads": torch.get_num_threads(),
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "images": len(files),
        "batch_size": arguments.batch_size,
        "images_per_second": speeds,
        "median": medians,
        "ratio_of_medians": round(medians["ours"] / medians["original"], 3),
    }
    write_json(arguments.output, results)
    print(json.dumps(results["median"]), results["ratio_of_medians"])


if __name__ == "__main__":
    main()
