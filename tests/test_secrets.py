"""Secrets in addresses are in no byte that a command writes or prints, config.yaml excepted."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from factories import image_bytes, image_samples
from factories import write_shard as write_samples
from faulty_server import FaultyServer
from pyarrow import parquet
from tiny_evaluate import SMALL, with_tiny_features
from tiny_runs import tiny_config, tiny_overrides, write_shard
from tiny_tokens import run

from vqgan_train import __main__ as training
from vqgan_train import check_data, encode, evaluate, export, pack, prepare_yfcc, select
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.evaluation import metric_suite
from vqgan_train.release import conversion
from vqgan_train.training.train import train

SECRET = "s3cr3t"
"""Part of every secret that the tests plant."""

OFFLINE = ("logger=wandb", "logger.wandb.mode=offline")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Server of five shards and a checkpoint; another shard lies in a folder with a secret name."""
    monkeypatch.setenv("PHOTOS_TOKEN", f"{SECRET}-env")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "written" / "cache"))
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "written" / name))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    served, hidden = tmp_path / "served", tmp_path / f"{SECRET}-env"
    for folder in (served, hidden, tmp_path / "written"):
        folder.mkdir()
    for number in range(5):
        write_shard(served / f"{number:03d}.tar", 4, seed=number)
    write_shard(hidden / "val.tar", 5, seed=99)
    train(tiny_config(tmp_path / "served", "run.max_steps=2"))
    (served / "run" / "checkpoints" / "last.ckpt").rename(served / "start.ckpt")
    with FaultyServer(served) as server:
        yield server


def with_secrets(server: FaultyServer, name: str) -> str:
    """Return an address with a user, a password and a signature."""
    host = server.url.removeprefix("http://")
    return f"http://me:{SECRET}-password@{host}/{name}?X-Amz-Signature={SECRET}-query&x=1"


def addresses(server: FaultyServer) -> str:
    """Return a list of shards with all kinds of secrets but that of the environment."""
    shards = (
        f"{server.url}/000.tar?X-Amz-Signature={SECRET}-presigned&x=1",
        with_secrets(server, "001.tar"),
        f"pipe:TOKEN={SECRET}-pipe cat {server.folder}/002.tar",
        f"pipe:cat {server.folder}/003.tar # -H Authorization: Bearer {SECRET}-header",
        f"pipe:cat $(dirname {server.folder}/{SECRET})/004.tar",
    )
    return "[" + ",".join(f'"{shard}"' for shard in shards) + "]"


def said_by(folder: Path, *overrides: str) -> str:
    """Train by the command line; what it prints."""
    command = [sys.executable, "-m", "vqgan_train", *tiny_overrides(folder, *overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def holding(folder: Path) -> list[str]:
    """Files in a folder with a secret in their bytes or names."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return sorted(
        str(file.relative_to(folder))
        for file in files
        if SECRET.encode() in file.read_bytes() or SECRET in str(file.relative_to(folder))
    )


@pytest.mark.slow
def test_no_command_writes_or_prints_a_secret(
    server: FaultyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    written = tmp_path / "written"
    hidden = "${oc.env:PHOTOS_TOKEN}"
    shards = addresses(server)
    data = (f"data.train_shards={shards}", f"data.val_shards=['{tmp_path}/{hidden}/val.tar']")
    mine = f"run.output_dir={written / 'run'}"
    first = (*data, mine, *OFFLINE, f"model.init_from='{with_secrets(server, 'start.ckpt')}'")
    said = said_by(tmp_path, *first, "run.max_steps=2")
    said += said_by(tmp_path, *first, "run.max_steps=4")
    assert "resuming at step 2" in said
    (server.folder / "parent.ckpt").write_bytes(
        (written / "run" / "checkpoints" / "last.ckpt").read_bytes()
    )
    parent = f"run.parent='{with_secrets(server, 'parent.ckpt')}'"
    said += said_by(
        tmp_path, *data, *OFFLINE, f"run.output_dir={written / 'part2'}", parent, "run.max_steps=6"
    )
    with_tiny_features(monkeypatch)
    monkeypatch.setattr(metric_suite, "fetch_checkpoint", fetch_checkpoint)
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)
    checkpoint = f"'{with_secrets(server, 'parent.ckpt')}'"
    small = ("num_workers=0", "accelerator=cpu")
    faces = ("faces.detect=false", "pictures=1", "metrics=[psnr,rfid]", "bootstrap.resamples=5")
    second = with_secrets(server, "start.ckpt")
    last = f"checkpoint={written / 'part2' / 'checkpoints' / 'last.ckpt'}"
    for number, (command, *given) in enumerate((
        (encode, f"checkpoint={checkpoint}", f"shards={shards}", "pixel_range=signed",
         "format=webdataset", "resize=16", "image_size=16", *small),
        (evaluate, f"checkpoint=[{checkpoint},'{second}']", f"shards={shards}", *faces, *SMALL,
         f"inception_weights='{second}'"),
        (export, f"checkpoint={checkpoint}", "format=safetensors"),
        (export, last, "format=release", "card.pictures=grid"),
    )):  # fmt: skip
        output = f"output={written / str(number)}"
        assert run(command, *given, output) == 0, capfd.readouterr().err  # type: ignore[arg-type]
    said += "".join(capfd.readouterr())
    assert SECRET not in said, [line for line in said.splitlines() if SECRET in line]
    assert holding(written) == ["part2/config.yaml", "run/config.yaml"]
    for name in holding(written):
        assert (written / name).stat().st_mode & 0o777 == 0o600
    page = (written / "1" / "page.html").read_text()
    assert f"{server.url}/000.tar" in page, "what is no secret is shown"


def test_no_preparation_writes_or_prints_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHOTOS_TOKEN", f"{SECRET}-env")
    written, hidden = tmp_path / "written", tmp_path / f"{SECRET}-env"
    monkeypatch.setenv("XDG_CACHE_HOME", str(written / "cache"))
    inputs = hidden / "in"
    inputs.mkdir(parents=True)
    (inputs / "broken.jpg").write_bytes(b"no image")
    for number in range(3):
        (inputs / f"{number}.png").write_bytes(image_bytes(20, 20, seed=number))
    record = {
        "key": "0a",
        "title_clean": "Tree",
        "description_clean": "",
        "img": image_bytes(seed=9),
    }
    (hidden / "records").mkdir()
    parquet.write_table(pa.Table.from_pylist([record]), hidden / "records" / "0.parquet")
    folder = f"{tmp_path}/${{oc.env:PHOTOS_TOKEN}}"
    small = ("samples_per_shard=4", "num_workers=0")
    for name, command, *given in (
        ("packed", pack, f"inputs='{folder}/in'", *small),
        ("yfcc", prepare_yfcc, f"records='{folder}/records/*'", *small),
        ("select", select, f"sources.cc3m='{folder}/a.tar'", "sources.yfcc=null", "val_source=cc3m",
         "samples=2", "val_samples=1", "min_side=1", "people.detect_faces=false", *small),
        ("check.json", check_data, f"shards='{folder}/a.tar'", "num_workers=0"),
    ):  # fmt: skip
        if command is select:
            bad = {"__key__": "bad", "jpg": b"no image"}
            write_samples(hidden / "a.tar", [*image_samples(3), bad])
        again = 2 if name == "select" else 1  # a job file without the secret is still the same job
        for _ in range(again):
            code = run(command, *given, f"output={written / name}")
            assert code == (name == "check.json"), capfd.readouterr().err
    said = "".join(capfd.readouterr())
    assert "packed            3 of 4 images" in said
    assert SECRET not in said, [line for line in said.splitlines() if SECRET in line]
    assert holding(written) == []


def test_a_warning_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def warn(_: object) -> None:
        address = f"http://me:{SECRET}@host/x.tar?X-Amz-Signature={SECRET}"
        warnings.warn(f"{address} is slow", stacklevel=1)

    def show(message: Any, category: Any, name: str, line: int, *_: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, name, line))

    monkeypatch.setattr("vqgan_train.release.export.export", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)  # pytest's keeps warnings for itself
        given = ("checkpoint=a", "format=flax", f"output={tmp_path}")
        assert run(export, *given) == 0
    said = capfd.readouterr().err
    assert "UserWarning: http://host/x.tar is slow" in said
    assert SECRET not in said


@pytest.mark.parametrize("setting", ["model.init_from", "run.parent", "data.train_shards"])
def test_an_error_shows_no_secret(
    setting: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone = f"http://me:{SECRET}@127.0.0.1:9/gone.tar?X-Amz-Signature={SECRET}"
    once = ("data.attempts=1", "data.patience_seconds=0")
    given = tiny_overrides(tmp_path, f"{setting}='{gone}'", *once)
    assert run(training, *given) == (69 if setting == "data.train_shards" else 2)
    said = "".join(capfd.readouterr())
    assert "127.0.0.1:9/gone.tar" in said
    assert SECRET not in said
