"""What is published is true: commands, snippets, links and settings in README and docs."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_runs import compose_config, tiny_config

from vqgan_train.cli import quote_overrides
from vqgan_train.config.checks import setting_names
from vqgan_train.config.run import Config
from vqgan_train.training.train import train

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
SUBMISSIONS = {
    page.name: command
    for page in PAGES
    for command in re.findall(
        r"^    ((?:\w+=\S+ )*sbatch (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE
    )
}
"""Jobs of Slurm with settings, one a page."""


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
    assert SUBMISSIONS.keys() == {"cluster.md", "launching.md"}


def read_submission(page: str) -> tuple[dict[str, str], Config]:
    """The variables and options of a page's job, and the settings that its ranks are given."""
    words = shlex.split(SUBMISSIONS[page].replace("\\\n", " "))
    template = words.index("scripts/slurm/train.sbatch")
    options = dict(word.lstrip("-").split("=", 1) for word in words[:template] if word != "sbatch")
    return options, compose_config(*quote_overrides(words[template + 1 :], Config))


def test_the_job_of_launching_composes() -> None:
    options, _config = read_submission("launching.md")
    assert options["ntasks-per-node"] == options["gpus-per-node"]


def test_the_variables_in_launchings_commands_are_somewhere_set() -> None:
    page = (ROOT / "docs" / "launching.md").read_text()
    used = set(re.findall(r"\$(\w+)", page))
    assert used
    by_hand = {name for name in used if not name.startswith("SLURM_")}
    assert by_hand <= set(re.findall(r"^    (\w+)=", page, re.MULTILINE))


def test_the_job_of_64_gpus_is_as_its_page_wants_it() -> None:
    options, config = read_submission("cluster.md")
    numbers = {name: int(value) for name, value in options.items() if value.isdecimal()}
    assert numbers["nodes"] == numbers["ntasks-per-node"] == numbers["gpus-per-node"] == 8
    assert numbers["cpus-per-task"] > config.data.num_workers
    assert numbers["OMP_NUM_THREADS"] == 1
    images_a_step = 64 * config.data.batch_size
    assert config.data.shard_lanes is not None
    assert 8 * config.data.shard_lanes % images_a_step == 0  # each node its share
    assert config.run.max_steps is None
    assert config.run.max_images is not None
    steps = config.run.max_images // images_a_step
    assert f"The job makes {steps:,} steps" in (ROOT / "docs" / "cluster.md").read_text()
    assert config.run.val_every_steps < steps / 4
    assert config.data.patience_seconds + config.data.stall_seconds < 1800  # for which NCCL waits


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


PLACES = (ROOT, ROOT / "docs", ROOT / "vqgan_train", ROOT / "tests", ROOT / "scripts" / "slurm")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_and_packages_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"[\w./-]*\w\.(?:py|sbatch)\b", text)
    folders = re.findall(r"`((?:conf|scripts|tests|vqgan_train)/[\w/]*)`", text)
    table = re.findall(r"^\| [^|`]+ \| (`.*`) \|$", text, re.MULTILINE)
    packages = re.findall(r"`([\w/]+/)`", " ".join(table)) if page.name == "CONTRIBUTING.md" else []
    assert page.name != "CONTRIBUTING.md" or packages
    named = {*files, *folders, *packages}
    assert not {name for name in named if not any((place / name).exists() for place in PLACES)}
