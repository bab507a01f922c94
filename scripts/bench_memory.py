"""Check that the memory of the data loader's processes does not grow over three epochs.

    python scripts/bench_memory.py 'SHARDS' [--num-workers 2]

Reads batches as training does, with the same loader processes for all epochs, and records the
resident memory of each process. Fails if a process grew by 5 % or more since the first epoch. Linux
only. Writes docs/benchmarks/memory.json and the table in docs/benchmarks/README.md.
"""

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import Parser, count
from pages import ROOT, machine, put, table, write_json
from torch.utils.data import DataLoader
from tqdm import tqdm

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import index_shards
from vqgan_train.shards.naming import expand_shards
from vqgan_train.training.data.orders import FullShuffle
from vqgan_train.training.data.pipeline import PlannedBatches, ShardDataset, collate

RESULTS = ROOT / "docs" / "benchmarks" / "memory.json"
PAGE = ROOT / "docs" / "benchmarks" / "README.md"
PACKAGES = ("torch", "pillow", "simplejpeg", "webdataset")
EPOCHS, BATCH_SIZE, SEED = 3, 8, 0
MAX_GROWTH = 0.05
"""Fraction of the first epoch's memory."""


def measure(
    patterns: Sequence[str], *, num_workers: int, images_an_epoch: int | None = None
) -> dict[str, Any]:
    """Read three epochs and record the memory.

    Args:
        patterns: paths, globs or brace patterns of the shards.
        num_workers: loader processes.
        images_an_epoch: images per epoch. None: all.

    Returns:
        Machine, settings and the median memory per process and epoch, as written to memory.json.
    """
    transform = ImageTransform(256, 256, random_crop=False, random_flip=False)
    data = ShardDataset(index_shards(expand_shards(patterns)), transform, SEED)
    batches_an_epoch = (images_an_epoch or len(data)) // BATCH_SIZE
    batches = PlannedBatches(
        FullShuffle(len(data), SEED), position=0, num_batches=EPOCHS * batches_an_epoch,
        batch_size=BATCH_SIZE, rank=0, world_size=1,
    )  # fmt: skip
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=num_workers)
    reading: Any = iter(loader)
    processes = {"main": os.getpid()}
    processes |= {f"reader {n}": w.pid for n, w in enumerate(getattr(reading, "_workers", ()))}
    resident: dict[str, list[list[int]]] = {name: [[] for _ in range(EPOCHS)] for name in processes}
    for number, _batch in enumerate(tqdm(reading, "reading", len(batches), unit="batch")):
        epoch, place = divmod(number, batches_an_epoch)
        for name, process in processes.items():
            if place >= batches_an_epoch // 2:
                resident[name][epoch].append(_resident_bytes(process))
    return {
        "machine": machine(PACKAGES),
        "settings": {
            "images_an_epoch": batches_an_epoch * BATCH_SIZE,
            "batch_size": BATCH_SIZE,
            "num_workers": num_workers,
        },
        "resident_bytes": {
            name: [int(statistics.median(sizes)) for sizes in epochs]
            for name, epochs in resident.items()
        },
    }


def _resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growths(results: Mapping[str, Any]) -> dict[str, float]:
    """Return each process's growth from the first epoch to the last, as a fraction."""
    return {name: sizes[-1] / sizes[0] - 1 for name, sizes in results["resident_bytes"].items()}


def to_table(results: Mapping[str, Any]) -> str:
    """Format the results as a Markdown table with a note."""
    head = ("resident memory, MB", *(f"epoch {n + 1}" for n in range(EPOCHS)), "growth")
    growth = growths(results)
    rows = [
        (name, *(f"{size / 1e6:.1f}" for size in sizes), f"{growth[name]:+.1%}")
        for name, sizes in results["resident_bytes"].items()
    ]
    where, settings = results["machine"], results["settings"]
    note = (
        f"{settings['images_an_epoch']} images an epoch in batches of {settings['batch_size']}; "
        f"the median of an epoch's second half. {where['date']}, Python {where['python']}, "
        + ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    )
    return f"{table(head, rows)}\n\n{note}."


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__)
    parser.add_argument("shards", nargs="+", help="path, glob or brace pattern of tar files")
    parser.add_argument(
        "--num-workers", type=int, default=2, metavar="N", help="loader processes (default: 2)"
    )
    parser.add_argument(
        "--images-an-epoch", type=count, metavar="N", help="images per epoch (default: all)"
    )
    arguments = parser.parse_args()
    results = measure(
        arguments.shards,
        num_workers=arguments.num_workers,
        images_an_epoch=arguments.images_an_epoch,
    )
    print(to_table(results))
    write_json(RESULTS, results)
    put(PAGE, "memory", to_table(results))
    sys.exit(any(growth >= MAX_GROWTH for growth in growths(results).values()))


if __name__ == "__main__":
    main()
