"""The rooms of the house: who may import whom, and how large a file may get. Read, not run."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vqgan_train"
MAX_LINES_OF_A_FILE = 400
MAX_LINES_OF_A_FUNCTION = 50

ROOMS = (
    "system",
    "config",
    "shards",
    "shards/remote",
    "images",
    "checkpoint",
    "losses",
    "models",
    "metrics",
    "tokens",
    "evaluation/report",
    "evaluation/page",
    "evaluation",
    "training/data",
    "training/run",
    "training/lightning",
    "training/callbacks",
    "training/setup",
    "training",
    "preparation",
    "preparation/check",
    "release",
    "",
)
"""Every folder of the package, lowest first: a file imports from its own folder and from earlier
ones. The last is the top of the package: the shell's side (`cli`) and one stub for each command."""

STRANGERS = (("models", "losses"),)
"""Rooms that do not know each other, although their order would allow it."""

COMMANDS = (
    "tokens/encode.py",
    "tokens/decode.py",
    "evaluation/evaluate.py",
    "preparation/download.py",
    "preparation/pack.py",
    "preparation/prepare_yfcc.py",
    "preparation/select.py",
    "preparation/check/check_data.py",
    "release/export.py",
)
"""Bodies of commands. They, the training entry point and `training/setup` read the settings;
everything else takes plain keyword arguments."""

READS_SETTINGS = ("config", "training", "training/setup", "")
HYDRA = ("hydra", "omegaconf")
LIGHTNING = ("pytorch_lightning", "lightning_fabric")
TORCH = ("torch", "torchvision", "lpips", "webdataset", "wandb", *LIGHTNING)
LIBRARIES = {
    **dict.fromkeys(HYDRA, ("config", "training", "training/setup", "")),
    **dict.fromkeys(LIGHTNING, tuple(room for room in ROOMS if room.startswith("training"))),
    "torch": tuple(room for room in ROOMS if room not in ("config", "")),
}
"""Libraries that only some rooms may import."""

FILES = sorted(PACKAGE.rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room_of(file: str) -> str:
    """The folder of a file, by its path below the package."""
    return file.rpartition("/")[0]


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_file(name: str) -> str:
    """The file of a dotted name: `shards/index.py` for `vqgan_train.shards.index.ShardIndex`."""
    path = PACKAGE
    for part in name.split(".")[1:]:
        if path.joinpath(part).with_suffix(".py").exists():
            return relative(path / f"{part}.py")
        if not path.joinpath(part).is_dir():
            break
        path /= part
    return relative(path / "__init__.py")


def wrong_imports(file: str, tree: ast.Module) -> list[str]:
    """Imports that the rules forbid to a file, given by its path below the package."""
    room = room_of(file)
    wrong = []
    for name in imports(tree):
        root = name.split(".")[0]
        if root != PACKAGE.name:
            if room not in LIBRARIES.get(root, ROOMS):
                wrong.append(name)
            continue
        other = room_of(our_file(name))
        is_above = ROOMS.index(other) > ROOMS.index(room)
        is_stranger = (room, other) in STRANGERS or (other, room) in STRANGERS
        is_setting = other == "config" and room not in READS_SETTINGS and file not in COMMANDS
        if is_above or is_stranger or is_setting:
            wrong.append(name)
    return wrong


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def test_the_rooms_are_the_folders() -> None:
    assert {room_of(relative(file)) for file in FILES} == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_imports_only_from_its_room_and_lower_ones(file: Path) -> None:
    assert not wrong_imports(relative(file), parse(file))


def test_no_file_imports_itself_through_others() -> None:
    graph = {
        relative(file): {
            our_file(name) for name in imports(parse(file)) if name.startswith(PACKAGE.name)
        }
        - {relative(file)}
        for file in FILES
        if file.name != "__init__.py"
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("config/run.py", "import torch"),
        ("config/run.py", "from vqgan_train.shards.naming import expand_shards"),
        ("system/files.py", "from vqgan_train.config.run import Config"),
        ("shards/index.py", "from vqgan_train.shards.remote.store import ShardStore"),
        ("models/vqgan.py", "from vqgan_train.losses.objective import Objective"),
        ("losses/objective.py", "def f():\n    from vqgan_train.models import VQGAN"),
        ("models/vqgan.py", "import pytorch_lightning as pl"),
        ("checkpoint/reading.py", "from omegaconf import OmegaConf"),
        ("metrics/images.py", "from vqgan_train.evaluation.report.results import Summary"),
        ("training/data/orders.py", "from vqgan_train.training.run.folder import RunFolderError"),
        ("training/callbacks/progress.py", "from vqgan_train.training.setup import data"),
        ("training/lightning/module.py", "from vqgan_train.config.run import Config"),
        ("training/setup/data.py", "from vqgan_train.training.train import train"),
        ("tokens/formats.py", "from vqgan_train.config.tokens import EncodeConfig"),
        ("tokens/encode.py", "from vqgan_train.evaluation.job import run_job"),
        ("cli.py", "import torch"),
    ],
)
def test_the_rules_see_what_breaks_them(file: str, source: str) -> None:
    assert (PACKAGE / file).exists()
    assert wrong_imports(file, ast.parse(source))


def test_no_file_name_is_used_twice_unless_the_folders_make_it_clear() -> None:
    names = Counter(file.name for file in FILES if file.name != "__init__.py")
    stubs = {file.name for file in FILES if room_of(relative(file)) == ""}
    # A command's stub, its settings and its body share a name; so do a setting's group and what
    # is built from it.
    settings = {file.name for file in FILES if room_of(relative(file)) == "config"}
    others = {"reading.py", "writing.py"}
    assert {name for name, count in names.items() if count > 1} <= stubs | settings | others


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the signature to the end without the docstring, so that documenting is free."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) else None
    nodes = [function, docstring] if docstring else [function]
    function_lines, *docstring_lines = [(n.end_lineno or n.lineno) - n.lineno + 1 for n in nodes]
    return function_lines - sum(docstring_lines)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_files_and_functions_are_small_and_loads_strict(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_LINES_OF_A_FILE
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of_code(node) <= MAX_LINES_OF_A_FUNCTION, node.name
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_state_dict":
            assert "strict" not in {keyword.arg for keyword in node.keywords}
            assert len(node.args) == 1


def imported_by(statement: str, libraries: tuple[str, ...]) -> str:
    """Which of some libraries a statement imports, directly or through others."""
    code = f"import sys; {statement}; print([m for m in {libraries} if m in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return finished.stdout.strip()


def test_a_misspelt_setting_is_answered_before_torch_is_imported() -> None:
    stubs = [file.stem for file in FILES if room_of(relative(file)) == ""]
    names = ", ".join(f"vqgan_train.{name}" for name in stubs if name != "__init__")
    assert imported_by(f"import vqgan_train, {names}", TORCH) == "[]"


def test_rooms_below_training_import_neither_lightning_nor_hydra_not_even_through_others() -> None:
    below = [
        relative(file).removesuffix(".py").replace("/", ".")
        for file in FILES
        if ROOMS.index(room_of(relative(file))) < ROOMS.index("training/data")
        and room_of(relative(file)) != "config"
        and relative(file) not in COMMANDS
        and file.name != "__init__.py"
    ]
    names = ", ".join(f"vqgan_train.{name}" for name in below)
    assert imported_by(f"import {names}", (*HYDRA, *LIGHTNING, "wandb")) == "[]"
