"""Whole runs made tiny: a config that trains in seconds, and shards for it."""

import copy
import csv
import io
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from webdataset import TarWriter

from vqgan_train.cli import quote_overrides
from vqgan_train.config.checks import Settings, config_dir, register_schema, to_config
from vqgan_train.config.run import Config

TINY = (
    "model.architecture.channels=32",
    "model.architecture.num_residual_blocks=1",
    "model.architecture.attention_resolutions=[]",
    "model.architecture.channel_multipliers=[1,1]",
    "model.architecture.latent_channels=8",
    "model.architecture.code_dim=4",
    "model.architecture.codebook_size=32",
    "model.discriminator.channels=8",
    "model.code_scale=0.2",
    "loss=vqgan",
    "loss.discriminator_warmup_steps=0",
    "optim.learning_rate=1e-3",
    "data.random_crop=true",
    "data.random_flip=true",
    "data.image_size=16",
    "data.resize=20",
    "data.batch_size=2",
    "run.max_steps=4",
    "run.val_every_steps=2",
    "run.checkpoint_every_steps=2",
    "run.log_every_steps=1",
    "run.num_pictures=2",
    "trainer.accelerator=cpu",
)

TIMED = ("train/images_per_second", "train/step_seconds", "train/data_seconds", "val/seconds")


def compose_config(*overrides: str) -> Config:
    """Compose the config that `python -m vqgan_train OVERRIDES` would train with."""
    return to_config(_compose("train", Config, overrides), Config)


def compose_settings(name: str, schema: type[Settings], *overrides: str) -> Settings:
    """Compose the settings of the command of `conf/NAME.yaml`."""
    return to_config(_compose(name, schema, quote_overrides(overrides, schema)), schema)


def _compose(name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    """Compose as Hydra does, four times as fast where only values differ from an earlier call."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        files = [o.input_line for o in parsed if not _is_value(o)]
        config = copy.deepcopy(_compose_files(name, schema, tuple(files)))
        for override in filter(_is_value, parsed):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except (HydraException, OmegaConfBaseException):  # Hydra refuses it in its own words
        return _compose_files.__wrapped__(name, schema, tuple(overrides))
    return config


def _is_value(override: Override) -> bool:
    is_file = (config_dir() / override.key_or_group).is_dir()
    return override.type == OverrideType.CHANGE and not override.is_sweep_override() and not is_file


@cache
def _compose_files(name: str, schema: type, overrides: tuple[str, ...]) -> DictConfig:
    register_schema(schema)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def tiny_overrides(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a run of seconds, on shards in `folder`, made there if need be.

    Those given come last, and each setting once, as the command wants it.
    """
    train, val = folder / "train.tar", folder / "val.tar"
    if not train.exists():
        write_shard(train, 9, seed=0)
        write_shard(val, 5, seed=1)
    shards = [f"data.train_shards={train}", f"data.val_shards={val}"]
    every = [*TINY, *shards, f"run.output_dir={folder / 'run'}", *overrides]
    return list({override.split("=")[0]: override for override in every}.values())


def tiny_config(folder: Path, *overrides: str) -> Config:
    """The config of `tiny_overrides`."""
    return compose_config(*tiny_overrides(folder, *overrides))


def write_shard(path: Path, num_samples: int, *, seed: int) -> Path:
    """Write a shard of random smooth images of 24 x 28 pixels."""
    random = np.random.default_rng(seed)
    with TarWriter(str(path)) as tar:
        for number in range(num_samples):
            coarse = Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8))
            encoded = io.BytesIO()
            coarse.resize((28, 24), Image.Resampling.BICUBIC).save(encoded, format="PNG")
            tar.write({"__key__": f"{seed}{number:04d}", "png": encoded.getvalue()})
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics, without what depends on the clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, as torch alone reads it."""
    return torch.load(path, weights_only=True)


def assert_equal(left: Any, right: Any) -> None:
    """Equal to the last bit, tensors in containers too."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    elif isinstance(left, list | tuple):
        for a, b in zip(left, right, strict=True):
            assert_equal(a, b)
    else:
        assert left == right
