"""Scripts at the shell: --help, errors in one line, and clean exits on signals."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import wait_until

SCRIPTS = Path(__file__).parents[1] / "scripts"
COMMANDS = sorted(file.stem for file in SCRIPTS.glob("*.py") if "__main__" in file.read_text())
PATIENCE_SECONDS = 240


def run_here(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> "pytest.ExceptionInfo[SystemExit]":
    """Run a script in this process, which knows torch already, to the end that it asks for."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        module.main()
    return ended


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_and_does_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self: shown.append(self))
    ended = run_here(name, ["--help"], monkeypatch)
    assert ended.value.code == 0
    (parser,) = shown
    assert f"python scripts/{name}.py" in " ".join(parser.format_help().split())
    if type(parser).__module__ == "command_line":
        assert all(action.help for action in parser._actions)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("compare_precisions", ["/nowhere/x.ckpt"], "CHECKPOINT: /nowhere/x.ckpt is not a file"),
        ("compare_precisions", ["--steps", "0"], "--steps: must be at least 1, got 0"),
        ("compare_precisions", ["--output", "/"], "--output: / is a folder; give a file in it"),
        ("bench_step", ["--model", "smal"], "--model: invalid choice: 'smal' (choose from "),
        ("bench_step", ["--sides", "theirs"], "--sides: invalid choice: 'theirs'"),
        ("bench_loop", ["--steps", "5"], "--steps: 5 are too few for 6 rows of metrics"),
        ("check_default_job", [], "the following arguments are required: RUN, SECONDS"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    name: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = run_here(name, arguments, monkeypatch)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("Error: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_file_that_is_no_checkpoint_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "x.ckpt"
    checkpoint.write_text("nothing")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own answers
    ended = run_here("compare_precisions", [str(checkpoint)], monkeypatch)
    assert ended.value.code == 2
    assert f"Error: {checkpoint} cannot be used as a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_neither_child_nor_folder_outlives_a_script(tmp_path: Path, number: signal.Signals) -> None:
    script = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "compare_precisions.py")],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(SCRIPTS.parent)},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background leaves SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: bool(processes_that_name(tmp_path)), PATIENCE_SECONDS)
        script.send_signal(number)
        _, said = script.communicate(timeout=PATIENCE_SECONDS)
    finally:
        script.kill()
    assert script.returncode == 128 + number
    assert said == f"{number.name}: stopped.\n"
    assert not processes_that_name(tmp_path)
    assert not list(tmp_path.iterdir())


def processes_that_name(folder: Path) -> list[Path]:
    """Processes with a folder in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [file] if str(folder) in file.read_text(errors="replace") else []
        except OSError:  # ended meanwhile
            continue
    return found
