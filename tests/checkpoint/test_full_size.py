"""Checkpoints of full size, and with real objects of 2021."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from factories import FULL_ARCHITECTURE
from real_photos import real_photos
from reference import VQModel, peer_vqgan

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.models import VQGAN

ROOT = Path(__file__).parents[2]
NUM_PHOTOS = 3


@pytest.fixture(scope="module")
def peer() -> VQModel:
    return peer_vqgan(**FULL_ARCHITECTURE).eval()


@pytest.fixture
def path(peer: VQModel, tmp_path: Path) -> Path:
    torch.save({"state_dict": peer.state_dict(), "epoch": 1}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def status(field: str) -> int:
    """Return the process's memory in bytes, from a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_full_model_loads_in_ten_seconds_and_less_than_twice_its_size(path: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest yet
    before, started_at = status("VmRSS"), time.monotonic()
    model = VQGAN.from_checkpoint(path)
    seconds, taken = time.monotonic() - started_at, status("VmHWM") - before
    print(f"{seconds:.1f} s, {taken / path.stat().st_size:.2f} times {path.stat().st_size} bytes")  # noqa: T201
    assert model.quantizer.codebook.weight.shape == (16_384, 256)
    assert seconds < 10
    assert taken < 2 * path.stat().st_size


@pytest.mark.slow
@torch.no_grad()
def test_the_full_model_gives_the_tokens_of_the_original_on_photos(
    path: Path, peer: VQModel
) -> None:
    images = real_photos(NUM_PHOTOS)
    expected = peer.encode(images)[2][2].view(len(images), -1)
    assert len(expected.unique()) > 100, "too few tokens to tell models apart"
    assert torch.equal(VQGAN.from_checkpoint(path).encode(images), expected)


@pytest.mark.slow
def test_a_checkpoint_of_2021_is_read_with_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    script("make_legacy_checkpoint").make_legacy_checkpoint(path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path)
    loaded = set(sys.modules)
    checkpoint = read_checkpoint(path)
    assert set(sys.modules) == loaded, "reading imported something"
    settings = checkpoint["hyper_parameters"]
    assert settings["ddconfig"]["ch_mult"] == [1, 1, 2]
    assert settings["image_size"] == "${ddconfig.resolution}"
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (3, 1234)
    assert [key.name for key in checkpoint["callbacks"]] == [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    ]
    model = VQGAN.from_checkpoint(path)
    codebook = checkpoint["state_dict"]["quantize.embedding.weight"]
    assert torch.equal(model.quantizer.codebook.weight, codebook)
