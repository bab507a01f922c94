"""Reading checkpoints, and refusing other files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.pickles import (
    VALUES,
    WEIGHT,
    call,
    checkpoint,
    dict_of,
    name,
    text,
    write_legacy,
    write_zip,
)
from factories import TINY_ARCHITECTURE, tiny_images, tiny_vqgan
from omegaconf import OmegaConf
from reference import peer_vqgan
from safetensors.torch import save_file

from vqgan_train.checkpoint import reading
from vqgan_train.checkpoint.file_kind import FileKind
from vqgan_train.checkpoint.reading import read_checkpoint, read_networks
from vqgan_train.checkpoint.weight_names import to_original, to_ours
from vqgan_train.models import VQGAN
from vqgan_train.system.errors import CheckpointError

CONTENT = {"state_dict": {"encoder.conv_in.weight": torch.eye(4)}, "notes": {"epoch": 3}}


class RunsACommand:
    """Object whose unpickling runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    content = read_checkpoint(saved(CONTENT, tmp_path / "last.ckpt"))
    assert content.keys() == CONTENT.keys()
    assert content["notes"] == CONTENT["notes"]
    assert torch.equal(content["state_dict"]["encoder.conv_in.weight"], torch.eye(4))


def test_bare_weights_are_a_checkpoint(tmp_path: Path) -> None:
    content = read_checkpoint(saved(CONTENT["state_dict"], tmp_path / "weights.pt"))
    assert content.keys() == {"state_dict"}
    assert torch.equal(content["state_dict"]["encoder.conv_in.weight"], torch.eye(4))


def test_safetensors_are_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(CONTENT["state_dict"], path)
    content = read_checkpoint(path)
    assert content.keys() == {"state_dict"}
    assert torch.equal(content["state_dict"]["encoder.conv_in.weight"], torch.eye(4))


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint at .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        read_checkpoint(tmp_path / ("long" * 100))
    with pytest.raises(CheckpointError, match="There is a folder, not a file, at"):
        read_checkpoint(tmp_path)


def test_a_full_memory_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> None:
        raise MemoryError

    monkeypatch.setitem(reading._READERS, FileKind.TORCH_ZIP, read)
    with pytest.raises(CheckpointError, match=r"could not be read: no memory left\."):
        read_checkpoint(saved(CONTENT, tmp_path / "last.ckpt"))


VALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "6 MB of settings": ([f"{index:1000}" for index in range(6_000)], {}),
    "bytes that can change": (bytearray(b"abc"), {"pickle_protocol": 5}),
    "a number of 400 bytes": (2**3200, {}),
    "tuples as keys": ({(1, 2): 3, frozenset([1]): 4}, {}),
}


@pytest.mark.parametrize("kind", VALID)
def test_uncommon_settings_do_not_keep_a_file_from_being_read(tmp_path: Path, kind: str) -> None:
    value, options = VALID[kind]
    torch.save({**CONTENT, "other": value}, tmp_path / "last.ckpt", **options)
    content = read_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(content["state_dict"]["encoder.conv_in.weight"], torch.eye(4))
    if isinstance(value, list | int):
        assert content["other"] == value


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_an_error_with_its_path(
    tmp_path: Path, fraction: float, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save(CONTENT, path)
    else:
        save_file(CONTENT["state_dict"], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(CheckpointError, match=rf"{path.name}.* cut short"):
        read_checkpoint(path)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    content = {**CONTENT, "callbacks": RunsACommand(f"touch {ran}")}
    path = saved(content, tmp_path / "hostile.ckpt")
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt"):
        read_checkpoint(path)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the file was harmless, so refusing it proved nothing"


def test_code_in_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": RunsACommand(f"touch {ran}")}, protocol=2))
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt"):
        read_checkpoint(path)
    assert not ran.exists()


def test_a_variable_that_makes_torch_refuse_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(CONTENT, tmp_path / "last.ckpt")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match=r"TORCH_FORCE_WEIGHTS_ONLY_LOAD is set; unset it"):
        read_checkpoint(path)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [{"epoch": 3}, {"state_dict": None}, {"state_dict": {"a": 1}}, [torch.zeros(1)]]
)
def test_a_file_without_weights_is_an_error_with_its_path(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_checkpoint(saved(content, tmp_path / "last.ckpt"))


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("weight", "another model"),
        ("first_stage_model.encoder.conv_in.weight", "latent diffusion model or a transformer"),
        ("transformer.wte.weight", "of a transformer"),
        ("quantize.embed.weight", "Gumbel"),
        ("loss.logvar", "KL-VAE"),
        ("encoder.nonsense", "encoder.nonsense"),
        ("encoder.down.0.block.0.conv3.weight", "conv3"),
    ],
)
def test_the_weights_of_another_model_are_an_error_that_names_it(
    tmp_path: Path, name: str, called: str
) -> None:
    weights = {**peer_vqgan(**TINY_ARCHITECTURE).state_dict(), name: torch.zeros(1)}
    path = saved({"state_dict": weights}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=rf"other\.ckpt .*'{name}'.*") as caught:
        read_networks(path)
    assert called in str(caught.value)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_settings_in_subclasses_of_dict_are_plain(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    # As Lightning 1.0 has them.
    attributes = name("pytorch_lightning.utilities.parsing", "AttributeDict")
    program = attributes + b")\x81(" + text("lr") + b"K\x02u"
    content = read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(hyper_parameters=program)))
    assert content["hyper_parameters"] == {"lr": 2}


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_callbacks_of_lightning_1_0_are_kept_by_name(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    key = name("pytorch_lightning.callbacks.gone", "ModelCheckpoint")
    program = b"}" + key + dict_of({"best": b"K\x03"}) + b"s"
    callbacks = read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(callbacks=program)))[
        "callbacks"
    ]
    assert {key.name: value for key, value in callbacks.items()} == {
        "pytorch_lightning.callbacks.gone.ModelCheckpoint": {"best": 3}
    }


def test_settings_of_omegaconf_are_plain(tmp_path: Path) -> None:
    settings = {"model": {"widths": [1, 2], "name": "f16", "none": None}, "size": "${model.name}"}
    path = saved({**CONTENT, "hyper_parameters": OmegaConf.create(settings)}, tmp_path / "a.ckpt")
    assert read_checkpoint(path)["hyper_parameters"] == settings


def test_a_part_of_the_tokenizer_is_an_error_with_a_missing_weight(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    decoder = {name: w for name, w in weights.items() if name.startswith("decoder.")}
    path = saved({"state_dict": decoder}, tmp_path / "decoder.ckpt")
    with pytest.raises(CheckpointError, match=r"decoder\.ckpt .*encoder\.conv_in\.weight"):
        read_networks(path)


def test_discriminator_and_lpips_in_a_file_are_left_out_of_the_tokenizer(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    others = {
        "loss.discriminator.main.0.weight": torch.zeros(1),
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(1),
    }
    path = saved({"state_dict": weights | others}, tmp_path / "last.ckpt")
    found = read_networks(path).generator
    assert found.keys() == tiny_vqgan().state_dict().keys()


@torch.no_grad()
def test_our_own_file_says_what_its_weights_do_not(tmp_path: Path) -> None:
    model = tiny_vqgan(dropout=0.25)
    weights = to_original({f"generator.{n}": w for n, w in model.state_dict().items()})
    architecture = {**TINY_ARCHITECTURE, "dropout": 0.25}
    path = saved(
        {"state_dict": weights, "hyper_parameters": {"model": architecture}},
        tmp_path / "last.ckpt",
    )
    found = read_networks(path).architecture
    assert (found["resolution"], found["attention_resolutions"]) == (32, [16])
    assert found["dropout"] == 0.25
    images = tiny_images()
    assert torch.equal(VQGAN.from_checkpoint(path).encode(images), model.eval().encode(images))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("channels", 64, "channels is 64, but 32 in the weights"),
        ("codebook_size", 8, "codebook_size is 8, but 64 in the weights"),
        ("attention_resolutions", [32], r"levels \[0\], but it is on levels \[1\]"),
    ],
)
def test_settings_that_contradict_the_weights_are_an_error_with_both_values(
    tmp_path: Path, setting: str, value: object, message: str
) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    path = saved(
        {
            "state_dict": weights,
            "hyper_parameters": {"model": {**TINY_ARCHITECTURE, setting: value}},
        },
        tmp_path / "last.ckpt",
    )
    with pytest.raises(CheckpointError, match=rf"last\.ckpt.*{message}"):
        read_networks(path)


def test_settings_of_another_program_are_no_architecture(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    for settings in ("text", {"model": "vqgan"}, {"model": {"channels": "many"}}):
        path = saved({"state_dict": weights, "hyper_parameters": settings}, tmp_path / "last.ckpt")
        assert read_networks(path).architecture["channels"] == TINY_ARCHITECTURE["channels"]


def test_weights_of_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).half().state_dict()
    model = VQGAN.from_checkpoint(saved({"state_dict": weights}, tmp_path / "last.ckpt"))
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.bool, torch.complex64, torch.uint16, torch.float8_e8m0fnu],
)
def test_weights_of_another_type_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    weights["encoder.conv_in.weight"] = weights["encoder.conv_in.weight"].to(dtype)
    path = saved({"state_dict": weights}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"conv_in\.weight' in .*last\.ckpt is of {dtype}"):
        read_networks(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_weights_of_other_precision_have_the_values_that_torch_gives(
    tmp_path: Path, dtype: torch.dtype, zipped: bool
) -> None:
    weights = {n: w.to(dtype) for n, w in peer_vqgan(**TINY_ARCHITECTURE).state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=zipped)
    found = read_networks(path).generator
    ours = to_ours(weights)
    assert all(torch.equal(w, ours[f"generator.{name}"].float()) for name, w in found.items())


NO_PLAIN_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "_rebuild_sparse_tensor": torch.Tensor.to_sparse,
    "_rebuild_qtensor": lambda weight: torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8),
    "_rebuild_meta_tensor_no_storage": lambda weight: weight.to("meta"),
    "_rebuild_nested_tensor": lambda weight: torch.nested.nested_tensor([weight]),
}


@pytest.mark.parametrize("kind", NO_PLAIN_TENSORS)
@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": weights}])
@pytest.mark.filterwarnings("ignore")  # torch announces that it changes some of them
def test_tensors_that_are_no_plain_ones_are_refused_by_kind(
    tmp_path: Path, kind: str, wrap: Callable[[object], object]
) -> None:
    weights = {"a": torch.eye(4), "b": NO_PLAIN_TENSORS[kind](torch.eye(4))}
    path = saved(wrap(weights), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"its weight b is no plain .*\.{kind}\. Save"):
        read_checkpoint(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_weights_of_a_tpu_are_read_or_refused_by_kind(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    def file(function: str, dtype: str = "float32") -> Path:
        rebuild = name("torch._utils", function)
        device = (name("torch", dtype), text("xla:0"), b"\x89")
        weights = dict_of({"weight": call(rebuild, WEIGHT, *device)})
        return write(tmp_path / "a.ckpt", dict_of({"state_dict": weights}))

    path = file("_rebuild_device_tensor_from_cpu_tensor")
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)
    with pytest.raises(CheckpointError, match=r"saved as another type"):
        read_checkpoint(file("_rebuild_device_tensor_from_cpu_tensor", "no_dtype"))
    with pytest.raises(CheckpointError, match=r"of type torch\._utils\._rebuild_xla_tensor\. Save"):
        read_checkpoint(file("_rebuild_xla_tensor"))


def test_a_model_does_not_depend_on_its_file_any_more(tmp_path: Path) -> None:
    for path in (tmp_path / "a.ckpt", tmp_path / "a.safetensors"):
        weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
        save_file(weights, path) if path.suffix == ".safetensors" else saved(weights, path)
        model = VQGAN.from_checkpoint(path)
        path.write_bytes(b"overwritten")
        assert torch.equal(model.quantizer.codebook.weight, weights["quantize.embedding.weight"])


def test_weights_of_lpips_alone_are_no_vqgan(tmp_path: Path) -> None:
    path = saved({"loss.perceptual_loss.lin0.weight": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"'encoder\.conv_in\.weight' is not among its 0"):
        read_networks(path)
