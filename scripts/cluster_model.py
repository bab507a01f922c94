"""What a cluster may reach, computed and not measured.

    python scripts/cluster_model.py [--output FILE]

Writes the table of docs/cluster.md, and prints it. Weights and images are counted; the rates of the
machines, and the share of a GPU's arithmetic that a step makes use of, are put in below: put in
yours.
"""

import json
from dataclasses import asdict
from typing import NamedTuple

import torch
from command_line import Parser, output_file
from hydra import compose, initialize_config_dir
from pages import ROOT, put, table

from vqgan_train.config import Config, config_dir, register_schema, to_config
from vqgan_train.models import VQGAN, PatchDiscriminator

PAGE = ROOT / "docs" / "cluster.md"
STEP = ROOT / "docs" / "benchmarks" / "step_cpu.json"

IMAGE_GFLOP: float = json.loads(STEP.read_text())["alone"]["ours, bf16"]["gflop_an_image"]
"""A training step on one image of 256 x 256, forward and backward, as scripts/bench_step.py counted
it: the same on any device."""

GPU_TFLOPS = 790
"""An H100's matrix products in bf16, measured."""

USED = 0.35
"""Share of that which a step reaches. Assumed: convolutions over narrow images reach 0.2 to 0.5."""

IMAGE_BYTES = {"256 pixels": 33_000, "original size": 107_000}
"""In a shard: 330 MB for 10,000; the median of the photos of docs/benchmarks."""

IMAGES_A_CORE = 422
"""Read, decoded and scaled in a second by one core: docs/benchmarks, original-size photos."""

GRADIENT_BYTES = 4
"""float32, in any trainer.precision."""

BATCH = 8


class Cluster(NamedTuple):
    """Equal machines."""

    nodes: int
    gpus: int
    link: float
    """Bytes a second that leave a GPU towards the others of its machine."""

    network: float
    """Bytes a second that leave a machine."""


NVLINK, INFINIBAND, ETHERNET = 400e9, 8 * 50e9, 12.5e9
CLUSTERS = (
    Cluster(1, 1, NVLINK, INFINIBAND),
    Cluster(1, 8, NVLINK, INFINIBAND),
    Cluster(2, 8, NVLINK, INFINIBAND),
    Cluster(8, 8, NVLINK, INFINIBAND),
    Cluster(2, 8, NVLINK, ETHERNET),
    Cluster(8, 8, NVLINK, ETHERNET),
)


def num_weights() -> int:
    """Weights that are trained in experiment=finetune: generator and discriminator."""
    register_schema(Config)
    overrides = ["experiment=finetune", "model.init_from=a", "data.train_shards=a"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("train", overrides=[*overrides, "data.val_shards=b"])
    model = to_config(composed, Config).model
    with torch.device("meta"):
        generator = VQGAN(**asdict(model.architecture))
        discriminator = PatchDiscriminator(in_channels=3, **asdict(model.discriminator))
    players = (generator, discriminator)
    return sum(weight.numel() for player in players for weight in player.parameters())


def arithmetic_seconds(batch: int) -> float:
    """A step's forward and backward on one GPU."""
    return batch * IMAGE_GFLOP / (GPU_TFLOPS * 1e3 * USED)


def all_reduce_seconds(cluster: Cluster, num_bytes: float) -> float:
    """A ring: 2 (n - 1) / n of the gradient leaves each member, through the narrowest link."""
    ranks = cluster.nodes * cluster.gpus
    rate = cluster.link if cluster.nodes == 1 else min(cluster.link, cluster.network)
    return 2 * (ranks - 1) / ranks * num_bytes / rate


def to_row(cluster: Cluster, weights: int) -> list[str]:
    """A row of the table: with all of the all-reduce hidden behind backward, and with none."""
    ranks = cluster.nodes * cluster.gpus
    work = arithmetic_seconds(BATCH)
    wait = all_reduce_seconds(cluster, weights * GRADIENT_BYTES)
    fast, slow = max(work, wait), work + wait
    images = BATCH * cluster.gpus / fast
    network = "-" if cluster.nodes == 1 else f"{cluster.network / 1e9:g} GB/s"
    return [
        f"{cluster.nodes} x {cluster.gpus}",
        network,
        str(BATCH * ranks),
        f"{work * 1e3:.0f}",
        f"{wait * 1e3:.1f}",
        f"{fast * 1e3:.0f} to {slow * 1e3:.0f}",
        f"{BATCH * ranks / slow:,.0f} to {BATCH * ranks / fast:,.0f}",
        " / ".join(f"{images * size / 1e6:.0f}" for size in IMAGE_BYTES.values()),
        f"{images / IMAGES_A_CORE:.1f}",
    ]


def to_table() -> str:
    """The table of docs/cluster.md."""
    weights = num_weights()
    head = [
        "nodes x GPUs", "between nodes", "images a step", "arithmetic, ms", "all-reduce, ms",
        "step, ms", "images/s", "MB/s a node, 256 px / original", "reader cores a node",
    ]  # fmt: skip
    return table(head, [to_row(cluster, weights) for cluster in CLUSTERS])


def main() -> None:
    """Compute and write down."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--output", type=output_file, metavar="FILE",
        help="where the table goes instead of docs/cluster.md",
    )  # fmt: skip
    given = parser.parse_args()
    if given.output is None:
        put(PAGE, "cluster", to_table())
    else:
        given.output.write_text(to_table() + "\n")
    print(to_table())


if __name__ == "__main__":
    main()
