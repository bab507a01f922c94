"""The command line: overrides, error messages, exit codes."""

import csv
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from factories import write_shard
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_runs import compose_config, tiny_overrides

from vqgan_train import __main__ as entry
from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.checkpoint.writing import save_atomically
from vqgan_train.cli import explain, quote_overrides
from vqgan_train.config.checks import config_dir
from vqgan_train.config.run import Config
from vqgan_train.system.errors import UserError
from vqgan_train.system.exit_codes import INTERRUPTED, USER_ERROR

PACKAGE = Path(entry.__file__).parent
ONE_SCREEN = 25
NASTY_NAMES = (
    "shards/{00000..00099}.tar",
    "{a,b}.tar",
    "{a}",
    "epoch=3-step=100.ckpt",
    "=",
    "a=b,c",
    "two words.tar",
    "photos(1).tar",
    "photos (1).tar",
    "(a)",
    "a[0].tar",
    "[0].tar",
    "*.tar",
    "a?.tar",
    "a\\b.tar",
    "C:\\photos\\x",
    "a=b\\c",
    "a={b}\\",
    "\\",
    'say "hi".tar',
    'a="b"',
    'a={b}\\"c',
    "it's.tar",
    "a=\\'b",
    "Müller/日本.tar",
    "a#b;c&d|e<f>g!h",
    "~/x.tar",
    "@x%41^`",
    "s3://bucket/x.tar",
    "$HOME/x",
    "001",
    "1e3",
    "1.10",
    "1_000",
    "2024-01-01",
)


def shards_that_arrive(*arguments: str) -> Any:
    config = compose_config(*quote_overrides([*arguments, "data.val_shards=v.tar"], Config))
    return config.data.train_shards


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_what_is_typed_arrives(name: str) -> None:
    assert shards_that_arrive(f"data.train_shards={name}") == [name]
    assert (
        compose_config(*quote_overrides([f"run.output_dir={name}"], Config)).run.output_dir == name
    )


def test_random_names_arrive() -> None:
    # Not among them: what starts or ends with a quote, a backslash before a character that Hydra
    # lets escape, commas outside of braces and ${: these mean something.
    random = np.random.default_rng(0)
    alphabet = [*"ab0-_./ =:{}()[]*?#&@~%é", ".tar", "{00..09}"]
    parser = OverridesParser.create()
    for _ in range(300):
        name = "x" + "".join(random.choice(alphabet, size=random.integers(1, 9))).rstrip()
        (quoted,) = quote_overrides([f"data.train_shards={name}"], Config)
        assert parser.parse_override(quoted).value() == name


@pytest.mark.parametrize(
    ("typed", "elements"),
    [
        ("[a.tar,b.tar]", ["a.tar", "b.tar"]),
        ("[a b.tar, c.tar]", ["a b.tar", "c.tar"]),
        ("[epoch=1.ckpt,epoch=2.ckpt]", ["epoch=1.ckpt", "epoch=2.ckpt"]),
        ("[s/{00..09}.tar,t/{0,1}.tar]", ["s/{00..09}.tar", "t/{0,1}.tar"]),
        ("[a=b]", ["a=b"]),
    ],
)
def test_lists_stay_lists(typed: str, elements: list[str]) -> None:
    assert shards_that_arrive(f"data.train_shards={typed}") == elements


def test_what_hydra_understands_is_left_to_it() -> None:
    arguments = [
        "data.train_shards=null",
        "model.code_scale=1e-1",
        "optim.betas=[0.5,0.9]",
        "run.output_dir=runs/${run.seed}",
        "run.resume='auto'",
        "++run.seed=0",
        "~experiment",
        "+experiment=finetune",
        "--cfg",
        "job",
        "--config-dir=a=b",
        "--multirun",
        "run.seed=1,2",
    ]
    assert quote_overrides(arguments, Config) == arguments
    config = compose_config(*quote_overrides(arguments[:6], Config))
    assert config.run.output_dir == "runs/0"
    assert config.model.code_scale == 0.1


def test_interpolations_work_in_quoted_values_too() -> None:
    (quoted,) = quote_overrides(["run.output_dir=runs/seed=${run.seed}"], Config)
    assert compose_config(quoted).run.output_dir == "runs/seed=0"


def test_a_comma_is_answered_with_how_to_write_a_list() -> None:
    with pytest.raises(Exception, match="Ambiguous") as raised:
        shards_that_arrive("data.train_shards=a.tar,b.tar")
    assert "use key=[value1,value2]" in explain(raised.value, Config)


def test_a_pattern_that_the_shell_expanded_is_noticed() -> None:
    arguments = [f"data.train_shards=shards/0000{number}.tar" for number in range(3)]
    with pytest.raises(UserError, match=r"data.train_shards is given 3 times") as raised:
        quote_overrides(arguments, Config)
    assert "data.train_shards='shards/{00..99}.tar'" in str(raised.value)
    quote_overrides(["-m", "-m", "--config-dir=a", "--config-dir=b", "run.seed=1"], Config)


Command = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in this process; give its answer, on one screen, that left nothing behind."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["vqgan_train", *arguments])
        monkeypatch.setattr(os, "environ", os.environ.copy())
        before = files_in(tmp_path)
        with pytest.raises(SystemExit) as ended:
            entry.main()
        assert ended.value.code == USER_ERROR
        assert files_in(tmp_path) == before
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert err.startswith("\nError: ")
        assert len(err.splitlines()) < ONE_SCREEN
        return err

    return run


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def tiny(folder: Path, **changes: str) -> list[str]:
    """A tiny run's overrides with changes, whose `__` stand for dots."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    given = dict(override.split("=", 1) for override in tiny_overrides(folder))
    return [f"{name}={value}" for name, value in {**given, **changed}.items()]


def test_a_typo(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, run__max_step="3"))
    assert "no setting run.max_step. Did you mean run.max_steps" in answer


def test_a_wrong_type(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, run__max_steps="soon"))
    assert "Error: run.max_steps: Value 'soon' of type 'str' could not be converted" in answer


def test_a_size_that_does_not_fit(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, data__image_size="17"))
    assert "take a multiple of 2, such as 16" in answer


def test_a_pattern_expanded_by_the_shell(refused: Command) -> None:
    assert "given 2 times" in refused("data.train_shards=0.tar", "data.train_shards=1.tar")
    assert "~run would delete run, but a command needs all of its settings." in refused("~run")


def test_shards_that_are_not_there(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, data__train_shards="shards/{00..09}.tar"))
    assert "10 of 10 shards do not exist: shards/00.tar" in answer
    assert "no such" not in answer
    assert str(tmp_path) in answer


def test_an_empty_shard(refused: Command, tmp_path: Path) -> None:
    tiny_overrides(tmp_path)
    (tmp_path / "train.tar").write_bytes(b"")
    answer = refused(*tiny(tmp_path))
    assert f"{tmp_path / 'train.tar'} holds no sample with an image" in answer


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, trainer__accelerator="gpu"))
    assert "torch finds no GPU here" in answer
    assert "trainer.accelerator=cpu" in answer


def test_a_folder_of_something_else(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    answer = refused(*tiny(tmp_path))
    assert "holds no run of vqgan_train, but other files, such as thesis.tex" in answer


def test_a_folder_of_another_run(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: {batch_size: 77}\n")
    answer = refused(*tiny(tmp_path))
    assert "data.batch_size: 77 there, 2 now" in answer


def test_a_folder_that_is_a_file(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    assert "Not a directory" in refused(*tiny(tmp_path))


def test_no_checkpoint_to_start_from(refused: Command, tmp_path: Path) -> None:
    answer = refused(*tiny(tmp_path, model__init_from="epoch=3-step=9.ckpt"))
    assert "epoch=3-step=9.ckpt" in answer


def test_a_web_page_to_start_from(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("<!DOCTYPE html><html><body>404</body></html>")
    answer = refused(*tiny(tmp_path, model__init_from="last.ckpt"))
    assert "last.ckpt" in answer
    assert "checkpoint" in answer


def test_a_checkpoint_of_another_architecture(refused: Command, tmp_path: Path) -> None:
    from vqgan_train.checkpoint.weight_names import to_original
    from vqgan_train.training.setup.networks import build_module

    other = compose_config(*tiny(tmp_path, model__architecture__codebook_size="64"))
    weights = to_original(build_module(other).state_dict())
    kept = {name: weight for name, weight in weights.items() if "lpips" not in name}
    save_atomically({"state_dict": kept}, tmp_path / "other.ckpt")
    answer = refused(*tiny(tmp_path, model__init_from="other.ckpt"))
    assert "does not fit" in answer
    assert "(64, 4)" in answer
    assert "(32, 4)" in answer


def test_a_checkpoint_that_cannot_be_gone_on_with(refused: Command, tmp_path: Path) -> None:
    save_atomically({"state_dict": {"quantize.embedding.weight": torch.zeros(2)}}, tmp_path / "a")
    answer = refused(*tiny(tmp_path, run__resume="a"))
    assert "set model.init_from=a" in answer


@pytest.mark.parametrize("which", ["train", "val"])
def test_unreadable_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    tiny_overrides(tmp_path)
    bad = [{"__key__": f"{n:04d}", "jpg": b"no image"} for n in range(9)]
    write_shard(tmp_path / f"{which}.tar", bad)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "argv", ["vqgan_train", *tiny(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == USER_ERROR
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) < ONE_SCREEN
    assert f"{which}_shards could be read. The first: {which}.tar/0000: no image" in err
    assert not (tmp_path / "run").exists()


JOB = re.compile(r'run_command\(\s*"(\w+)", (\w+), "([\w.]+:\w+)"\s*\)')
STUBS = {
    file.stem: match
    for file in sorted(PACKAGE.glob("*.py"))
    if (match := JOB.search(file.read_text()))
}


@pytest.mark.parametrize("stub", STUBS)
def test_every_command_names_a_function_that_takes_its_settings(stub: str) -> None:
    config_name, schema, job = STUBS[stub].groups()
    assert (config_dir() / f"{config_name}.yaml").is_file()
    assert (config_name, stub) == ("train", "__main__") or config_name == stub
    function = resolve_name(job)
    hints = get_type_hints(function)
    hints.pop("return")
    assert [hint.__name__ for hint in hints.values()] == [schema]


def test_there_are_eleven_commands() -> None:
    assert len(STUBS) == 11


def main_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, job: Callable[[Config], object] | None = None
) -> None:
    """Run the command on a tiny run, or with another job in place of training."""
    if job is not None:
        monkeypatch.setattr("vqgan_train.training.train.train", job)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "argv", ["vqgan_train", *tiny(folder)])
    entry.main()


def add_wrong_shapes(config: Config) -> None:
    torch.zeros(2) + torch.zeros(3)


def parse_no_number(config: Config) -> None:
    int("x")


def read_a_file_of_ours(config: Config) -> None:
    Path("/nowhere/of/ours.yaml").read_text()


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (add_wrong_shapes, RuntimeError),
        (parse_no_number, ValueError),
        (read_a_file_of_ours, FileNotFoundError),
    ],
)
def test_a_defect_of_ours_keeps_its_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[Config], None],
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        main_with(monkeypatch, tmp_path, job)


def test_an_error_about_a_configured_path_names_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(config: Config) -> None:
        (Path(config.run.output_dir or "") / "a" / "b").write_text("")

    with pytest.raises(SystemExit) as ended:
        main_with(monkeypatch, tmp_path, write)
    assert ended.value.code == USER_ERROR
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"run.output_dir={tmp_path / 'run'}: No such file or directory: {tmp_path}/run/a" in err


WRITERS = {
    "config.yaml": "yaml.safe_dump",
    "metrics.csv": "csv.DictWriter.writerow",
    "pictures": "PIL.Image.Image.save",
    "checkpoints": "torch.save",
}
"""What the files of a run are written with."""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    writer: str,
) -> None:
    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tiny_overrides(tmp_path)  # its pictures are written first
    monkeypatch.setattr(WRITERS[writer], fill)
    with pytest.raises(SystemExit) as ended:
        main_with(monkeypatch, tmp_path)
    assert ended.value.code == USER_ERROR
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"run.output_dir={tmp_path / 'run'} cannot be written (No space left on device" in err


def python_m(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "vqgan_train", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_shell_gets_exit_code_and_message_and_no_file(tmp_path: Path) -> None:
    process = python_m("run.max_step=3", cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == USER_ERROR
    assert "Did you mean run.max_steps" in err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_cfg_job_shows_what_would_be_trained_and_makes_nothing(tmp_path: Path) -> None:
    process = python_m("data.train_shards={0..9}.tar", "--cfg", "job", cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert "train_shards: '{0..9}.tar'" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    many = tiny(tmp_path, run__max_steps="100000", run__val_every_steps="100000")
    process = python_m(*many, cwd=tmp_path)
    try:
        wait_for(lambda: last.exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    assert f"resume from {last} (step" in out

    reached = int(read_checkpoint(last)["global_step"])
    assert reached >= 2
    on = tiny(tmp_path, run__max_steps=str(reached + 1), run__val_every_steps="100000")
    process = python_m(*on, cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert f"resuming at step {reached}" in out
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(reached + 2))


def wait_for(holds: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
