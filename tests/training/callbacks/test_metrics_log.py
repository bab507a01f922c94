"""Rows and values of metrics.csv."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import tiny_config

from vqgan_train.training.callbacks import metrics_log
from vqgan_train.training.callbacks.metrics_log import MetricsLog
from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.lightning.module import TRAINING_METRICS
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")

Row = dict[str, str]


def rows(folder: Path) -> dict[int, Row]:
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Row]:
    folder = tmp_path_factory.mktemp("run")
    changes = ("run.max_steps=7", "run.log_every_steps=3", "run.val_every_steps=4")
    train(tiny_config(folder, *changes, "optim.learning_rate=1e-4"))
    return rows(folder)


def test_training_and_validation_have_intervals_of_their_own(table: dict[int, Row]) -> None:
    assert list(table) == [0, 3, 4, 6, 7]
    assert [step for step, row in table.items() if row["train/loss/total"]] == [3, 6]
    assert [step for step, row in table.items() if row["val/psnr"]] == [0, 4, 7]


def test_totals_are_sums_of_their_terms(table: dict[int, Row]) -> None:
    row = {name: float(value) for name, value in table[6].items() if value}
    reconstruction = row["train/loss/pixel"] + row["train/loss/perceptual"]
    assert row["train/loss/reconstruction"] == pytest.approx(reconstruction, rel=1e-5)
    adversarial = row["train/adversarial/weight"] * row["train/loss/adversarial"]
    total = reconstruction + row["train/loss/codebook"] + adversarial
    assert row["train/loss/total"] == pytest.approx(total, rel=1e-5)


def test_epochs_speed_and_rate_are_those_of_the_run(table: dict[int, Row]) -> None:
    row = {name: float(value) for name, value in table[6].items() if value}
    assert row["train/epoch"] == pytest.approx(6 * 2 / 9)
    assert row["train/learning_rate"] == 1e-4
    images_per_second = 2 / row["train/step_seconds"]
    assert row["train/images_per_second"] == pytest.approx(images_per_second, rel=1e-6)
    assert 0 <= row["train/data_seconds"] < row["train/step_seconds"]


def test_images_of_all_ranks_count_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(metrics_log, "time", SimpleNamespace(perf_counter=lambda: now))
    log = MetricsLog(every_steps=2, non_finite=SkipNonFinite(3, 1))
    trainer: Any = SimpleNamespace(
        world_size=3,
        accumulate_grad_batches=1,
        global_step=0,
        loggers=[],
        strategy=SimpleNamespace(reduce=lambda terms, reduce_op: terms),
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-4}])],
        datamodule=SimpleNamespace(position=lambda: 6, train_data=range(12)),
        train_dataloader=SimpleNamespace(fetch_seconds=1.0),
    )
    log.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step in (1, 2):
        if step == 2:
            now += 2.0  # a callback that waits, for the other ranks perhaps
            log.pause()
            now += 7.0  # a validation
        now += 1.0  # the loader
        log.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        now += 4.0
        trainer.global_step = step
        outputs = {"terms": torch.zeros(len(TRAINING_METRICS))}
        log.on_train_batch_end(trainer, None, outputs, {"image": range(5)}, 0)  # type: ignore[arg-type]
    assert log.latest["train/images_per_second"] == 2 * 5 * 3 / 12
    assert log.latest["train/step_seconds"] == 6
    assert log.latest["train/data_seconds"] == 1


def test_codes_are_used_or_dead(table: dict[int, Row]) -> None:
    for step in (0, 4, 7):
        used, dead = (float(table[step][f"val/codebook/{name}"]) for name in ("used", "dead"))
        assert used + dead == 32
        assert 1 <= float(table[step]["val/codebook/perplexity"]) <= used


@pytest.mark.slow
def test_a_step_of_several_batches_is_one_row_with_their_mean(tmp_path: Path) -> None:
    # The learning rate is so small that the weights are the same for all batches.
    still = ("optim.learning_rate=1e-30", "run.max_steps=2", "loss.discriminator_start_step=9")
    still = (*still, "loss.adversarial_start_step=9")
    tables = []
    for batches in (1, 2):
        folder = tmp_path / str(batches)
        folder.mkdir()
        steps = f"run.max_steps={4 // batches}"
        accumulate = f"optim.accumulate_batches={batches}"
        train(tiny_config(folder, *still, steps, accumulate))
        tables.append(rows(folder))
    single, double = tables
    assert list(double) == [0, 1, 2]
    for step in (1, 2):
        for name in ("train/loss/pixel", "train/loss/codebook"):
            mean = (float(single[2 * step - 1][name]) + float(single[2 * step][name])) / 2
            assert float(double[step][name]) == pytest.approx(mean, rel=1e-5)
    assert double[2]["train/epoch"] == single[4]["train/epoch"]
