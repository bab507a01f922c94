"""Training with W&B online: the real client and a test server on this machine."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import load, rows, tiny_config, tiny_overrides, wait_until
from wandb_server import WandbServer

from vqgan_train.system.errors import CheckpointError
from vqgan_train.training.lightning.loggers import WandbRun
from vqgan_train.training.train import train

pytestmark = pytest.mark.slow

ONLINE = ("logger=wandb", "logger.wandb.entity=tester", "logger.wandb.project=cards")


def run_of(server: WandbServer, folder: Path) -> Any:
    return server.runs["tester", "cards", (folder / "wandb_id").read_text()]


def versions_of(server: WandbServer, folder: Path) -> list[Any]:
    return server.artifacts[
        "tester", "cards", f"model-{(folder / 'wandb_id').read_text()}"
    ].versions


def aliases_of_step(versions: list[Any], step: int) -> list[str]:
    return [a for v in versions if f"step-{step}" in v.aliases for a in v.aliases]


def steps_with(run: Any, name: str) -> list[int]:
    """List the steps at which a metric was logged, in the order of arrival."""
    return [row["trainer/global_step"] for row in run.history if name in row]


def part(folder: Path, name: str, *overrides: str) -> Any:
    return tiny_config(folder, f"run.output_dir={folder / name}", *ONLINE, *overrides)


def test_part_2_uses_the_artifact_of_part_1(wandb_server: WandbServer, tmp_path: Path) -> None:
    train(part(tmp_path, "part1", "run.max_steps=2"))
    identity = (tmp_path / "part1" / "wandb_id").read_text()
    artifact = f"tester/cards/model-{identity}:last"
    train(part(tmp_path, "part2", f"run.parent=wandb://{artifact}"))

    assert len(wandb_server.runs) == 2, "one run a part"
    first, second = (run_of(wandb_server, tmp_path / name) for name in ("part1", "part2"))
    assert (first.state, second.state) == ("finished", "finished")
    (used,) = second.inputs
    (last,) = [v for v in versions_of(wandb_server, tmp_path / "part1") if "last" in v.aliases]
    assert used is last
    assert steps_with(first, "train/loss/total") == [1, 2]
    assert steps_with(second, "train/loss/total") == [3, 4]
    provenance = load(tmp_path / "part2" / "checkpoints" / "last.ckpt")["vqgan_train"]
    assert provenance["parent"]["source"] == f"wandb://{artifact}"
    assert provenance["parent"]["provenance"]["wandb"]["id"] == identity
    assert wandb_server.unknown == []


def test_best_and_last_are_versions_and_old_ones_go(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    often = ("run.checkpoint_every_steps=1", "logger.wandb.upload_every_steps=1")
    train(part(tmp_path, "run", *often, "run.max_steps=6", "logger.wandb.keep_versions=1"))
    versions = versions_of(wandb_server, tmp_path / "run")
    aliases = [alias for version in versions for alias in version.aliases]
    assert {"last", "best", "step-6"} <= set(aliases)
    (other,) = [v for v in versions if not {"last", "best"} & set(v.aliases)]
    newest = "step-4" if "best" in aliases_of_step(versions, 5) else "step-5"
    assert newest in other.aliases
    (last,) = [v for v in versions if "last" in v.aliases]
    (content,) = last.files.values()
    (tmp_path / "downloaded.ckpt").write_bytes(content)
    here = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    there = load(tmp_path / "downloaded.ckpt")
    assert there["global_step"] == here["global_step"] == 6
    for name, weight in here["state_dict"].items():
        assert torch.equal(weight, there["state_dict"][name])


def test_steps_never_go_back_over_a_kill(wandb_server: WandbServer, tmp_path: Path) -> None:
    # Validations and rows follow the last checkpoint, so the resumed run repeats them.
    overrides = [*ONLINE, "run.checkpoint_every_steps=3", "run.val_every_steps=2"]
    words = tiny_overrides(tmp_path, *overrides, "run.max_steps=400")
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "vqgan_train", *words], env={**os.environ, "WANDB_SERVICE": ""}
    )
    try:
        wait_until(lambda: process.poll() is not None or len(read_rows(run)) > 6)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = int(read_rows(run)[-1]["step"])
    behind = load(run / "checkpoints" / "last.ckpt")["global_step"]

    train(tiny_config(tmp_path, *overrides, f"run.max_steps={reached + 3}"))

    logged = run_of(wandb_server, run)
    assert behind <= reached
    for name in ("train/loss/total", "val/loss/pixel"):
        steps = steps_with(logged, name)
        assert steps == sorted(set(steps)), name
    every = [row["trainer/global_step"] for row in logged.history]
    assert every == sorted(every)
    steps = steps_with(logged, "train/loss/total")
    assert steps == list(range(1, reached + 4))
    table = {int(row["step"]): float(row["train/loss/total"]) for row in rows(run)[1:]}
    there = {
        r["trainer/global_step"]: r["train/loss/total"]
        for r in logged.history
        if "train/loss/total" in r
    }
    assert there == pytest.approx(table, rel=1e-12), "the second try is equal to the first"


def read_rows(run: Path) -> list[dict[str, str]]:
    return rows(run) if (run / "metrics.csv").exists() else []


def test_a_parent_on_disk_is_an_input_by_the_version_of_its_step(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    often = (
        "run.checkpoint_every_steps=1",
        "logger.wandb.upload_every_steps=1",
        "logger.wandb.keep_versions=null",
    )
    train(part(tmp_path, "part1", *often, "run.max_steps=2"))
    parent = tmp_path / "step2.ckpt"
    shutil.copy(tmp_path / "part1" / "checkpoints" / "last.ckpt", parent)
    train(part(tmp_path, "part1", *often, "run.max_steps=4"))
    for steps in (3, 4):  # the second time it only goes on
        train(part(tmp_path, "part2", f"run.parent={parent}", f"run.max_steps={steps}"))
    (used,) = run_of(wandb_server, tmp_path / "part2").inputs
    assert "step-2" in used.aliases
    assert "last" not in used.aliases


def test_a_damaged_artifact_is_not_continued(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(part(tmp_path, "part1", "run.max_steps=1"))
    (version,) = versions_of(wandb_server, tmp_path / "part1")[-1:]
    ((name, content),) = version.files.items()
    version.files[name] = content[:-100] + bytes(100)
    for cache in ("WANDB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(cache, str(tmp_path / "elsewhere" / cache))
    shutil.copytree(lpips_cache(), tmp_path / "elsewhere/XDG_CACHE_HOME/vqgan_train/lpips")
    identity = (tmp_path / "part1" / "wandb_id").read_text()
    with pytest.raises(CheckpointError, match=r"run.parent=wandb://.* could not be fetched"):
        train(part(tmp_path, "part2", f"run.parent=wandb://tester/cards/model-{identity}:last"))
    assert not (tmp_path / "part2").exists()


def lpips_cache() -> Path:
    return Path.home() / ".cache" / "vqgan_train" / "lpips"


def test_the_run_has_its_settings_and_nothing_else(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    train(part(tmp_path, "run", "run.max_steps=1"))
    there = run_of(wandb_server, tmp_path / "run").config
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {name: value for name, value in there.items() if name != "_wandb"} == stored
    assert stored["trainer"]["devices"] == 1


def test_uploads_that_fail_cost_no_step_and_are_made_up_for(
    wandb_server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class StorageFullError(Exception):
        pass

    def refuse(*_: Any, **__: Any) -> None:
        raise StorageFullError("storage is full")

    with monkeypatch.context() as broken:
        broken.setattr(WandbRun, "upload_checkpoint", refuse)
        trainer = train(part(tmp_path, "run"))
    assert trainer is not None
    assert trainer.global_step == 4
    assert "W&B did not upload the checkpoints (storage is full)" in capsys.readouterr().out
    assert wandb_server.artifacts == {}

    assert train(part(tmp_path, "run")) is None, "there is nothing left to do but that"
    aliases = {a for v in versions_of(wandb_server, tmp_path / "run") for a in v.aliases}
    assert {"last", "best", "step-4"} <= aliases
    before = len(wandb_server.requests)
    assert train(part(tmp_path, "run")) is None
    assert len(wandb_server.requests) == before, "and then not even that"


def test_offline_runs_hold_each_step_once_when_they_are_synced(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_config(tmp_path, "run.max_steps=1"))  # without W&B
    for steps in (2, 4):
        train(part(tmp_path, "run", "logger.wandb.mode=offline", f"run.max_steps={steps}"))
    assert wandb_server.requests == []
    folders = sorted(str(folder) for folder in (run / "wandb").glob("offline-run-*"))
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--yes", *folders],
        env={**os.environ, "WANDB_SERVICE": ""},
        check=True,
    )
    assert steps_with(run_of(wandb_server, run), "train/loss/total") == [1, 2, 3, 4]
    assert steps_with(run_of(wandb_server, run), "val/loss/pixel") == [0, 1, 2, 4]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_other_modes_ask_nobody_and_leave_whole_runs(
    wandb_server: WandbServer, tmp_path: Path, mode: str
) -> None:
    for steps in (2, 4):
        train(part(tmp_path, "run", f"logger.wandb.mode={mode}", f"run.max_steps={steps}"))
    assert wandb_server.requests == []
    assert len(rows(tmp_path / "run")) == 5
