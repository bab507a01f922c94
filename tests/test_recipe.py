"""Part 1 and Part 2: one run in two folders, its images counted, its discriminator warmed up."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import assert_equal, load, rows, tiny_config, write_shard

from vqgan_train.checkpoint.writing import save_atomically
from vqgan_train.system.errors import CheckpointError, RunFolderError, ShardError, UserError
from vqgan_train.training.run.start import ANEW, RunStart
from vqgan_train.training.setup.quantities import (
    images_per_step,
    last_step,
    learning_rate,
    resolve,
)
from vqgan_train.training.train import train

BY_IMAGES = ("run.max_steps=null", "run.max_images=4")

ROOT = Path(__file__).parents[1]


def part(folder: Path, name: str, *overrides: str) -> Any:
    """The config of one part in `folder`, on the shards there."""
    return tiny_config(folder, f"run.output_dir={folder / name}", *overrides)


@pytest.fixture(scope="module")
def part1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and Part 1 of four images, which are two steps."""
    folder = tmp_path_factory.mktemp("parts")
    train(part(folder, "part1", *BY_IMAGES))
    return folder


@pytest.fixture(scope="module")
def parts(part1: Path) -> Path:
    """The same with Part 2, up to eight images."""
    train(part(part1, "part2", *continuing(part1), "run.max_steps=null", "run.max_images=8"))
    return part1


def continuing(folder: Path) -> tuple[str, str]:
    return f"run.parent={folder / 'part1' / 'checkpoints' / 'last.ckpt'}", "model.init_from=null"


def test_two_parts_are_one_run(parts: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path))  # four steps of two images
    whole = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    last = load(parts / "part2" / "checkpoints" / "last.ckpt")
    for name in ("state_dict", "optimizer_states", "global_step"):
        assert_equal(whole[name], last[name])
    assert last["ShardDataModule"]["position"] == whole["ShardDataModule"]["position"] == 8
    assert rows(tmp_path / "run")[3:] == rows(parts / "part2")
    assert rows(tmp_path / "run")[:3] == rows(parts / "part1")


def test_part_2_names_part_1_and_all_that_made_it(parts: Path) -> None:
    last = load(parts / "part2" / "checkpoints" / "last.ckpt")["vqgan_train"]
    parent = last["parent"]
    assert parent["source"] == str(parts / "part1" / "checkpoints" / "last.ckpt")
    assert (parent["step"], parent["images"]) == (2, 4)
    assert parent["provenance"]["config"]["run"]["max_images"] == 4
    assert parent["provenance"]["parent"] is None
    assert last["config"]["run"]["parent"] == parent["source"]
    assert last["data"]["train_images"] == 9
    assert len(last["data"]["train_fingerprint"]) == 64


def test_part_2_goes_on_in_its_own_folder_without_part_1(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone.ckpt"
    given = (f"run.parent={gone}", "run.max_steps=3")
    (parts / "part1" / "checkpoints" / "last.ckpt").rename(gone)
    train(part(parts, "part2b", *given))
    gone.rename(parts / "part1" / "checkpoints" / "last.ckpt")
    trainer = train(part(parts, "part2b", given[0], "run.max_steps=4"))
    assert trainer is not None
    assert "resuming at step 3 from" in capsys.readouterr().out
    last = load(parts / "part2b" / "checkpoints" / "last.ckpt")["vqgan_train"]
    assert last["parent"]["source"] == str(gone)


def test_part_2_may_train_otherwise(part1: Path) -> None:
    other = (
        "optim.learning_rate=1e-5",
        "optim.betas=[0.1,0.2]",
        "data.batch_size=1",
        "run.max_steps=4",
    )
    train(part(part1, "slower", *continuing(part1), *other))
    assert [float(row["train/learning_rate"]) for row in rows(part1 / "slower")] == [1e-5] * 2
    last = load(part1 / "slower" / "checkpoints" / "last.ckpt")
    assert last["ShardDataModule"]["position"] == 4 + 2
    (group,) = last["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["betas"]) == (1e-5, (0.1, 0.2))


def test_part_2_is_of_the_same_data_and_networks(part1: Path, tmp_path: Path) -> None:
    other = write_shard(tmp_path / "other.tar", 9, seed=5)
    with pytest.raises(ShardError, match=r"are not the shards that the checkpoint was trained on"):
        train(part(part1, "new", *continuing(part1), f"data.train_shards={other}"))
    with pytest.raises(RunFolderError, match=r"(?s)run.parent=.*codebook_size: 32 there, 64 now"):
        train(part(part1, "new", *continuing(part1), "model.architecture.codebook_size=64"))
    with pytest.raises(CheckpointError, match=r"run.parent=part0/.* does not exist"):
        train(part(part1, "new", "run.parent=part0/checkpoints/last.ckpt"))
    assert not (part1 / "new").exists()


def test_images_are_counted_in_whole_steps() -> None:
    twelve = ("data.batch_size=4", "optim.accumulate_batches=3", *BY_IMAGES)
    for images, steps in ((12, 1), (23, 1), (24, 2), (2_268_720, 189_060)):
        config = tiny_config_of(*twelve, f"run.max_images={images}")
        assert images_per_step(config) == 12
        assert last_step(config, ANEW) == steps
    config = tiny_config_of(*twelve, "run.max_images=2_268_720", "run.max_steps=100")
    assert last_step(config, ANEW) == 100
    behind = RunStart(False, Path("x"), 50, {"position": 2_268_720 - 25}, None)
    assert last_step(config, behind) == 52


def test_fewer_images_than_a_step_are_refused() -> None:
    config = tiny_config_of("data.batch_size=4", "run.max_images=3")
    with pytest.raises(
        UserError, match=r"run.max_images=3 leave no step of 4 images to make\. Rai"
    ):
        last_step(config, ANEW)


def test_part_2_without_a_step_left_is_refused(part1: Path) -> None:
    with pytest.raises(UserError, match=r"run.max_images=5 .* after the 2 steps of .*last.ckpt"):
        train(part(part1, "none", *continuing(part1), "run.max_steps=null", "run.max_images=5"))
    assert not (part1 / "none").exists()


def test_part_2_that_died_before_its_first_checkpoint_keeps_what_was_best_of_it(
    part1: Path,
) -> None:
    # Validated at step 3, and gone before last.ckpt was written.
    rare = ("run.val_every_steps=1", "run.checkpoint_every_steps=99")
    train(part(part1, "died", *continuing(part1), *rare, "run.max_steps=3"))
    checkpoints = part1 / "died" / "checkpoints"
    (checkpoints / "last.ckpt").unlink()
    train(part(part1, "died", *continuing(part1), *rare, "run.max_steps=5"))
    values = {
        int(row["step"]): float(row["val/loss/reconstruction"]) for row in rows(part1 / "died")
    }
    best = min(values, key=lambda step: values[step])
    assert load(checkpoints / "best.ckpt")["global_step"] == best
    assert load(checkpoints / "last.ckpt")["callbacks"]["Checkpoints"] == {
        "best_metric": "val/loss/reconstruction",
        "best_value": values[best],
        "best_step": best,
    }


def tiny_config_of(*overrides: str) -> Any:
    shards = ("data.train_shards=t.tar", "data.val_shards=v.tar")
    return resolve(tiny_config(Path(os.devnull).parent, *shards, *overrides))


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", 1e-6), ("device_batch", 12e-6), ("global_batch", 24e-6)]
)
def test_the_rate_that_is_used_follows_its_rule(rule: str, expected: float) -> None:
    config = tiny_config_of(
        "optim.learning_rate=1e-6",
        f"optim.learning_rate_scaling={rule}",
        "data.batch_size=4",
        "optim.accumulate_batches=3",
        "trainer.devices=2",
    )
    assert learning_rate(config) == pytest.approx(expected, rel=1e-12)


def test_the_rate_that_is_used_is_said_and_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("optim.learning_rate=1e-4", "optim.learning_rate_scaling=device_batch")
    train(tiny_config(tmp_path, *rate, "run.max_steps=1"))
    assert "learning rate 0.0002 = 0.0001 x 2 images (device_batch)" in capsys.readouterr().out
    assert float(rows(tmp_path / "run")[1]["train/learning_rate"]) == 2e-4


@pytest.fixture(scope="module")
def without_discriminator(part1: Path) -> Path:
    """A release as most are: the discriminator was left out."""
    content = load(part1 / "part1" / "checkpoints" / "last.ckpt")
    weights = {n: w for n, w in content["state_dict"].items() if "discriminator" not in n}
    save_atomically({"state_dict": weights}, part1 / "release.ckpt")
    return part1 / "release.ckpt"


def felt(folder: Path) -> list[bool]:
    """Of each step, whether the generator felt the discriminator."""
    table = [row for row in rows(folder) if row["train/adversarial/weight"]]
    return [float(row["train/adversarial/weight"]) > 0 for row in table]


def test_a_new_discriminator_trains_alone_first_and_over_a_resume_too(
    without_discriminator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warmup = (f"model.init_from={without_discriminator}", "loss.discriminator_warmup_steps=3")
    train(tiny_config(tmp_path, *warmup, "run.max_steps=2"))
    said = capsys.readouterr().out
    assert "release.ckpt holds no discriminator. A new one trains, and" in said
    assert "leaves it out before step 3 " in said
    train(tiny_config(tmp_path, *warmup, "run.max_steps=5"))
    assert felt(tmp_path / "run") == [False, False, False, True, True]
    # Meanwhile it learned.
    losses = [float(row["train/loss/discriminator"]) for row in rows(tmp_path / "run")[1:]]
    assert len(set(losses)) == len(losses)


def test_a_trained_discriminator_is_felt_at_once(
    part1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = part1 / "part1" / "checkpoints" / "last.ckpt"
    warmup = (f"model.init_from={start}", "loss.discriminator_warmup_steps=3")
    train(tiny_config(tmp_path, *warmup, "run.max_steps=2"))
    assert felt(tmp_path / "run") == [True, True]
    assert "holds no discriminator" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_story_of_the_model_card_in_small(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "recipe_in_small.py"
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "story")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "== tokens: 1024 of 1024 are those of taming-transformers" in told.stdout
    with (tmp_path / "story" / "part1" / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(11)), "a killed run, started again, logs each step once"
