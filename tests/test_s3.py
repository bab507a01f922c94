"""Whole runs on shards in a bucket, and what is said where it is not to be had."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import AWS_SETTINGS, BUCKET, KEYS, S3Server, s3_server
from tiny_runs import compose_config, rows, tiny_overrides, write_shard

from vqgan_train.shards.remote import retries
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import ShardError
from vqgan_train.training.train import train

NUM_SHARDS, SAMPLES = 4, 8
MOST_LINES_OF_A_SCREEN, COLUMNS = 24, 80


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(NUM_SHARDS):
        write_shard(folder / f"{number:03d}.tar", SAMPLES, seed=number)
        (folder / f"{number:03d}_stats.json").write_text(json.dumps({"successes": SAMPLES}))
    write_shard(folder / "val.tar", 5, seed=99)
    return folder


@pytest.fixture(scope="module")
def server(shards: Path) -> Iterator[S3Server]:
    with s3_server() as served:
        for file in shards.iterdir():
            served.put(file)
        yield served


@pytest.fixture(autouse=True)
def machine(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with keys for the server, and without any of its owner's."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)
    for name in AWS_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no machine's role
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def settings(folder: Path, source: object, *overrides: str) -> list[str]:
    return tiny_overrides(
        folder,
        f"data.train_shards='{source}/{{000..{NUM_SHARDS - 1:03d}}}.tar'",
        f"data.val_shards={source}/val.tar",
        f"data.cache_dir={folder / 'kept'}",
        "data.shuffle_shards=2",
        "data.stall_seconds=30",
        "data.attempts=2",
        "data.patience_seconds=0",
        *overrides,
    )


def run(folder: Path, source: object, *overrides: str) -> None:
    folder.mkdir(exist_ok=True)
    train(compose_config(*settings(folder, source, *overrides)))


def fetch(tmp_path: Path, name: str = "000.tar") -> Path:
    store = ShardStore(tmp_path / "some", 10**8, stall_seconds=30, attempts=1)
    return store.fetch(f"s3://{BUCKET}/{name}").path


def refusal(tmp_path: Path, source: str, *overrides: str) -> str:
    """The message of a run that does not begin, which fits on a screen."""
    with pytest.raises(ShardError) as raised:
        run(tmp_path, source, *overrides)
    said = str(raised.value)
    assert sum(1 + len(line) // COLUMNS for line in said.splitlines()) < MOST_LINES_OF_A_SCREEN
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in said
    assert not (tmp_path / "run").exists()
    return said


@pytest.mark.slow
def test_a_run_from_a_bucket_resumes_and_equals_one_from_here(shards: Path, tmp_path: Path) -> None:
    lanes = ("data.shard_lanes=2", "run.max_steps=8")
    run(tmp_path / "here", shards, *lanes)
    bucket = f"s3://{BUCKET}"
    run(tmp_path / "there", bucket, *lanes, "run.max_steps=4", "data.num_workers=2")
    run(tmp_path / "there", bucket, *lanes, f"data.cache_dir={tmp_path / 'new'}")
    here, there = (rows(tmp_path / name / "run") for name in ("here", "there"))
    assert len(here) == 9
    assert there == here


def test_keys_and_server_may_come_from_the_home_folder(
    server: S3Server, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*KEYS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    keys = "\n".join(f"{name.lower()} = {value}" for name, value in KEYS.items())
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\n{keys}\n")
    (tmp_path / ".aws" / "config").write_text(f"[default]\nendpoint_url = {server.url}\n")
    assert fetch(tmp_path).read_bytes() == (shards / "000.tar").read_bytes()


def test_a_public_bucket_needs_no_keys(
    server: S3Server, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    public = tmp_path / "public.tar"
    public.write_bytes((shards / "000.tar").read_bytes())
    server.put(public, public=True)
    assert fetch(tmp_path, public.name).read_bytes() == (shards / "000.tar").read_bytes()


def test_a_wrong_bucket_is_said(tmp_path: Path) -> None:
    said = refusal(tmp_path, "s3://fotos")
    assert "The samples of 4 of 4 remote shards cannot be counted" in said
    assert "Check the address" in said
    assert (
        "s3://fotos/000.tar is unavailable after attempt 1: The specified bucket does not exist"
        in said
    )


def test_a_wrong_key_is_said(tmp_path: Path) -> None:
    said = refusal(tmp_path, f"s3://{BUCKET}/cc3m", "data.attempts=1")
    assert (
        f"s3://{BUCKET}/cc3m/000.tar is unavailable after attempt 1: The specified key does" in said
    )
    val = f"data.val_shards=s3://{BUCKET}/validation.tar"
    said = refusal(tmp_path, f"s3://{BUCKET}", "data.attempts=1", val)
    assert f"s3://{BUCKET}/validation.tar is unavailable" in said
    assert "remove the shard from data.val_shards" in said


def test_missing_credentials_are_said_with_the_places_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    said = refusal(tmp_path, f"s3://{BUCKET}")
    # Asked once: it will be the same the next time.
    assert "000.tar is unavailable after attempt 1: NoCredentialsError: Unable to locate" in said
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws" in said
    assert "FSSPEC_S3_ANON=true" in said


def test_unknown_credentials_are_said(server: S3Server, tmp_path: Path) -> None:
    server.know_nobody()
    try:
        said = refusal(tmp_path, f"s3://{BUCKET}")
    finally:
        server.know_nobody(sure=False)
    assert "000.tar is unavailable after attempt 1: PermissionError: " in said
    assert "AWS_ENDPOINT_URL" in said
