"""--help of every command, and docs/settings.md, which is made from the same texts."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vqgan_train.cli import quote_overrides
from vqgan_train.config.checks import register_schema, setting_names
from vqgan_train.config.run import Config
from vqgan_train.config.settings_help import help_page, list_settings, read_header
from vqgan_train.system.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def page_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("write_settings")


def test_the_page_is_what_the_docstrings_say(page_script: ModuleType) -> None:
    assert page_script.PAGE.read_text() == page_script.settings_page(), (
        "run python scripts/write_settings.py"
    )


def test_every_setting_of_every_command_has_type_default_and_meaning(
    page_script: ModuleType,
) -> None:
    for command, schema in page_script.COMMANDS.items():
        register_schema(schema)
        settings = list_settings(command, schema)
        groups = {setting.group for setting in settings}
        groups |= {group.rpartition(".")[0] for group in groups}
        assert {setting.name for setting in settings} == set(setting_names(schema)) - groups
        for setting in settings:
            assert len(setting.meaning) > 10, f"{command}: {setting.name}"
            assert setting.type
            assert setting.default


def test_every_command_has_a_purpose_and_three_examples_that_compose(
    page_script: ModuleType,
) -> None:
    names = {file.stem for file in (ROOT / "conf").glob("*.yaml")} - {"img2dataset"}
    assert page_script.COMMANDS.keys() == names
    for command, schema in page_script.COMMANDS.items():
        purpose, examples = read_header(command)
        assert purpose.endswith(".")
        assert len(examples) == 3
        for example in examples:
            python, m, program, *arguments = shlex.split(example)
            assert (python, m) == ("python", "-m")
            assert program == "vqgan_train" + ("" if command == "train" else f".{command}")
            register_schema(schema)
            overrides = [argument for argument in arguments if argument != "--help"]
            list_settings(command, schema, quote_overrides(overrides, schema))


def test_the_overview_has_three_screens_and_no_lines_that_wrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    register_schema(Config)
    lines = help_page("train", Config, []).splitlines()
    assert len(lines) <= 180
    settings = lines[lines.index("run.") :]
    assert max(map(len, settings)) <= 110


def test_a_name_is_described_in_full_with_the_values_of_a_recipe() -> None:
    register_schema(Config)
    page = help_page("train", Config, ["experiment=finetune", "trainer.precision", "optim"])
    assert "trainer.precision\n  fp32|bf16|fp16; bf16\n" in page
    assert "optim.betas\n  list of float; [0.5, 0.9]\n" in page
    assert "run.seed" not in page


def test_a_misspelt_name_is_answered() -> None:
    register_schema(Config)
    with pytest.raises(UserError, match=r"no setting data.batchsize. Did you mean data.batch_size"):
        help_page("train", Config, ["data.batchsize"])


def test_the_shell_gets_help_and_no_groups_of_other_commands() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vqgan_train.pack", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("Pack folders of images into shards.\n")
    assert "samples_per_shard" in shown.stdout
    assert "experiment" not in shown.stdout
    assert shown.stderr == ""
