"""Commands that prepare data: their settings, error messages and docs page."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf.errors import MissingMandatoryValue
from tiny_runs import compose_settings

from vqgan_train import pack, prepare_cc3m, prepare_yfcc, prepare_yfcc_links, select
from vqgan_train.cli import USER_ERROR, explain
from vqgan_train.config.preparation import (
    LinksConfig,
    PackConfig,
    PeopleConfig,
    PrepareYfccConfig,
    SelectConfig,
)
from vqgan_train.system.errors import UserError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()
SCHEMAS: dict[str, type] = {
    "pack": PackConfig,
    "prepare_cc3m": LinksConfig,
    "prepare_yfcc": PrepareYfccConfig,
    "prepare_yfcc_links": LinksConfig,
    "select": SelectConfig,
}
MODULES = {
    "pack": pack,
    "prepare_cc3m": prepare_cc3m,
    "prepare_yfcc": prepare_yfcc,
    "prepare_yfcc_links": prepare_yfcc_links,
    "select": select,
}
GIVEN = {
    "pack": ("inputs=in", "output=out"),
    "prepare_cc3m": ("links=a.tsv", "output=out"),
    "prepare_yfcc": ("records=a.parquet", "output=out"),
    "prepare_yfcc_links": ("links=a.jsonl.gz", "output=out"),
    "select": ("sources.cc3m=a.tar", "sources.yfcc=b.tar", "output=out"),
}
READERS = "\n".join(
    (ROOT / "vqgan_train" / "preparation" / f"{name}.py").read_text()
    for name in ("pack", "prepare_yfcc", "download", "select")
)


def composed(command: str, *overrides: str) -> Any:
    return compose_settings(command, SCHEMAS[command], *overrides)


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_command_composes_and_requires_its_mandatory_settings(
    command: str,
) -> None:
    assert composed(command, *GIVEN[command]).output == "out"
    for missing in GIVEN[command]:
        given = [override for override in GIVEN[command] if override != missing]
        with pytest.raises(MissingMandatoryValue) as raised:
            composed(command, *given)
        name = missing.split("=")[0]
        assert explain(raised.value, SCHEMAS[command]).startswith(f"{name} has no value yet.")


def test_the_default_selection_is_that_of_the_model_card() -> None:
    config = composed("select", *GIVEN["select"])
    assert (config.samples, config.val_samples, config.val_source) == (2_268_720, 1000, "yfcc")
    assert config.people.multiplier == 1


def test_sources_can_be_added_and_left_out() -> None:
    given = ["sources.cc3m=null", "sources.yfcc=[a/{0..2}.tar,b.tar]", "output=out"]
    config = composed("select", *given, "+sources.mine=c/{0..2}.tar", "+weights.mine=2")
    assert config.sources == {"yfcc": ["a/{0..2}.tar", "b.tar"], "mine": ["c/{0..2}.tar"]}
    assert config.weights == {"yfcc": 1.0, "mine": 2.0}
    with pytest.raises(UserError, match="val_source is yfcc; the sources are cc3m"):
        composed("select", "sources.cc3m=a.tar", "sources.yfcc=null", "output=out")


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), PeopleConfig])
def test_schemas_have_no_defaults_and_refuse_what_they_do_not_know(schema: type) -> None:
    assert is_dataclass(schema)
    assert "__slots__" in vars(schema)
    with pytest.raises(TypeError, match=r"missing .* required keyword-only"):
        schema()
    assert set(get_type_hints(schema)) == {field.name for field in fields(schema)}


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), PeopleConfig])
def test_every_setting_is_read(schema: Any) -> None:
    names = {field.name for field in fields(schema)}
    assert not {name for name in names if not re.search(rf"\.{name}\b", READERS)}


MISTAKES = [
    ("pack", "samples_per_shard=0", "samples_per_shard is 0; it must be at least 1"),
    ("pack", "num_workers=-1", "num_workers is -1"),
    ("pack", "input=x", "no setting input. Did you mean inputs"),
    ("prepare_yfcc", "samples_per_shard=0", "samples_per_shard is 0"),
    ("prepare_cc3m", "shorter_side=255", "shorter_side is 255; it must be at least 256 or null"),
    ("prepare_cc3m", "processes=0", "processes is 0"),
    ("prepare_cc3m", "threads=0", "threads is 0"),
    ("prepare_cc3m", "timeout_seconds=0", "timeout_seconds is 0"),
    ("prepare_cc3m", "retries=-1", "retries is -1"),
    ("prepare_yfcc_links", "min_success_fraction=2", "min_success_fraction is 2.0"),
    ("select", "samples=0", "samples is 0"),
    ("select", "val_samples=-1", "val_samples is -1"),
    ("select", "min_side=0", "min_side is 0"),
    ("select", "weights.cc3m=0", "weights.cc3m is 0.0; it must be more than 0"),
    ("select", "~weights.cc3m", "weights are given for yfcc. Give each source a weight"),
    ("select", "+sources.mine=x", "The sources are cc3m, yfcc, mine, but weights are given for"),
    ("select", "weights.cc3m=much", "weights.cc3m: Value 'much'"),
    ("select", "people.multiplier=0", "people.multiplier is 0.0"),
    ("select", "people.words=[man,'']", "people.words contains an empty word"),
    ("select", "val_source=mine", "val_source is mine; the sources are cc3m, yfcc"),
    ("select", "people.faces=true", "people.detect_faces"),
]


@pytest.mark.parametrize(("command", "mistake", "message"), MISTAKES)
def test_a_wrong_setting_is_explained(command: str, mistake: str, message: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Hydra's and ours
        composed(command, *GIVEN[command], mistake)
    assert message in explain(raised.value, SCHEMAS[command])


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_missing_file_is_a_short_error(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, *GIVEN[command]])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(SystemExit) as ended:
        MODULES[command].main()
    assert ended.value.code == USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("\nError: ")
    assert "do not exist" in said or "There is no folder in" in said
    assert len(said.splitlines()) < 10
    assert not list(tmp_path.iterdir())


COMMANDS = [
    (words[2].removeprefix("vqgan_train."), words[3:])
    for text in re.findall(r"^    (python -m vqgan_train\.(?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    for words in [shlex.split(text.replace("\\\n", " "))]
]


def test_the_page_shows_every_command() -> None:
    assert {name for name, _ in COMMANDS} == set(SCHEMAS)


@pytest.mark.parametrize(("command", "overrides"), COMMANDS)
def test_the_pages_commands_compose(command: str, overrides: list[str]) -> None:
    composed(command, *overrides)


def test_help_shows_the_settings() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vqgan_train.select", "--cfg", "job"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "samples: 2268720" in shown.stdout
