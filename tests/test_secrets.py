"""Secrets in addresses are in no byte that a command writes or prints, config.yaml excepted."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from tiny_evaluate import SMALL, with_tiny_features
from tiny_runs import tiny_config, tiny_overrides, write_shard
from tiny_tokens import run

from vqgan_train import __main__ as training
from vqgan_train import encode, evaluate, export
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
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)
    checkpoint = f"'{with_secrets(server, 'parent.ckpt')}'"
    small = ("num_workers=0", "accelerator=cpu")
    faces = ("faces.detect=false", "pictures=1", "metrics=[psnr]", "bootstrap.resamples=5")
    second = with_secrets(server, "start.ckpt")
    last = f"checkpoint={written / 'part2' / 'checkpoints' / 'last.ckpt'}"
    for number, (command, *given) in enumerate((
        (encode, f"checkpoint={checkpoint}", f"shards={shards}", "pixel_range=signed",
         "format=webdataset", "resize=16", "image_size=16", *small),
        (evaluate, f"checkpoint=[{checkpoint},'{second}']", f"shards={shards}", *faces, *SMALL),
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
