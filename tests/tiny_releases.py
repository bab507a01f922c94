"""Part 1 and Part 2, made tiny, to be released."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_runs import load, tiny_config

from vqgan_train.release.card import CardMetadata
from vqgan_train.training.train import train

RUN_URLS = ("https://wandb.test/tester/cards/runs/one", "https://wandb.test/tester/cards/runs/two")
NO_METADATA = CardMetadata(
    repository=None,
    license=None,
    license_name=None,
    license_link=None,
    datasets=(),
    hardware=None,
)


def make_parts(folder: Path) -> Path:
    """Train Part 1 of two steps and Part 2 of four more, over 9 images; Part 2's best.ckpt."""
    train(tiny_config(folder, f"run.output_dir={folder / 'part1'}", "run.max_steps=2"))
    continued = (
        f"run.output_dir={folder / 'part2'}",
        f"run.parent={folder / 'part1' / 'checkpoints' / 'last.ckpt'}",
        "optim.learning_rate=5e-4",
        "run.max_steps=6",
    )
    train(tiny_config(folder, *continued))
    last = folder / "part2" / "checkpoints" / "last.ckpt"

    def log_at_wandb(content: dict[str, Any]) -> None:
        made_by = content["vqgan_train"]
        for place, url in zip((made_by["parent"]["provenance"], made_by), RUN_URLS, strict=True):
            place["wandb"] = {"entity": "tester", "project": "cards", "id": url[-3:], "url": url}

    change(last, log_at_wandb)
    return last


def change(checkpoint: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change what a checkpoint says."""
    content = load(checkpoint)
    edit(content)
    torch.save(content, checkpoint)


def copy_of(parts: Path, folder: Path) -> Path:
    """A copy of the folder of both parts in an empty one; Part 2's last.ckpt in it."""
    shutil.copytree(parts, folder, dirs_exist_ok=True)
    last = folder / "part2" / "checkpoints" / "last.ckpt"

    def move(content: dict[str, Any]) -> None:
        parent = folder / "part1" / "checkpoints" / "last.ckpt"
        content["vqgan_train"]["parent"]["source"] = str(parent)

    change(last, move)
    return last
