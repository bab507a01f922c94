"""Our readers give the same tensors as torch.load(weights_only=True), in both torch formats."""

import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from checkpoint.pickles import VALUES, checkpoint, saved_bytes, write_legacy, write_zip
from factories import tiny_discriminator, tiny_vqgan
from safetensors.torch import save_file
from torch import Tensor, nn

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.system.errors import CheckpointError

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
PROTOCOLS = {"2": {}, "4": {"pickle_protocol": 4}, "5": {"pickle_protocol": 5}}
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def drawn(generator: random.Random) -> Tensor:
    """Draw a tensor of any dtype, shape and layout, often a view of a larger one."""
    shape = [generator.randint(0, 5) for _ in range(generator.randint(0, 4))]
    tensor = torch.randint(-9, 9, shape).to(generator.choice(DTYPES))
    if tensor.dim() and generator.random() < 0.3:
        tensor = tensor.transpose(0, -1)
    if tensor.dim() and tensor.shape[0] > 1 and generator.random() < 0.3:
        tensor = tensor[1:] if generator.random() < 0.5 else tensor[::2]
    return tensor


def random_weights(seed: int) -> dict[str, Tensor]:
    generator = random.Random(seed)
    torch.manual_seed(seed)
    weights = {f"w.{index}": drawn(generator) for index in range(8)}
    weights["shared"] = generator.choice(list(weights.values()))
    return weights


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].stride() == tensor.stride()
        assert torch.equal(found[name], tensor.detach())


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("seed", range(25))
def test_tensors_of_all_kinds(tmp_path: Path, seed: int, options: dict[str, Any]) -> None:
    path = tmp_path / "a.pt"
    content = {"state_dict": random_weights(seed), "epoch": seed, "notes": [None, 1.5, "x", (1,)]}
    path.write_bytes(saved_bytes(content, **options))
    expected, found = torch.load(path, weights_only=True), read_checkpoint(path)
    assert_same(found.pop("state_dict"), expected.pop("state_dict"))
    assert found == expected


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_modules_and_parameters(
    tmp_path: Path, options: dict[str, Any], protocol: dict[str, int]
) -> None:
    path = tmp_path / "a.pt"
    weights = OrderedDict(tiny_discriminator().state_dict())
    weights["parameter"] = nn.Parameter(torch.randn(3))
    weights["channels_last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    path.write_bytes(saved_bytes(weights, **options, **protocol))
    assert_same(read_checkpoint(path)["state_dict"], weights)


def test_newer_types(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weights = {
        "float8": torch.randn(6).to(torch.float8_e4m3fn),
        "uint16": torch.arange(6).to(torch.uint16),
    }
    torch.save(weights, path)
    found = read_checkpoint(path)["state_dict"]
    for name, weight in weights.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name].float(), weight.float())


def test_weights_that_share_memory_share_it_still(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weight = torch.randn(100)
    torch.save({"a": weight, "b": weight, "c": weight[50:]}, path)
    found = read_checkpoint(path)["state_dict"]
    found["a"].zero_()
    assert not found["b"].any()
    assert not found["c"].any()


def test_files_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(9)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(path)["state_dict"]["a"], torch.arange(9))


def test_a_file_of_the_other_byte_order_gives_the_same_values(tmp_path: Path) -> None:
    data = {"0": VALUES.numpy().astype(">f4").tobytes()}
    path = write_zip(tmp_path / "a.pt", checkpoint(), data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)


def written_flax(weights: dict[str, Tensor], path: Path) -> None:
    array = msgpack.packb(([2, 3], "float32", torch.arange(6.0).numpy().tobytes()))
    path.write_bytes(msgpack.packb({"encoder": {"kernel": msgpack.ExtType(1, array)}}))


SMALL = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3)}
WRITERS: dict[str, Callable[[dict[str, Tensor], Path], Any]] = {
    "zip": lambda weights, path: torch.save({"state_dict": weights, "epoch": 1}, path),
    "legacy": lambda weights, path: path.write_bytes(
        saved_bytes({"state_dict": weights}, **FORMATS["legacy"])
    ),
    "safetensors": save_file,
    "flax": written_flax,
}


def damaged(whole: bytes, generator: random.Random) -> bytes:
    """Truncate a file, or change some bytes."""
    if generator.random() < 0.2:
        return whole[: generator.randrange(len(whole))]
    content = bytearray(whole)
    for _ in range(generator.randint(1, 3)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.filterwarnings("ignore")  # a damaged text within a pickle may have strange escapes
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "damaged"
    WRITERS[kind](SMALL, path)
    whole, generator = path.read_bytes(), random.Random(kind)
    refused = 0
    for _ in range(600):
        path.write_bytes(damaged(whole, generator))
        try:
            weights = read_checkpoint(path)["state_dict"]
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017  # the other outcome is as good
            refused += 1
            continue
        assert sum(weight.nbytes for weight in weights.values()) <= 2 * len(whole)
        if kind == "zip" and weights.keys() == SMALL.keys():  # it has checksums
            assert_same(weights, SMALL)
    assert refused > 50


def test_a_whole_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weights = tiny_vqgan().state_dict()
    torch.save(weights, path)
    original = to_original({f"generator.{name}": weight for name, weight in weights.items()})
    assert_same(read_checkpoint(path)["state_dict"], original)


@pytest.mark.parametrize("keys", [b"\x80\x02](X\x01\x00\x00\x001e.", b"\x80\x02N."])
def test_an_old_file_whose_list_of_storages_is_another_is_refused(
    tmp_path: Path, keys: bytes
) -> None:
    path = write_legacy(tmp_path / "a.ckpt", checkpoint(), keys=keys)
    with pytest.raises(CheckpointError, match=r"a\.ckpt .* damaged"):
        read_checkpoint(path)
