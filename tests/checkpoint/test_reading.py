"""Reading what is a checkpoint, and refusing what is not."""

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from factories import TINY_ARCHITECTURE, tiny_images, tiny_vqgan
from reference import peer_vqgan
from safetensors.torch import save_file
from torch import nn

from vqgan_train.checkpoint import CheckpointError, read_checkpoint, read_generator, to_original
from vqgan_train.models import VQGAN

CONTENT = {"state_dict": {"encoder.conv_in.weight": torch.eye(4)}, "notes": {"epoch": 3}}


class RunsACommand:
    """What a hostile pickle holds: to unpickle it is to run the command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Foreign:
    """A class that torch does not know, as Lightning's and omegaconf's are."""


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


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 304306804\n",
        b"",
    ],
    ids=["HTML", "Git LFS pointer", "empty"],
)
def test_a_file_of_another_kind_is_an_error_with_its_path(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=path.name) as caught:
        read_checkpoint(path)
    assert "mmap" not in str(caught.value), "blames how the file was saved"


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
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoint(path)


def test_damage_anywhere_in_a_file_is_a_checkpoint_error_or_does_not_matter(
    tmp_path: Path,
) -> None:
    path = saved(CONTENT, tmp_path / "last.ckpt")
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + b"\xa9" + whole[position + 1 :])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch wonders at the pickle protocol
                read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


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


def test_an_object_of_a_foreign_class_is_an_error_with_its_class(tmp_path: Path) -> None:
    path = saved({**CONTENT, "hyper_parameters": Foreign()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="Foreign") as caught:
        read_checkpoint(path)
    assert "can still be loaded" not in str(caught.value), (
        "repeats torch's advice to trust the file"
    )


@pytest.mark.parametrize(
    "content", [{"epoch": 3}, {"state_dict": None}, {"state_dict": {"a": 1}}, [torch.zeros(1)]]
)
def test_a_file_without_weights_is_an_error_with_its_path(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_checkpoint(saved(content, tmp_path / "last.ckpt"))


def test_the_weights_of_another_model_are_an_error_with_one_of_their_names(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(CheckpointError, match=r"linear\.pt .*'weight'.*another model"):
        read_generator(path)


def test_a_part_of_the_tokenizer_is_an_error_with_a_missing_weight(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    decoder = {name: w for name, w in weights.items() if name.startswith("decoder.")}
    path = saved({"state_dict": decoder}, tmp_path / "decoder.ckpt")
    with pytest.raises(CheckpointError, match=r"decoder\.ckpt .*encoder\.conv_in\.weight"):
        read_generator(path)


def test_discriminator_and_lpips_in_a_file_are_left_out_of_the_tokenizer(tmp_path: Path) -> None:
    weights = peer_vqgan(**TINY_ARCHITECTURE).state_dict()
    others = {
        "loss.discriminator.main.0.weight": torch.zeros(1),
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(1),
    }
    path = saved({"state_dict": weights | others}, tmp_path / "last.ckpt")
    _, found = read_generator(path)
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
    found, _ = read_generator(path)
    assert (found["resolution"], found["attention_resolutions"]) == (32, [16])
    assert found["dropout"] == 0.25
    images = tiny_images()
    assert torch.equal(VQGAN.from_checkpoint(path).encode(images), model.eval().encode(images))
