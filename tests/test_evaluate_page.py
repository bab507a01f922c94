"""The evaluate command leaves a page, with the curves of the run that made a checkpoint."""

from pathlib import Path

import pytest
from tiny_evaluate import run_evaluate
from tiny_tokens import tiny_checkpoint, tiny_shards

from vqgan_train.evaluation.report.evaluation_folder import PAGE_FILE


@pytest.mark.usefixtures("runs_draw_curves")
def test_a_page_is_there_with_pictures_and_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,val/psnr\n0,20.5\n5,21.5\n")
    checkpoints = [tiny_checkpoint(tmp_path / "other")]
    checkpoints += [tiny_checkpoint(tmp_path / "run" / "checkpoints", codebook_size=32)]
    shards = tiny_shards(tmp_path / "shards")[0].parent
    given = (f"shards={shards}/*.tar", "metrics=[psnr,l1]", "names=[before,after]")
    assert run_evaluate(checkpoints, tmp_path / "out", *given) == 0
    page = (tmp_path / "out" / PAGE_FILE).read_text(encoding="utf-8")
    assert "the run that made after" in page
    assert "the run that made before" not in page
    assert page.count('data-version="original"') >= 1
