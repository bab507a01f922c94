"""Runs of one or two ranks that remember each batch they trained on, and how they ended."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from tiny_runs import compose_config

from vqgan_train.training import report
from vqgan_train.training.callbacks.rank_consistency import BatchNormAverage
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.train import train


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def be_rank_of_torchrun(rank: int, port: int) -> None:
    """Make this process one of two that torchrun has started, for commands that count by those."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }


def be_rank(rank: int, port: int) -> None:
    """Make this process one of two ranks of a machine, before anything asks which."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
    }
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = rank
    report.write_curves = lambda path, rows: False  # as the tests' own process does


def train_two_ranks(folder: Path, *runs: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Train runs on two ranks with gloo, one run after the other in the same two processes.

    Args:
        folder: where the ranks write their records.
        runs: the overrides of each run.

    Returns:
        For each run, the record of each rank; see `train_and_record`.
    """
    jobs = [([*run, "trainer.devices=2"], free_port()) for run in runs]
    torch.multiprocessing.spawn(_run_rank, (folder, jobs), nprocs=2)
    files = [folder / f"rank{rank}.pt" for rank in range(2)]
    ranks = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    return [list(records) for records in zip(*ranks, strict=True)]


def train_and_record(overrides: Sequence[str]) -> dict[str, Any]:
    """Train, and remember what went in and what came out.

    Returns:
        `start` and `end`: the module's state dict at the first and after the last step;
        `batches`: `names`, `images` and `terms` of each batch;
        `own_statistics`: the discriminator's buffers after the last batch, before the ranks
        average them;
        `barriers`: number of barriers between the beginning of a batch and the end of its step.
    """
    records: dict[str, Any] = {"batches": [], "barriers": 0}
    step, average = VQGANModule.training_step, BatchNormAverage.on_train_batch_end
    barrier = torch.distributed.barrier

    def counted_barrier(*arguments: Any, **options: Any) -> None:
        records["barriers"] += 1
        barrier(*arguments, **options)

    def recorded_step(module: VQGANModule, batch: Mapping[str, Any]) -> dict[str, Any]:
        if "start" not in records:
            records["start"] = {k: v.clone() for k, v in module.state_dict().items()}
        torch.distributed.barrier = counted_barrier
        output = step(module, batch)
        images, terms = batch["image"].clone(), output["terms"].clone()
        records["batches"].append({"names": batch["name"], "images": images, "terms": terms})
        return output

    def remember_and_average(
        callback: BatchNormAverage, trainer: Any, module: Any, *rest: Any
    ) -> None:
        buffers = module.discriminator.named_buffers()
        records["own_statistics"] = {name: buffer.clone() for name, buffer in buffers}
        average(callback, trainer, module, *rest)
        torch.distributed.barrier = barrier

    VQGANModule.training_step = recorded_step  # type: ignore[method-assign]
    BatchNormAverage.on_train_batch_end = remember_and_average  # type: ignore[method-assign]
    try:
        trainer = train(compose_config(*overrides))
    finally:
        torch.distributed.barrier = barrier
        VQGANModule.training_step = step  # type: ignore[method-assign]
        BatchNormAverage.on_train_batch_end = average  # type: ignore[method-assign]
    assert trainer is not None
    records["end"] = trainer.lightning_module.state_dict()
    return records


def _run_rank(rank: int, folder: Path, jobs: list[tuple[list[str], int]]) -> None:
    records = []
    for overrides, port in jobs:
        be_rank(rank, port)
        records.append(train_and_record(overrides))
    torch.save(records, folder / f"rank{rank}.pt")
