"""The commands of docs/evaluation.md run as they are shown, on tiny files of those names."""

import re
import shlex
from pathlib import Path

import pytest
from factories import image_bytes
from tiny_evaluate import SMALL, with_tiny_features
from tiny_tokens import run, tiny_checkpoint, tiny_shards

from vqgan_train import evaluate
from vqgan_train.config.checks import setting_names
from vqgan_train.config.evaluation import EvaluateConfig

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
COMMANDS = re.findall(r"^    (.*-m vqgan_train\.evaluate .*)$", PAGE, re.MULTILINE)
(SLICES,) = re.findall(r"^    ('\+slices\..*)$", PAGE, re.MULTILINE)
PLAIN = ("metrics=[psnr,l1]", "bootstrap.resamples=5", "faces.detect=false", "pictures=1", *SMALL)


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with the files that the page's commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    with_tiny_features(monkeypatch)
    for name in ("before.ckpt", "after.ckpt", "runs/part2/checkpoints/best.ckpt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_checkpoint(path.parent).rename(path)
    tiny_shards(tmp_path / "shards" / "val")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(image_bytes(40, 40, seed=0))
    (tmp_path / "photos" / "b.png").write_bytes(image_bytes(40, 40, seed=1))
    return tmp_path


def overrides(command: str) -> list[str]:
    """Return the overrides of a command; without torchrun one process does all work."""
    words = shlex.split(command)
    assert words[0] in ("python", "torchrun")
    return words[words.index("vqgan_train.evaluate") + 1 :]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, somewhere: Path) -> None:
    assert run(evaluate, *overrides(command), *PLAIN) == 0
    for name in ("page.html", "evaluation.json", "summary.csv", "images.csv"):
        assert (somewhere / "evaluation" / name).exists()
        assert f"`{name}`" in PAGE or name == "page.html"


def test_the_slices_of_the_page_run_with_its_first_command(somewhere: Path) -> None:
    given = [*overrides(COMMANDS[0]), *shlex.split(SLICES)]
    assert run(evaluate, *given, *PLAIN) == 0
    assert "slice dogs" in (somewhere / "evaluation" / "page.html").read_text()


def test_there_are_commands_and_their_settings_exist() -> None:
    assert len(COMMANDS) >= 3
    named = re.findall(r"`((?:data|faces|bootstrap)\.(?!csv)\w+)\b", PAGE)
    assert set(named) <= set(setting_names(EvaluateConfig))
