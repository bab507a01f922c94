"""Files written as by vqgan-jax give the original's model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from clear_tokens import clear_images
from factories import TINY_ARCHITECTURE, tiny_images
from numpy.typing import NDArray
from reference import VQModel, peer_vqgan
from tiny_exports import ARCHITECTURES as EXPORTED
from tiny_exports import original_weights, same_bits, tiny_networks
from torch import Tensor

from vqgan_train.checkpoint.flax import write_flax_msgpack
from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.models import VQGAN
from vqgan_train.system.errors import CheckpointError

ARCHITECTURE = {
    **TINY_ARCHITECTURE,
    "channel_multipliers": [1, 2, 2],
    "attention_resolutions": [8, 16],
    "num_residual_blocks": 2,
}


def flax_leaf(name: str, weight: NDArray[Any], norm_shape: str) -> tuple[str, NDArray[Any]]:
    """Return a path's last part and the array in Flax's layout, as vqgan-jax's converter does."""
    if ".norm" in name:
        weight = weight[None, None, None, :] if norm_shape == "(1, 1, 1, C)" else weight
        return ("scale" if name.endswith("weight") else "bias"), weight
    if name == "quantize.embedding.weight":
        return "embedding", weight
    if weight.ndim == 4:
        return "kernel", weight.transpose(2, 3, 1, 0)
    return "bias", weight


def flax_tree(weights: dict[str, Tensor], norm_shape: str) -> dict[str, Any]:
    """Convert the original's weights to Flax's names and layout."""
    tree: dict[str, Any] = {}
    for name, weight in weights.items():
        *modules, _ = name.split(".")
        path: list[str] = []
        for module in modules:  # down.0 becomes down_0
            path = [*path[:-1], f"{path[-1]}_{module}"] if module.isdigit() else [*path, module]
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        leaf, array = flax_leaf(name, weight.numpy(), norm_shape)
        branch[leaf] = array
    return tree


def packed(value: Any) -> msgpack.ExtType:
    """Pack an array as flax.serialization does."""
    parts = (value.shape, value.dtype.name, value.tobytes("C"))
    return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))


def write_flax(tree: dict[str, Any], path: Path) -> Path:
    path.write_bytes(msgpack.packb(tree, default=packed, strict_types=True))
    return path


@pytest.fixture(scope="module")
def peer() -> VQModel:
    return peer_vqgan(**ARCHITECTURE).eval()


@pytest.mark.parametrize("norm_shape", ["(C)", "(1, 1, 1, C)"])
def test_flax_weights_are_those_of_the_original(
    tmp_path: Path, peer: VQModel, norm_shape: str
) -> None:
    weights = peer.state_dict()
    path = write_flax(flax_tree(weights, norm_shape), tmp_path / "flax_model.msgpack")
    found = read_checkpoint(path)["state_dict"]
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


@torch.no_grad()
def test_a_flax_model_gives_the_tokens_of_the_original(tmp_path: Path, peer: VQModel) -> None:
    path = write_flax(flax_tree(peer.state_dict(), "(C)"), tmp_path / "flax_model.msgpack")
    images = clear_images(peer, lambda seed: tiny_images(1, seed=seed))
    expected = peer.encode(images)[2][2]
    assert torch.equal(VQGAN.from_checkpoint(path).encode(images), expected.view(len(images), -1))


def numpy_tree(path: Path) -> Any:
    """Read a file with msgpack as Flax does, without our reader."""
    serialization = pytest.importorskip("flax.serialization", reason="flax is not installed")
    return serialization.msgpack_restore(path.read_bytes())


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], NDArray[Any]]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: leaf for key in tree for p, leaf in leaves(tree[key], (*path, key)).items()}


def test_flax_reads_what_is_written(tmp_path: Path, peer: VQModel) -> None:
    path = tmp_path / "flax_model.msgpack"
    write_flax_msgpack(peer.state_dict(), path)
    expected, found = leaves(flax_tree(peer.state_dict(), "(C)")), leaves(numpy_tree(path))
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], array)


def test_the_bytes_are_those_that_flax_writes(tmp_path: Path, peer: VQModel) -> None:
    serialization = pytest.importorskip("flax.serialization", reason="flax is not installed")
    path = tmp_path / "flax_model.msgpack"
    write_flax_msgpack(peer.state_dict(), path)
    tree = flax_tree(peer.state_dict(), "(C)")
    assert path.read_bytes() == serialization.msgpack_serialize(tree)


@pytest.mark.parametrize("overrides", EXPORTED.values(), ids=EXPORTED.keys())
def test_weights_survive_the_way_to_flax_and_back(
    tmp_path: Path, overrides: dict[str, Any]
) -> None:
    weights = original_weights(tiny_networks(discriminator=False, **overrides))
    path = tmp_path / "flax_model.msgpack"
    write_flax_msgpack(weights, path)
    assert same_bits(read_checkpoint(path)["state_dict"], weights)


def test_a_file_of_before_flax_0_3_6_becomes_a_new_one(tmp_path: Path, peer: VQModel) -> None:
    old = write_flax(flax_tree(peer.state_dict(), "(1, 1, 1, C)"), tmp_path / "old.msgpack")
    write_flax_msgpack(read_checkpoint(old)["state_dict"], tmp_path / "new.msgpack")
    write_flax_msgpack(peer.state_dict(), tmp_path / "expected.msgpack")
    new, expected = (tmp_path / f"{name}.msgpack" for name in ("new", "expected"))
    assert new.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_survive_too(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {"encoder.conv_in.weight": torch.randn(4, 3, 2, 2).to(dtype)}
    path = tmp_path / "flax_model.msgpack"
    write_flax_msgpack(weights, path)
    found = read_checkpoint(path)["state_dict"]["encoder.conv_in.weight"]
    assert found.dtype == dtype
    assert torch.equal(found, weights["encoder.conv_in.weight"])


def test_the_file_has_the_names_and_layout_of_vqgan_jax(peer: VQModel) -> None:
    tree = flax_tree(peer.state_dict(), "(C)")
    assert tree.keys() == {"encoder", "decoder", "quantize", "quant_conv", "post_quant_conv"}
    assert tree["encoder"]["down_0"]["block_1"]["conv1"]["kernel"].shape == (3, 3, 32, 32)
    assert tree["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 32)
    assert tree["encoder"]["mid"]["attn_1"].keys() == {"norm", "q", "k", "v", "proj_out"}
    assert tree["quantize"]["embedding"]["embedding"].shape == (64, 16)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda whole: whole[:-1],
    "with something behind": lambda whole: whole + b"\xc0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_flax_file_is_refused(
    tmp_path: Path, peer: VQModel, damage: Callable[[bytes], bytes]
) -> None:
    path = write_flax(flax_tree(peer.state_dict(), "(C)"), tmp_path / "flax_model.msgpack")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"flax_model\.msgpack"):
        read_checkpoint(path)


@pytest.mark.parametrize("leaf", [1.5, [1, 2], None, "text"])
def test_what_is_no_array_is_refused_with_its_path(tmp_path: Path, leaf: object) -> None:
    path = write_flax({"encoder": {"conv_in": leaf}}, tmp_path / "flax_model.msgpack")
    with pytest.raises(CheckpointError, match=r"encoder/conv_in is (another value|text), no array"):
        read_checkpoint(path)


def test_a_large_array_takes_little_more_memory_than_its_bytes(tmp_path: Path) -> None:
    size, path = 100_000_000, tmp_path / "flax_model.msgpack"
    head = b"\x93\x91\xce%b\xa7float32\xc6%b" % (
        (size // 4).to_bytes(4, "big"),
        size.to_bytes(4, "big"),
    )
    path.write_bytes(b"\x81\xa1a\xc9" + (len(head) + size).to_bytes(4, "big") + b"\x01" + head)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest yet
    before = memory("VmRSS")
    assert read_checkpoint(path)["state_dict"]["a"].shape == (size // 4,)
    assert memory("VmHWM") - before < 1.3 * size


def memory(kind: str) -> int:
    """Return the bytes that this process uses (VmRSS) or used at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


def test_a_scalar_and_other_shapes_are_read(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = [(), (0,), (1, 1), (300,)]
    tree = {str(shape): np.random.default_rng(0).random(shape, "f4") for shape in shapes}
    tree = {key: np.asarray(value) for key, value in tree.items()}
    found = read_checkpoint(write_flax(tree, tmp_path / "flax_model.msgpack"))["state_dict"]
    assert found.keys() == tree.keys()
    for key, array in tree.items():
        assert torch.equal(found[key], torch.from_numpy(array))


def test_two_paths_of_one_name_are_refused(tmp_path: Path) -> None:
    array = np.zeros(3, dtype=np.float32)
    path = write_flax({"norm": {"scale": array, "weight": array}}, tmp_path / "flax_model.msgpack")
    with pytest.raises(CheckpointError, match=r"norm\.weight twice"):
        read_checkpoint(path)
