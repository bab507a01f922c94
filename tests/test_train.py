import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer
from tiny_runs import assert_equal, compose_config, load, rows, tiny_config

from vqgan_train import VQGAN, VQGANModule
from vqgan_train.config.checks import plain_settings
from vqgan_train.system.errors import CheckpointError, RunFolderError
from vqgan_train.training.lightning.checkpoint_io import AtomicCheckpointIO
from vqgan_train.training.setup.data import build_data
from vqgan_train.training.train import train

GOLDEN_LOSSES = (0.98934, 0.88785, 0.76985, 0.87948, 0.79094)
"""Of the tiny run, on a CPU. What moves them changes what is trained: its commit says why."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, runs_draw_curves: None) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(tiny_config(folder))
    return folder / "run"


def test_a_run_leaves_config_metrics_pictures_and_checkpoints(finished: Path) -> None:
    files = sorted(str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file())
    assert files == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "curves.png",
        "images/step_000000.png",
        "images/step_000002.png",
        "images/step_000004.png",
        "logs/rank_0.log",
        "metrics.csv",
    ]


def test_metrics_have_a_row_a_step_and_validation_from_step_0(finished: Path) -> None:
    table = rows(finished)
    assert [row["step"] for row in table] == ["0", "1", "2", "3", "4"]
    validated = [row["step"] for row in table if row["val/loss/reconstruction"]]
    assert validated == ["0", "2", "4"]
    total = float(table[-1]["val/loss/pixel"]) + float(table[-1]["val/loss/perceptual"])
    assert float(table[-1]["val/loss/reconstruction"]) == pytest.approx(total)


def test_pictures_show_three_rows_of_the_first_validation_images(finished: Path) -> None:
    with Image.open(finished / "images" / "step_000004.png") as picture:
        assert picture.size == (2 * (128 + 4) + 4, 3 * (18 + 128) + 4)
        assert len(picture.getcolors(maxcolors=1 << 24) or []) > 100


def test_a_checkpoint_holds_plain_values_and_no_lpips(finished: Path) -> None:
    checkpoint = load(finished / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 4
    assert checkpoint["vqgan_train"]["config"]["run"]["max_steps"] == 4
    assert checkpoint["vqgan_train"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert not any("lpips" in name or "perceptual" in name for name in checkpoint["state_dict"])
    assert "loss.discriminator.main.0.weight" in checkpoint["state_dict"]


def test_the_checkpoint_loads_as_tokenizer_and_as_module(finished: Path) -> None:
    path = finished / "checkpoints" / "last.ckpt"
    tokenizer = VQGAN.from_checkpoint(path)
    module = VQGANModule.load_from_checkpoint(path)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        assert torch.equal(tokenizer.encode(images), module.generator.eval().encode(images))


def test_a_trainer_of_ones_own_goes_on_from_a_checkpoint(finished: Path) -> None:
    path = finished / "checkpoints" / "last.ckpt"
    module = VQGANModule.load_from_checkpoint(path)
    data = build_data(tiny_config(finished.parent))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=6, accelerator="cpu", **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer.fit(module, data, ckpt_path=str(path))
    assert trainer.global_step == 6
    assert data.position() == 12


def test_a_hostile_checkpoint_is_not_gone_on_from(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shell:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({**load(last), "more": Shell()}, last)
    config = tiny_config(tmp_path, "run.max_steps=6")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(RunFolderError, match="cannot be read, and there is nothing else"):
        train(config)
    assert "None of its code was run" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint(last)
    assert not (tmp_path / "ran").exists()
    torch.load(last, weights_only=False)
    assert (tmp_path / "ran").exists(), "the file would do it"


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("data.num_workers=2", "trainer.precision=bf16", "optim.clip_norm=1.0"),
        ("optim.accumulate_batches=2", "data.random_crop=false"),
    ],
)
def test_resuming_equals_not_having_stopped(
    tmp_path: Path, finished: Path, extra: tuple[str, ...]
) -> None:
    whole, halves = finished, tmp_path / "halves" / "run"
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    if extra:
        train(tiny_config(tmp_path / "whole", *extra))
        whole = tmp_path / "whole" / "run"
    train(tiny_config(tmp_path / "halves", "run.max_steps=2", *extra))
    train(tiny_config(tmp_path / "halves", *extra))

    assert rows(whole) == rows(halves)
    for name in ("last.ckpt", "best.ckpt"):
        left, right = (load(folder / "checkpoints" / name) for folder in (whole, halves))
        for part in ("state_dict", "optimizer_states", "ShardDataModule", "global_step"):
            assert_equal(left[part], right[part])


def test_a_folder_that_holds_another_run_is_refused(finished: Path) -> None:
    before = (finished / "config.yaml").read_text()
    with pytest.raises(RunFolderError, match=r"data.batch_size: 2 there, 1 now"):
        train(tiny_config(finished.parent, "data.batch_size=1"))
    assert (finished / "config.yaml").read_text() == before


def test_a_finished_run_has_nothing_left_to_do(finished: Path) -> None:
    before = rows(finished)
    assert train(tiny_config(finished.parent)) is None
    assert rows(finished) == before


def test_the_settings_stay_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path, "run.output_dir=null", "run.max_steps=1")
    before = plain_settings(config)
    train(config)
    assert plain_settings(config) == before
    assert (before["run"]["output_dir"], before["trainer"]["devices"]) == (None, "auto")
    (folder,) = Path("runs").iterdir()
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["run"]["output_dir"] == str(folder)
    assert (written["trainer"]["devices"], written["trainer"]["num_nodes"]) == (1, 1)
    assert load(folder / "checkpoints" / "last.ckpt")["vqgan_train"]["config"] == written


def test_starting_from_a_checkpoint_takes_its_weights_only(finished: Path, tmp_path: Path) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    trainer = train(tiny_config(tmp_path, f"model.init_from={start}", "run.max_steps=1"))
    assert trainer is not None
    assert trainer.global_step == 1
    first = rows(tmp_path / "run")[0]
    assert first["val/loss/reconstruction"] == rows(finished)[-1]["val/loss/reconstruction"]


def test_accumulated_batches_train_like_one_large_batch(tmp_path: Path) -> None:
    for name, overrides in {
        "large": ("data.batch_size=4",),
        "small": ("data.batch_size=2", "optim.accumulate_batches=2"),
    }.items():
        (tmp_path / name).mkdir()
        # BatchNorm makes the discriminator's batches matter, so it stays as it is.
        still = ("loss.discriminator_start_step=9", "loss.adversarial_start_step=9")
        train(tiny_config(tmp_path / name, *overrides, *still))
    for large, small in zip(
        rows(tmp_path / "large" / "run"), rows(tmp_path / "small" / "run"), strict=True
    ):
        for key in ("train/loss/reconstruction", "train/loss/codebook", "val/loss/reconstruction"):
            if large[key]:
                # Some latents lie between two codes: on one CPU in two, rounding moves one of them.
                assert float(small[key]) == pytest.approx(float(large[key]), rel=1e-2), key


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    for name, norm in {"free": "null", "clipped": "1e-12"}.items():
        (tmp_path / name).mkdir()
        train(tiny_config(tmp_path / name, f"optim.clip_norm={norm}", "run.max_steps=1"))
    moved = {
        name: rows(tmp_path / name / "run")[-1]["val/loss/reconstruction"]
        for name in ("free", "clipped")
    }
    # Adam divides by the size of the gradient, but for its epsilon of 1e-8: much smaller ones
    # stay small.
    start = rows(tmp_path / "free" / "run")[0]["val/loss/reconstruction"]
    assert float(moved["clipped"]) == pytest.approx(float(start), rel=1e-3)
    assert float(moved["free"]) != pytest.approx(float(start), rel=1e-3)


def test_losses_of_five_steps_are_the_golden_ones(tmp_path: Path) -> None:
    # At ten times the rate, five steps of Adam make 2 % of a last bit.
    train(tiny_config(tmp_path, "run.max_steps=5", "optim.learning_rate=1e-4"))
    losses = [float(row["train/loss/total"]) for row in rows(tmp_path / "run")[1:]]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_keeps_one_run_over_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = ("logger=wandb", f"logger.wandb.mode={mode}")
    for steps in (2, 4):
        train(tiny_config(tmp_path, *wandb, f"run.max_steps={steps}"))
    assert len(rows(tmp_path / "run")) == 5
    identity = (tmp_path / "run" / "wandb_id").read_text()
    runs = sorted((tmp_path / "run").glob("wandb/offline-run-*"))
    # offline-run-<second>-<identity>, and -1 after it where both runs began in one second.
    assert [run.name.split("-")[3] for run in runs] == [identity] * 2 * (mode == "offline")
    for run in runs:
        assert list(run.glob("files/media/images/val/pictures*.png"))


@pytest.mark.slow
def test_the_small_model_trains_on_photos(tmp_path: Path) -> None:
    photos = Path(__file__).parents[1] / ".." / "shared" / "photos"
    if not photos.is_dir():
        pytest.skip("there are no photos at ../shared/photos")
    shards = (
        f"data.train_shards='{photos}/0000{{0..2}}.tar'",
        f"data.val_shards={photos}/00003.tar",
    )
    train(compose_config(*shards, "run.max_steps=50", f"run.output_dir={tmp_path / 'run'}"))
    first, *_, last = (row["val/loss/perceptual"] for row in rows(tmp_path / "run"))
    assert float(last) < 0.9 * float(first)
