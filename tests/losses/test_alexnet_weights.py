"""AlexNet's convolutions: of whatever file has them, and nothing else."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from vqgan_train.cache import cache_folder
from vqgan_train.losses import alexnet_weights
from vqgan_train.losses.alexnet_weights import (
    SHAPES,
    TORCHVISION_LAYERS,
    find_alexnet_weights,
)
from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError

WEIGHTS = {
    f"{index}.{part}": torch.full(shape if part == "weight" else shape[:1], float(index))
    for index, shape in enumerate(SHAPES)
    for part in ("weight", "bias")
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_torchvisions_file_is_read(tmp_path: Path) -> None:
    state = {
        f"features.{layer}.{part}": WEIGHTS[f"{index}.{part}"]
        for index, layer in enumerate(TORCHVISION_LAYERS)
        for part in ("weight", "bias")
    }
    torch.save(state | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    found = find_alexnet_weights(tmp_path / "alexnet.pth")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_what_was_fetched_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alexnet_weights, "_from_installed_package", lambda: dict(WEIGHTS))
    find_alexnet_weights()
    assert (cache_folder("lpips") / "alexnet.safetensors").exists()

    def never() -> None:
        raise AssertionError

    monkeypatch.setattr(alexnet_weights, "_from_installed_package", never)
    monkeypatch.setattr(alexnet_weights, "_from_package_index", never)
    assert torch.equal(find_alexnet_weights()["3.bias"], WEIGHTS["3.bias"])


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.safetensors"])
def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file({"0.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "a.pth").write_bytes(b"nothing")
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(LpipsWeightsNotFoundError, match="set alexnet_weights to torchvision's"):
        find_alexnet_weights(tmp_path / name)
