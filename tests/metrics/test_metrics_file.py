"""Rows of metrics.csv, as text and as numbers."""

from pathlib import Path

from vqgan_train.metrics.history import METRICS_FILE, numbers, read_rows, rows_beside


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
