"""The encode command with a source that cannot be read, changes meanwhile, or is remote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import image_bytes, image_samples, write_shard
from tiny_tokens import contents, rows_of, run_encode, tiny_checkpoint, tiny_shards, token_files

from vqgan_train.cli import USER_ERROR
from vqgan_train.images import locations
from vqgan_train.tokens import encode as encoding
from vqgan_train.tokens.ledger import LEDGER


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locations, "RETRY_DELAYS_SECONDS", (0, 0))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(image_bytes(seed=number))
    return folder


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_disk_that_does_not_answer_leaves_no_hole(
    tmp_path: Path,
    checkpoint: Path,
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = photos(tmp_path / "photos", 6), tmp_path / "out"
    settings = (f"folder={folder}", "samples_per_file=2", "batch_size=2", "max_bad_fraction=0.9")
    read_bytes = Path.read_bytes

    def fail_at_times(path: Path) -> bytes:
        if path.name == "3.png":
            raise OSError(116, "Stale file handle", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail_at_times)
        workers = f"num_workers={num_workers}"
        assert run_encode(checkpoint, output, *settings, workers) == USER_ERROR
    said = capsys.readouterr().err
    assert f"\nError: {folder}/3.png cannot be read: Stale file handle (tried 3 times)" in said
    assert "Traceback" not in said
    assert [file.name for file in token_files(output)] == ["001.parquet"]
    assert run_encode(checkpoint, output, *settings) == 0
    whole = tmp_path / "whole"
    assert run_encode(checkpoint, whole, *settings) == 0
    assert contents(output) == contents(whole)
    assert len(rows_of(output)) == 6


def test_too_many_bad_images_stop_it_and_more_can_be_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = image_samples(8)
    for number in (1, 5):
        samples[number]["png"] = b"no image"
    settings = (f"shards={write_shard(tmp_path / 's.tar', samples)}", "samples_per_file=4")
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, *settings) == USER_ERROR  # 0.01 of 100
    message = capsys.readouterr().err
    assert "2 of 8 images could not be read, more than max_bad_fraction=0.01 allows" in message
    assert [file.name for file in token_files(output)] == ["001.parquet"]
    assert not (output / LEDGER / "002.json").exists()
    assert run_encode(checkpoint, output, *settings, "max_bad_fraction=0.02") == 0
    assert len(rows_of(output)) == 6


@pytest.mark.parametrize("moment", ["before the walk", "at the end"])
def test_a_folder_that_changes_meanwhile_is_not_called_done(
    tmp_path: Path,
    checkpoint: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = photos(tmp_path / "photos", 4), tmp_path / "out"
    name = "begin_job" if moment == "before the walk" else "write_report"
    original = getattr(encoding, name)

    def then_change(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        (folder / "0.png").unlink(missing_ok=True)

    settings = (f"folder={folder}", "samples_per_file=2", "batch_size=2", "num_workers=0")
    with monkeypatch.context() as patch:
        patch.setattr(encoding, name, then_change)
        assert run_encode(checkpoint, output, *settings) == USER_ERROR
    message = capsys.readouterr().err
    assert "photos has changed since the command began" in message
    assert run_encode(checkpoint, output, *settings) == USER_ERROR
    assert "begun with other settings or files: samples was" in capsys.readouterr().err


def test_addresses_and_commands_are_encoded_like_files(tmp_path: Path, checkpoint: Path) -> None:
    shards = tiny_shards(tmp_path / "shards")
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_encode(checkpoint, here, f"shards={tmp_path}/shards/*.tar") == 0
    some = [f"file://{tmp_path}/shards/{{00000..00001}}.tar", f"pipe:cat {shards[2]}"]
    kept = (f"cache_dir={tmp_path / 'store'}", "cache_gb=0.5", "stall_seconds=30", "attempts=2")
    given = f"shards={json.dumps(some)}"
    assert run_encode(checkpoint, there, given, "num_workers=2", *kept) == 0
    assert len(list((tmp_path / "store").glob("*/0000?.tar"))) == 3
    for one, other in zip(rows_of(here), rows_of(there), strict=True):
        assert one.labels == other.labels
        assert np.array_equal(one.tokens, other.tokens)
    assert run_encode(checkpoint, there, given, *kept) == 0


def test_an_address_that_leads_nowhere_is_an_error(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    settings = (f"shards=file://{tmp_path}/gone.tar", "attempts=1")
    assert run_encode(checkpoint, output, *settings) == USER_ERROR
    assert "gone.tar is unavailable" in capsys.readouterr().err
    assert not output.exists()


def test_a_full_disk_is_said_with_the_file(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards, output = f"shards={tiny_shards(tmp_path / 'shards')[0]}", tmp_path / "out"

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "write_report", fail)
        assert run_encode(checkpoint, output, shards) == USER_ERROR
    message = capsys.readouterr().err
    assert "out/001.parquet cannot be written: No space left on device" in message
    assert run_encode(checkpoint, output, shards) == 0


def test_damaged_shards_are_in_the_report_and_too_many_dead_ones_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tiny_shards(tmp_path / "shards")
    shards[0].write_bytes(b"no shard")
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    pattern = f"shards={tmp_path}/shards/*.tar"
    assert run_encode(checkpoint, tmp_path / "out", pattern, "max_bad_fraction=0") == USER_ERROR
    assert "1 of 3 shards hold nothing to read, more than max_bad" in capsys.readouterr().err
    assert run_encode(checkpoint, tmp_path / "out", pattern) == 0
    said = capsys.readouterr().out
    assert "dead     1 shards hold nothing that could be read:\n         00000.tar: dead: " in said
    assert "damaged  1 shards have lost samples:\n         00001.tar: " in said
