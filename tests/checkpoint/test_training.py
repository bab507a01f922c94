"""Training settings read from checkpoints of our runs and of others."""

from pathlib import Path
from typing import Any

import pytest
from tiny_exports import tiny_networks, write_checkpoint
from tiny_runs import load, tiny_config

from vqgan_train.checkpoint.model_configs import TrainingSettings, read_training
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.training.train import train


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = (
        "run.max_steps=2",
        "loss.codebook_weight=0.5",
        "loss.perceptual_weight=0.8",
        "loss.adversarial_weight=0.1",
        "loss.adversarial_start_step=7",
        "optim.learning_rate=3e-3",
        "optim.learning_rate_scaling=none",
    )
    train(tiny_config(folder, *settings))
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_a_run_is_remembered(last: Path) -> None:
    assert read_networks(last).training == TrainingSettings(
        perceptual_weight=0.8,
        adversarial_weight=0.1,
        codebook_weight=0.5,
        commitment_weight=0.25,
        legacy_codebook_loss=True,
        steps_to_adversary=5,
        learning_rate=3e-3 / 2,
    )


@pytest.mark.parametrize(
    ("scaling", "used"),
    [("none", 3e-3), ("device_batch", 3e-3 * 2 * 5), ("global_batch", 3e-3 * 2 * 5 * 6)],
)
def test_the_rate_is_the_one_that_was_used(last: Path, scaling: str, used: float) -> None:
    content = load(last)
    config = content["vqgan_train"]["config"]
    config["optim"] |= {"learning_rate_scaling": scaling, "accumulate_batches": 5}
    config["trainer"] |= {"devices": 3, "num_nodes": 2}
    training = read_training(content)
    assert training is not None
    # taming: accumulated batches x devices x batch size x base rate.
    assert 5 * 6 * 2 * training.learning_rate == pytest.approx(used)


def test_what_is_left_of_a_warm_up_counts(last: Path) -> None:
    training = read_training({**load(last), "warm_step": 1000})
    assert training is not None
    assert training.steps_to_adversary == 998


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"hyper_parameters": {"objective": 1}, "vqgan_train": {"config": {}}, "global_step": 0},
        {"hyper_parameters": None, "vqgan_train": []},
    ],
)
def test_other_checkpoints_say_nothing(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write_checkpoint(tmp_path / "other.ckpt", tiny_networks(), **content)
    assert read_networks(path).training is None


def test_nonsense_is_not_believed(last: Path) -> None:
    for value in (float("nan"), "large", None):
        content = load(last)
        content["hyper_parameters"]["objective"]["codebook_weight"] = value
        assert read_training(content) is None
