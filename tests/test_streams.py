"""Whole runs on remote shards: equal to runs on the same shards here, and past dead sources."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_server import FaultyServer, Handler, busy, stall_after, status, with_ranges
from tiny_runs import compose_config, tiny_overrides, write_shard

from vqgan_train.shards.remote import retries
from vqgan_train.system.errors import ShardError
from vqgan_train.training.train import train

NUM_SHARDS = 6
SAMPLES = 8


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(NUM_SHARDS):
        write_shard(folder / f"{number:03d}.tar", SAMPLES, seed=number)
        (folder / f"{number:03d}_stats.json").write_text(json.dumps({"successes": SAMPLES}))
    write_shard(folder / "val.tar", 5, seed=99)
    with FaultyServer(folder) as served:
        yield served


def settings(folder: Path, source: object, *overrides: str) -> list[str]:
    """Overrides of a tiny run on shards of a source."""
    return tiny_overrides(
        folder,
        f"data.train_shards='{source}/{{000..{NUM_SHARDS - 1:03d}}}.tar'",
        f"data.val_shards={source}/val.tar",
        f"run.output_dir={folder / 'run'}",
        f"data.cache_dir={folder / 'kept'}",
        "data.shuffle_shards=2",
        "data.stall_seconds=20",
        "data.attempts=2",
        "data.patience_seconds=0",
        "run.max_steps=16",
        "run.val_every_steps=8",
        *overrides,
    )


def metrics(folder: Path) -> list[dict[str, str]]:
    """What metrics.csv says, without timings."""
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    timed = ("second", "memory")
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in rows]


def run(folder: Path, source: object, *overrides: str) -> list[dict[str, str]]:
    train(compose_config(*settings(folder, source, *overrides)))
    return metrics(folder)


def start_command(folder: Path, source: object, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vqgan_train", *settings(folder, source, *overrides)]
    return subprocess.Popen(
        [word.replace("'", "") for word in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_on_remote_shards_equals_one_on_the_same_shards_here(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["002.tar"] = [status(503)]
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    large = ("data.batch_size=4", "run.max_steps=8")  # as many samples as 16 steps of 2
    there = run(tmp_path / "there", server.url, *large, "data.num_workers=2")
    assert there == run(tmp_path / "here", server.folder, *large)
    assert len(there) == 9
    assert server.requests["002.tar"] == 2


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_where_it_was(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = run(tmp_path / "whole", server.url)
    run(tmp_path / "halves", server.url, "run.max_steps=10")
    other_limits = ("data.cache_gb=1", "data.attempts=3", f"data.cache_dir={tmp_path / 'new'}")
    halves = run(tmp_path / "halves", server.url, *other_limits)
    assert halves[-6:] == whole[-6:]


@pytest.mark.slow
def test_dead_and_stalling_sources_are_bad_samples(
    server: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.always["003.tar"] = stall_after(2000)
    overrides = (
        "data.max_bad_fraction=0.5",
        "data.batch_size=12",
        "run.max_steps=4",
        "data.stall_seconds=3",
    )
    started_at = time.monotonic()
    rows = run(tmp_path, server.url, "run.val_every_steps=4", *overrides)
    assert time.monotonic() - started_at < 240
    assert len(rows) == 5
    assert [row["data/bad_samples"] for row in rows if row["data/bad_samples"]][-1] == "8.0"
    said = capsys.readouterr().out
    assert said.count("DEAD SHARD") == 1
    assert said.count("003.tar/sample ") == 8


@pytest.mark.slow
def test_an_outage_and_broken_downloads_change_nothing(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(retries, "MAX_PAUSE_SECONDS", 1.0)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    back_at = time.monotonic() + 15
    size = (server.folder / "001.tar").stat().st_size * 4 // 5

    def away(handler: Handler, body: bytes) -> None:
        if time.monotonic() < back_at:
            return busy(503)(handler, body)
        return with_ranges('"one"', at_most=size)(handler, body)

    for number in range(NUM_SHARDS):
        server.always[f"{number:03d}.tar"] = server.always[f"{number:03d}_stats.json"] = away
    server.faults["val.tar"] = [busy(429, Retry_After="3")]
    there = run(tmp_path / "there", server.url, "data.patience_seconds=600")
    assert time.monotonic() > back_at
    assert there == run(tmp_path / "here", server.folder)
    # Not a byte twice. The end of the run may cut off a download of the next window.
    for name in (f"{number:03d}.tar" for number in range(NUM_SHARDS)):
        assert size <= server.bytes_sent[name] <= (server.folder / name).stat().st_size


@pytest.mark.slow
def test_a_source_that_stays_away_ends_a_run_with_a_code_of_its_own(
    server: FaultyServer, tmp_path: Path
) -> None:
    for number in range(1, NUM_SHARDS):
        server.always[f"{number:03d}.tar"] = status(503)
    command = start_command(tmp_path, server.url, "data.patience_seconds=3")
    said, _ = command.communicate(timeout=240)
    assert command.returncode == 69, said
    assert "start the same command again when it works" in " ".join(said.split())


@pytest.mark.slow
def test_too_many_dead_shards_end_a_run(server: FaultyServer, tmp_path: Path) -> None:
    for number in range(1, NUM_SHARDS):
        server.always[f"{number:03d}.tar"] = status(404)
    with pytest.raises(ShardError, match=r"(?s)could be read|could not be read"):
        run(tmp_path, server.url, "data.batch_size=12")


@pytest.mark.slow
def test_two_ranks_of_two_workers_share_downloads(server: FaultyServer, tmp_path: Path) -> None:
    overrides = ("trainer.devices=2", "data.num_workers=2", "run.max_steps=24")
    command = start_command(tmp_path, server.url, *overrides)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    rows = metrics(tmp_path)
    assert len(rows) == 25
    assert {row["data/bad_samples"] for row in rows} <= {"", "0.0"}
    assert set(server.requests.values()) == {1}


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_download_behind(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.always["val.tar"] = stall_after(1000)
    mark = f"sleep 98.{os.getpid()}"  # no other process's
    shards = f"data.train_shards=pipe:{mark}; cat {server.folder}/" + "{000..005}.tar"
    overrides = ("data.stall_seconds=100", shards, "data.val_shards=" + server.url + "/val.tar")
    command = start_command(tmp_path, server.url, *overrides)
    wait_for(lambda: bool(processes_with(mark)))
    command.kill()
    command.communicate(timeout=240)
    wait_for(lambda: not processes_with(mark))


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def processes_with(text: str) -> list[str]:
    """Processes that have a text in their command line, the run itself left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if text in " ".join(words) and "vqgan_train" not in words:
                found.append(process.name)
    return found
