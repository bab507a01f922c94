"""The installed package trains as the checkout does, conf/ included."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_runs import tiny_overrides

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")


def run(*command: str, cwd: Path, **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", *OFFLINE, "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    target = wheel.parent / "site"
    run("-m", "pip", "install", *OFFLINE, "--target", str(target), str(wheel), cwd=wheel.parent)
    return target


def test_the_wheel_holds_package_and_conf_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "vqgan_train"
    kinds = ("py", "md", "html", "css", "js")
    files = [file for kind in kinds for file in package.rglob(f"*.{kind}")]
    sources = {str(file.relative_to(ROOT)) for file in files}
    conf = {f"vqgan_train/{f.relative_to(ROOT)}" for f in (ROOT / "conf").rglob("*.yaml")}
    assert conf
    assert names == sources | conf


def test_it_composes_and_trains_from_any_folder(installed: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = str(installed)
    where = run("-c", "import vqgan_train as v; print(v.__file__)", cwd=elsewhere, PYTHONPATH=path)
    assert Path(where.strip()).parent == installed / "vqgan_train"

    shown = run("-m", "vqgan_train", "--cfg", "job", cwd=elsewhere, PYTHONPATH=path)
    assert "max_steps:" in shown
    assert not list(elsewhere.iterdir())

    tiny = tiny_overrides(tmp_path)
    out = run("-m", "vqgan_train", *tiny, cwd=elsewhere, PYTHONPATH=path)
    assert "step 4" in out
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    assert not list(elsewhere.iterdir())
