"""Validation metrics equal the numbers of the evaluation command."""

from pathlib import Path

import pytest
import torch
from evaluation_reader import read_evaluation
from factories import tiny_images
from tiny_evaluate import run_evaluate, with_tiny_features, write_weights
from tiny_runs import load, rows, tiny_config

from vqgan_train.cli import user_can_fix
from vqgan_train.config.trainer import HIGHER_IS_BETTER, ValidationMetric
from vqgan_train.evaluation.report.results import ALL
from vqgan_train.images.transforms import to_uint8
from vqgan_train.losses.lpips_files import ALEXNET
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.metrics.images import lpips_of, lpips_with_alexnet, measure
from vqgan_train.metrics.validation import (
    LPIPS_ALEXNET,
    SIGNED_METRICS,
    add_up,
    means,
    validation_metrics,
)
from vqgan_train.system.errors import UserError
from vqgan_train.training.train import train

SIZES = ("data.image_size=32", "data.resize=32", "run.max_steps=1", "run.val_every_steps=1")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_weights(tmp_path)
    return tmp_path / "alexnet.safetensors"


def test_each_that_can_be_chosen_is_one_and_no_other() -> None:
    assert {metric.value for metric in ValidationMetric} == {*SIGNED_METRICS, LPIPS_ALEXNET}
    assert {f"val/{metric.value}" for metric in ValidationMetric} <= HIGHER_IS_BETTER.keys()


def test_lpips_alexnet_is_that_of_evaluation_whatever_autocast_says(weights: Path) -> None:
    images, reconstruction = (
        tiny_images(3, height=32, width=48),
        tiny_images(3, height=32, width=48, seed=1),
    )
    reconstruction *= 1.2  # as a decoder does, which knows no limits
    metrics = validation_metrics(["psnr", LPIPS_ALEXNET], weights)
    assert list(metrics) == ["psnr", LPIPS_ALEXNET]
    with torch.autocast("cpu", torch.bfloat16):
        ours = metrics[LPIPS_ALEXNET](images, reconstruction)
    network = lpips_with_alexnet(find_lpips_weights(ALEXNET, weights))
    theirs = measure({"a": lpips_of(network)}, to_uint8(images), to_uint8(reconstruction))["a"]
    assert ours.shape == (3,)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-6)
    assert (ours > 0.01).all()


def test_what_is_identical_counts_in_no_mean() -> None:
    images = tiny_images(3, height=32, width=32)
    changed = images.clone()
    changed[1:] += 0.1
    metrics = validation_metrics(["psnr", "ssim"], None)
    values = [metric(images, changed) for metric in metrics.values()]
    sums, counts = add_up(metrics, images, changed)
    assert counts.tolist() == [2, 3]
    assert means(sums, counts).tolist() == pytest.approx(
        [float(values[0][1:].mean()), float(values[1].mean())]
    )
    sums, counts = add_up(metrics, images, images)
    assert means(sums, counts).tolist() == [float("inf"), 1.0]
    sums, counts = add_up({}, images, images)
    assert means(sums, counts).tolist() == []


def test_a_run_logs_what_evaluation_finds_of_its_checkpoint_and_saves_no_alexnet(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("run.val_metrics=[lpips_alexnet]", "run.best_metric=val/lpips_alexnet")
    train(
        tiny_config(tmp_path, *SIZES, *chosen, "run.max_steps=2", f"run.alexnet_weights={weights}")
    )
    logged = rows(tmp_path / "run")[-1]
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = load(checkpoint)
    assert not any("net." in name or name.startswith("lin") for name in state["state_dict"])
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with_tiny_features(monkeypatch)
    given = (f"shards={tmp_path}/val.tar", "metrics=[lpips_alex]", f"alexnet_weights={weights}")
    assert run_evaluate([checkpoint], tmp_path / "out", *given) == 0
    (found,) = read_evaluation(tmp_path / "out").checkpoints
    expected = found.summaries[ALL]["lpips_alex"].mean
    assert float(logged["val/lpips_alexnet"]) == pytest.approx(expected, abs=1e-5)
    assert float(logged["val/codebook/entropy"]) == pytest.approx(found.codebook.entropy_bits)


def test_a_wrong_file_stops_a_run_before_it_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "wrong.pth").write_bytes(b"nothing")
    chosen = ("run.val_metrics=[lpips_alexnet]", f"run.alexnet_weights={tmp_path}/wrong.pth")
    with pytest.raises(UserError, match=r"run\.alexnet_weights=.*wrong\.pth") as raised:
        train(tiny_config(tmp_path, *SIZES, *chosen))
    assert user_can_fix(raised.value)
    assert not (tmp_path / "run").exists()
