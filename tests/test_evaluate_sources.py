"""The evaluate command with damaged, remote or missing sources and unusable outputs."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from evaluation_reader import read_evaluation
from factories import image_bytes, image_samples, write_shard
from recorded_ranks import be_rank_of_torchrun, free_port
from tiny_evaluate import run_evaluate
from tiny_tokens import tiny_checkpoint, tiny_shards

from vqgan_train.cli import USER_ERROR
from vqgan_train.evaluation import evaluate as command
from vqgan_train.evaluation.report.evaluation_folder import JSON_FILE
from vqgan_train.images import locations
from vqgan_train.system.exit_codes import LOST_RANK

PLAIN = "metrics=[psnr,ssim,l1]"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locations, "RETRY_DELAYS_SECONDS", (0, 0))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


def photos(folder: Path, count: int, *, bad: tuple[int, ...] = ()) -> Path:
    folder.mkdir()
    for number in range(count):
        content = b"no image" if number in bad else image_bytes(seed=number)
        (folder / f"{number:02d}.png").write_bytes(content)
    return folder


# Damage.


def test_damaged_shards_and_images_are_counted_and_named(
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead, cut, whole = tiny_shards(tmp_path / "shards")
    dead.write_bytes(b"<html>not found</html>")
    os.truncate(cut, 3 * cut.stat().st_size // 4)
    samples = image_samples(3)
    samples[1]["png"] = b"no image"
    write_shard(whole, samples)
    given = f"shards={tmp_path}/shards/*.tar"
    assert run_evaluate([checkpoint], tmp_path / "out", given, PLAIN) == 0
    facts = read_evaluation(tmp_path / "out").dataset
    assert [name.partition(":")[0] for name in facts.dead_shards] == ["00000.tar"]
    assert [name.partition(":")[0] for name in facts.damaged_shards] == ["00001.tar"]
    assert [name.partition(":")[0] for name in facts.unreadable] == ["00002.tar/000001"]
    said = capsys.readouterr()
    for line in (
        "1 images could not be read:\n  00002.tar/000001",
        "1 shards hold nothing that could be read:\n  00000.tar: ",
        "1 shards have lost samples:\n  00001.tar: ",
    ):
        assert line in said.out
    assert "cannot be read: 00002.tar/000001" in said.err
    assert "00000.tar holds no sample" in caplog.text
    assert "00001.tar: " in caplog.text


def test_too_many_dead_shards_stop_it_before_anything_is_measured(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in tiny_shards(tmp_path / "shards")[:2]:
        shard.write_bytes(b"")
    given = f"shards={tmp_path}/shards/*.tar"
    assert run_evaluate([checkpoint], tmp_path / "out", given, PLAIN) == USER_ERROR
    message = capsys.readouterr().err
    assert "2 of 3 shards hold nothing to read, more than max_bad_fraction=0.01 allows" in message
    assert "evaluating" not in message
    more = "max_bad_fraction=0.02"
    assert run_evaluate([checkpoint], tmp_path / "out", given, PLAIN, more) == 0
    assert len(read_evaluation(tmp_path / "out").dataset.dead_shards) == 2


def test_too_many_bad_images_stop_it_and_more_can_be_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"folder={photos(tmp_path / 'photos', 9, bad=(2, 7))}"
    output = tmp_path / "out"
    assert run_evaluate([checkpoint], output, given, PLAIN) == USER_ERROR
    message = capsys.readouterr().err
    assert "2 of 8 images could not be read, more than max_bad_fraction=0.01 allows. The" in message
    assert "or run the command again with a larger max_bad_fraction" in message
    assert not (output / JSON_FILE).exists()
    assert run_evaluate([checkpoint], output, given, PLAIN, "max_bad_fraction=0.02") == 0
    assert len(read_evaluation(output).dataset.unreadable) == 2
    assert "evaluating: 100%" in (said := capsys.readouterr().err)
    assert "9/9" in said


def be_rank(rank: int, folder: Path, ports: dict[str, int]) -> None:
    """Evaluate each folder of photos as rank `rank` of 2, and write the exit code into a file."""
    for name, port in ports.items():
        be_rank_of_torchrun(rank, port)
        arguments = (f"folder={folder / name}", PLAIN, "batch_size=2")
        code = run_evaluate([folder / "tiny.ckpt"], folder / f"out_{name}", *arguments)
        (folder / f"{name}_{rank}").write_text(str(code))


@pytest.mark.slow
def test_too_many_bad_images_stop_all_ranks(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "both", 8, bad=(1, 2))  # one of each rank: too few for it alone
    photos(tmp_path / "second", 8, bad=(2, 3))  # both of the second rank
    ports = {name: free_port() for name in ("both", "second")}
    torch.multiprocessing.spawn(be_rank, (tmp_path, ports), nprocs=2)
    codes = {file.name: int(file.read_text()) for file in tmp_path.glob("*_[01]")}
    assert codes == {
        "both_0": USER_ERROR, "both_1": USER_ERROR, "second_0": LOST_RANK, "second_1": USER_ERROR,
    }  # fmt: skip
    said = capfd.readouterr().err
    assert said.count("2 of 8 images could not be read, more than max_bad_fraction=0.01") == 2
    assert "Error of rank 1: 2 of 2 images could not be read, more" in said
    assert "Error: One of the 2 processes exited, so this one exits, too" in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("out_*/*")) == []


# Pictures.


def with_change_between(monkeypatch: pytest.MonkeyPatch, output: Path, change: Any) -> None:
    """Change the source after the numbers are written and before the pictures are made."""
    write = command.write_evaluation

    def then_change(*arguments: Any) -> None:
        write(*arguments)
        assert json.loads((output / JSON_FILE).read_text())["pictures"] == []
        change()

    monkeypatch.setattr(command, "write_evaluation", then_change)


def test_an_image_that_cannot_be_read_again_costs_its_picture_alone(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = photos(tmp_path / "photos", 4), tmp_path / "out"
    (folder / "03.png").rename(folder / "04.png")

    def change() -> None:
        (folder / "01.png").write_bytes(b"no image any more")
        (folder / "02.png").unlink()  # and 04.png comes in its place

    with_change_between(monkeypatch, output, change)
    pictures = ("pictures=4", f"folder={folder}", PLAIN)
    assert run_evaluate([checkpoint], output, *pictures) == 0
    found = read_evaluation(output)
    assert np.isfinite(found.checkpoints[0].values["l1"]).all()
    assert len(found.images.keys) == 4
    assert [kept.row for kept in found.pictures] == [0]
    reasons = {left.metric: left.reason for left in found.left_out}
    assert "cannot be read again: 01.png" in reasons["picture 000000001"]
    assert "another image" in reasons["picture 000000002"]
    assert "no longer exists" in reasons["picture 000000003"]
    assert "left out: picture 000000001: the image cannot be read again" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_a_source_that_is_gone_costs_pictures_alone(
    tmp_path: Path, checkpoint: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, photo_folder = tmp_path / "out", photos(tmp_path / "photos", 5)
    shards = tiny_shards(tmp_path / "shards")[:1]

    def change() -> None:
        for file in (*shards, *photo_folder.iterdir()):
            file.unlink()
        photo_folder.rmdir()

    with_change_between(monkeypatch, output, change)
    given = f"shards={shards[0]}" if kind == "shards" else f"folder={photo_folder}"
    assert run_evaluate([checkpoint], output, given, PLAIN) == 0
    found = read_evaluation(output)
    assert len(found.images.keys) == 5
    assert found.pictures == ()
    assert all(left.metric.startswith("picture ") for left in found.left_out)


def test_a_page_that_fails_costs_no_number(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_page", fail)
    given = f"shards={tiny_shards(tmp_path / 'shards')[0]}"
    assert run_evaluate([checkpoint], tmp_path / "out", given, PLAIN) == USER_ERROR
    assert len(read_evaluation(tmp_path / "out").images.keys) == 5
    said = capsys.readouterr()
    assert "all images, 5 images" in said.out
    assert "A disk is full (No space left on device). Make room" in said.err


# Outputs and addresses.


def test_an_output_that_cannot_be_written_is_refused_before_a_checkpoint_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "prepare", lambda *_: pytest.fail("it was begun"))
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "out"
    assert run_evaluate([tmp_path / "a.ckpt"], output, "shards=a.tar", PLAIN) == USER_ERROR
    assert f"output={output} cannot be written: Not a directory. Choose" in capsys.readouterr().err


def test_remote_shards_are_measured_like_files(tmp_path: Path, checkpoint: Path) -> None:
    shards = tiny_shards(tmp_path / "shards")
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_evaluate([checkpoint], here, f"data.val_shards={tmp_path}/shards/*.tar", PLAIN) == 0
    some = json.dumps([f"file://{tmp_path}/shards/{{00000..00001}}.tar", f"pipe:cat {shards[2]}"])
    kept = (f"cache_dir={tmp_path / 'store'}", "cache_gb=0.5", "stall_seconds=30", "attempts=2")
    given = (f"data.val_shards={some}", PLAIN, "num_workers=2", *kept)
    assert run_evaluate([checkpoint], there, *given) == 0
    assert len(list((tmp_path / "store").glob("*/0000?.tar"))) == 3
    local, remote = read_evaluation(here), read_evaluation(there)
    assert remote.images.keys == local.images.keys
    assert remote.images.sources == local.images.sources
    for name, values in local.checkpoints[0].values.items():
        np.testing.assert_array_equal(remote.checkpoints[0].values[name], values)
    assert [kept.row for kept in remote.pictures] == [kept.row for kept in local.pictures]


def test_an_address_that_leads_nowhere_is_an_error(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"data.val_shards=file://{tmp_path}/gone.tar", "attempts=1", PLAIN)
    assert run_evaluate([checkpoint], tmp_path / "out", *given) == USER_ERROR
    assert "gone.tar is unavailable" in capsys.readouterr().err
