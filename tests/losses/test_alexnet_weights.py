"""LPIPS with AlexNet: found, kept and refused as the one with VGG16, by the same function."""

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vqgan_train.losses import lpips_weights
from vqgan_train.losses.lpips_files import LpipsNetwork, LpipsWeightsError, Weights
from vqgan_train.losses.lpips_weights import (
    ALEXNET,
    LpipsWeightsNotFoundError,
    find_alexnet_weights,
)

WEIGHTS = {
    name: torch.full(shape, float(place))
    for place, (name, shape) in enumerate(ALEXNET.shapes().items())
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, and a network that can be fetched once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vqgan_train" / "lpips"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched so far; it is there to be had."""
    names: list[str] = []

    def fetch(network: LpipsNetwork) -> Weights:
        names.append(network.name)
        return dict(WEIGHTS)

    monkeypatch.setattr(lpips_weights, "_from_installed_package", fetch)
    return names


def same(found: Weights) -> bool:
    return found.keys() == WEIGHTS.keys() and all(
        torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS
    )


def torchvision_state() -> Weights:
    return {
        f"features.{layer}.{part}": WEIGHTS[f"convolutions.{index}.{part}"]
        for index, layer in enumerate(ALEXNET.torchvision_layers)
        for part in ("weight", "bias")
    }


def test_torchvisions_file_is_read_and_has_the_heads_of_the_package_lpips(tmp_path: Path) -> None:
    state = torchvision_state() | {"classifier.1.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "alexnet.pth")
    found = find_alexnet_weights(tmp_path / "alexnet.pth")
    heads = {name: weight for name, weight in found.items() if name.startswith("heads.")}
    assert same({**found, **{name: WEIGHTS[name] for name in heads}})
    assert all((weight >= 0).all() and weight.any() for weight in heads.values())


def test_what_was_fetched_is_kept_under_its_hash(cache: Path, fetched: list[str]) -> None:
    for _ in range(2):
        assert same(find_alexnet_weights())
    assert fetched == ["AlexNet"]
    (kept,) = cache.iterdir()
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    assert kept.name == f"lpips_alexnet-{digest[:16]}.safetensors"


def test_a_damaged_file_is_discarded_by_name_and_fetched_again(
    cache: Path, fetched: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    find_alexnet_weights()
    (kept,) = cache.iterdir()
    damaged = bytearray(kept.read_bytes())
    damaged[-1] ^= 1
    kept.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert same(find_alexnet_weights())
    assert f"discarding {kept} (its content does not match the hash in its name)" in caplog.text
    assert len(fetched) == 2
    assert hashlib.sha256(kept.read_bytes()).hexdigest()[:16] in kept.name


def test_the_file_of_an_older_version_which_has_no_hash_is_not_trusted(
    cache: Path, fetched: list[str]
) -> None:
    cache.mkdir(parents=True)
    safetensors.torch.save_file({"0.weight": torch.zeros(3)}, cache / "alexnet.safetensors")
    assert same(find_alexnet_weights())
    assert fetched == ["AlexNet"]


@pytest.mark.usefixtures("fetched")
def test_a_cache_that_cannot_be_written_is_a_warning(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert same(find_alexnet_weights())
    assert "could not be cached" in caplog.text


def test_when_nothing_can_be_had_the_error_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: LpipsNetwork) -> Any:
        raise OSError("no route to host")

    for source in ("_from_installed_package", "_from_package_index", "_from_torchvision_server"):
        monkeypatch.setattr(lpips_weights, source, refuse)
    with pytest.raises(LpipsWeightsNotFoundError) as raised:
        find_alexnet_weights(setting="run.alexnet_weights")
    message = str(raised.value)
    assert "The weights of LPIPS (AlexNet) were not found" in message
    assert "set run.alexnet_weights=PATH, where PATH is our cached lpips_alexnet-*" in message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"nothing", "a file of 7 bytes that starts with b'nothing'"),
        (pickle.dumps(1), "a pickle with sha256"),
        (safetensors.torch.save({"0.weight": torch.zeros(3)}), "convolutions.0.weight is missing"),
        (
            safetensors.torch.save(WEIGHTS | {"convolutions.4.bias": torch.zeros(3)}),
            "convolutions.4.bias is (3,), expected (256,)",
        ),
        (safetensors.torch.save(WEIGHTS | {"heads.5.weight": torch.zeros(3)}), "no weight of that"),
    ],
)
def test_another_file_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, found: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(LpipsWeightsError) as raised:
        find_alexnet_weights(file)
    message = str(raised.value)
    assert message.startswith(f"alexnet_weights is {file}, found ")
    assert found in message
    assert "Accepted: our cached lpips_alexnet-*.safetensors, torchvision's alexnet-owt" in message
