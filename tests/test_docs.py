"""What is published is true: commands, snippets, links and settings in README and docs."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_runs import compose_config, tiny_config

from vqgan_train.command import quote_overrides
from vqgan_train.config import Config, setting_names
from vqgan_train.train import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])

INSTALLATION = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
TRAININGS = [
    command
    for page in PAGES
    for command in re.findall(
        r"^    (python -m vqgan_train (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE
    )
]


def test_ci_runs_the_readmes_commands_to_the_letter() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert len(INSTALLATION) == 2
    assert "readme_command" in gate


@pytest.mark.parametrize("command", TRAININGS)
def test_training_commands_compose(command: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "vqgan_train"]
    compose_config(*quote_overrides(words[3:], Config))


def test_there_are_training_commands() -> None:
    assert len(TRAININGS) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:run|data|model|loss|optim|trainer|logger)\.[\w.]+)", page.read_text())
    assert page != ROOT / "README.md" or len(named) > 8
    files = {name for name in named if name.endswith((".ckpt", ".py", ".safetensors"))}
    assert set(named) - files <= set(setting_names(Config))


def test_the_snippet_runs(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1"))
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "best.ckpt")
    names: dict[str, object] = {}
    exec(re.sub(r'"runs/[^"]*"', repr(checkpoint), snippet), names)
    assert names["reconstruction"].shape == names["images"].shape  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
