"""Checkpoints of runs are read whole and checked, or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_runs import assert_equal

from vqgan_train.checkpoint.writing import save_atomically
from vqgan_train.system.errors import CheckpointError
from vqgan_train.training.run.saved_state import is_resumable, read_state

MOMENTS = torch.arange(1000.0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    state = {0: {"step": torch.tensor(3.0), "exp_avg": MOMENTS}}
    content = {"state_dict": {"x": torch.ones(2)}, "optimizer_states": [{"state": state}]}
    save_atomically(content, path)
    return path


def test_tensors_of_the_optimizer_are_read_too(saved: Path) -> None:
    (optimizer,) = read_state(saved)["optimizer_states"]
    assert_equal(optimizer, {"state": {0: {"step": torch.tensor(3.0), "exp_avg": MOMENTS}}})


def test_a_single_wrong_byte_in_the_optimizer_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[content.index(MOMENTS.numpy().tobytes()) + 1234] ^= 1
    saved.write_bytes(content)
    assert torch.load(saved)["optimizer_states"], "torch itself lets it pass"
    with pytest.raises(CheckpointError, match=r"data/\d+ differs from its checksum"):
        read_state(saved)


def test_other_files_are_refused_with_what_they_are_good_for(tmp_path: Path) -> None:
    file = tmp_path / "x"
    save_file({"x": torch.ones(1)}, file)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of a run .* these alone: model.init_from="
    ):
        read_state(file)
    torch.save({"x": 1}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"no checkpoint of a run"):
        read_state(file)
    with pytest.raises(CheckpointError, match=r"could not be read \(FileNotFoundError: .*absent"):
        read_state(tmp_path / "absent")


def test_a_checkpoint_without_the_run_around_it_is_not_resumable(saved: Path) -> None:
    assert not is_resumable(read_state(saved))
    assert not is_resumable(torch.ones(1))
