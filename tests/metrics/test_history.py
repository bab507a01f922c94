"""Reading a run's metrics.csv and drawing its curves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_evaluate import write_weights
from tiny_runs import tiny_config

from vqgan_train.config.trainer import HIGHER_IS_BETTER, ValidationMetric
from vqgan_train.metrics.history import (
    MAX_POINTS,
    METRICS_FILE,
    PANELS,
    draw_curves,
    numbers,
    read_rows,
    rows_beside,
    write_curves,
)
from vqgan_train.training.train import train


def test_a_row_that_a_crash_cut_off_and_empty_cells_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / METRICS_FILE
    assert read_rows(file) == []
    file.write_text("step,val/psnr\n0,20.5\n1,\n2,2")
    assert numbers(read_rows(file)) == [{"step": 0.0, "val/psnr": 20.5}, {"step": 1.0}]


def test_the_run_of_a_checkpoint_is_found_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text("step,val/psnr\n0,20.5\n")
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert rows_beside(str(checkpoint)) == [{"step": 0.0, "val/psnr": 20.5}]
    assert rows_beside(str(tmp_path / "exports" / "x" / "model.safetensors")) == []
    for address in ("https://host.example/best.ckpt", "hf://user/repo/best.ckpt"):
        assert rows_beside(address) == []


def test_what_is_no_runs_table_is_none(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    (tmp_path / "metrics.csv").write_text("name,value\nloss,low\n")
    assert rows_beside(str(checkpoint)) == []
    assert rows_beside("/last.ckpt") == []


def run_of(steps: int) -> list[dict[str, float]]:
    """Return rows with training metrics at every step and validation at every tenth."""
    rows = [{"step": float(step), "train/loss/pixel": 1 / (step + 1)} for step in range(steps)]
    for row in rows[::10]:
        row |= {"val/loss/pixel": 2 / (row["step"] + 1), "val/psnr": 20 + row["step"] / steps}
    return rows


@pytest.mark.usefixtures("runs_draw_curves")
def test_a_run_leaves_a_small_picture_with_every_panel(tmp_path: Path) -> None:
    train(tiny_config(tmp_path))
    figure = draw_curves(numbers(read_rows(tmp_path / "run" / "metrics.csv")))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(PANELS)
    file = tmp_path / "run" / "curves.png"
    with Image.open(file) as picture:
        assert 1000 < picture.width < 2000
        assert 400 < picture.height < 1000
    assert file.stat().st_size < 200_000


def test_what_is_drawn_is_what_was_logged() -> None:
    figure = draw_curves(run_of(50))
    assert figure is not None
    pixel, psnr = figure.axes
    training, validation = pixel.lines
    assert np.array_equal(training.get_ydata(), [1 / (step + 1) for step in range(50)])
    assert np.array_equal(validation.get_xdata(), range(0, 50, 10))
    assert len(psnr.lines) == 1
    assert psnr.get_legend() is None
    assert pixel.get_legend() is not None


def test_a_long_series_is_drawn_pale_with_means_over_it() -> None:
    rows = [{"step": float(step), "train/loss/pixel": float(step % 2)} for step in range(3000)]
    figure = draw_curves(rows)
    assert figure is not None
    pale, means = figure.axes[0].lines
    assert len(np.asarray(pale.get_ydata())) == 3000
    assert np.asarray(means.get_ydata()) == pytest.approx(np.full(MAX_POINTS, 0.5))


def test_what_is_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    rows = run_of(400)
    rows[3]["train/loss/pixel"] = float("nan")
    rows[0]["val/psnr"] = float("inf")
    assert write_curves(tmp_path / "curves.png", rows)
    figure = draw_curves(rows)
    assert figure is not None
    low, high = figure.axes[-1].get_ylim()
    assert 19 < low < high < 22


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert not write_curves(tmp_path / "curves.png", [{"step": 1.0, "train/epoch": 1.0}])
    assert not (tmp_path / "curves.png").exists()


def test_all_that_validation_logs_has_a_direction_and_is_drawn(tmp_path: Path) -> None:
    (weights,) = [given for given in write_weights(tmp_path) if given.startswith("alexnet")]
    metrics = f"run.val_metrics=[{','.join(metric.value for metric in ValidationMetric)}]"
    sizes = ("data.image_size=32", "data.resize=32")
    train(tiny_config(tmp_path, "run.max_steps=1", *sizes, metrics, f"run.{weights}"))
    logged = numbers(read_rows(tmp_path / "run" / "metrics.csv"))[-1]
    measured = {name for name in logged if name.startswith("val/")} - {"val/seconds"}
    assert measured == set(HIGHER_IS_BETTER)
    # The other two repeat what `used` and `perplexity` show.
    drawn = {name for lines in PANELS.values() for name in lines}
    assert measured - drawn == {"val/codebook/dead", "val/codebook/entropy"}
