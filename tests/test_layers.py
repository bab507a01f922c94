"""The rooms of the house: who may import whom, and how large a room may get. Read, not run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "vqgan_train"
MOST_LINES_OF_A_FILE = 250
MOST_LINES_OF_A_FUNCTION = 50

CONFIG_TOOLS = ("hydra", "omegaconf")
TRAINING_TOOLS = ("pytorch_lightning", "lightning", "wandb")
NO_TORCH = ("torch", "torchvision", "lpips", "webdataset", *TRAINING_TOOLS)
PLAIN = (*CONFIG_TOOLS, *TRAINING_TOOLS)


class Room(NamedTuple):
    """Some modules, and what they may know.

    Modules are dotted names under the package; a name covers what is inside of it.
    """

    modules: tuple[str, ...]
    ours: tuple[str, ...]
    """What they may import of the package, besides themselves."""
    not_others: tuple[str, ...]
    """What they may not import of all else."""


L1 = (
    "cache",
    "checkpoint",
    "curves",
    "data",
    "evaluation",
    "losses",
    "metrics",
    "metrics_file",
    "models",
    "tf32",
    "tokens",
)
L2 = (
    "module",
    "callbacks",
    "checkpoint_source",
    "conversion",
    "data.module",
    "decoding",
    "encoding",
    "evaluating",
    "loggers",
    "ranks",
    "release",
    "run",
    "runtime",
    "tokenizer",
    "validation_metrics",
    "wandb_run",
)

PROCESS = ("exit_codes", "process_age", "ranks.launch")

PREPARING = (
    "pack",
    "prepare_cc3m",
    "prepare_yfcc",
    "prepare_yfcc_links",
    "select",
    "download",
    "make_selection",
)

ROOMS = {
    "L0 config": Room(("config",), (), NO_TORCH),
    "L0 cache": Room(("cache", "package_index"), (), (*NO_TORCH, *CONFIG_TOOLS)),
    "L0 process": Room(PROCESS, (), (*NO_TORCH, *CONFIG_TOOLS)),
    "L1 models": Room(("models",), ("checkpoint",), PLAIN),
    "L1 losses": Room(("losses",), ("cache", "package_index", "tf32"), PLAIN),
    "L1 data": Room(("data",), ("cache",), PLAIN),
    "L1 checkpoint": Room(("checkpoint",), (), PLAIN),
    "L1 curves": Room(("curves", "metrics_file"), ("cache",), (*NO_TORCH, *CONFIG_TOOLS)),
    "L1 evaluation": Room(
        ("evaluation",),
        ("cache", "curves", "metrics", "metrics_file", "package_index", "tf32"),
        PLAIN,
    ),
    "L1 metrics": Room(("metrics",), ("tf32",), PLAIN),
    "L1 tf32": Room(("tf32",), (), PLAIN),
    "L1 preparation": Room(("preparation",), ("cache", "data"), PLAIN),
    "L1 tokens": Room(("tokens",), ("cache", "data", "preparation", "tf32"), PLAIN),
    "L2": Room(L2, (*L1, *PROCESS), CONFIG_TOOLS),
    "L3 build": Room(("build",), (*L1, *L2, *PROCESS, "config"), CONFIG_TOOLS),
    "L2 images": Room(("images",), ("data", "tokens"), PLAIN),
    "L4 train": Room(
        ("train", "run.report", "ranks.command"), (*L1, *L2, *PROCESS, "config", "build"), ()
    ),
    "L4 check_data": Room(
        ("check_data",), ("cache", "command", "config", "data"), (*CONFIG_TOOLS, *TRAINING_TOOLS)
    ),
    "L4 export": Room(("export",), (*L1, *L2, "config", "command"), (*NO_TORCH, *CONFIG_TOOLS)),
    "L4 tokens": Room(
        ("encode", "decode", "evaluate"),
        (*L1, *L2, "config", "command"),
        (*NO_TORCH, *CONFIG_TOOLS),
    ),
    "L4 preparing": Room(
        PREPARING, ("cache", "data", "preparation", "config", "command"), TRAINING_TOOLS
    ),
    "L4 command": Room(("command",), ("config", *PROCESS), NO_TORCH),
    "L4 main": Room(
        ("__main__",), ("command", "config", "ranks.launch", "train"), (*NO_TORCH, *CONFIG_TOOLS)
    ),
    "the package": Room((), ("models", "module"), (*NO_TORCH, *CONFIG_TOOLS)),
}
"""The most specific room counts: data.module is in L2, the rest of data in L1."""

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    """The name below the package; empty for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def covers(names: tuple[str, ...], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def room_of(module: str) -> str:
    homes = {name: home for home, room in ROOMS.items() for name in room.modules}
    fitting = [name for name in homes if covers((name,), module)]
    return homes[max(fitting, key=len)] if fitting else "the package"


def imports(tree: ast.Module) -> Iterator[str]:
    """Absolute names of all that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            is_file = (PACKAGE.parent / f"{node.module.replace('.', '/')}.py").exists()
            for alias in node.names:
                yield node.module if is_file else f"{node.module}.{alias.name}"


def our_module(name: str) -> str:
    """Of `vqgan_train.system.errors.ShardError` the module below the package: `data`."""
    parts = name.split(".")[1:]
    while parts and not any(PACKAGE.joinpath(*parts).with_suffix(s).exists() for s in ("", ".py")):
        parts.pop()
    return ".".join(parts)


def wrong_imports(module: str, tree: ast.Module) -> list[str]:
    home = room_of(module)
    room = ROOMS[home]
    wrong = []
    for name in imports(tree):
        root = name.split(".")[0]
        if root == PACKAGE.name:
            other = our_module(name)
            if room_of(other) == home and other:
                continue
            in_l2 = room_of(other) == "L2" and not covers(room.ours, "module")
            in_l4 = room_of(other).startswith("L4") and other not in room.ours
            if in_l2 or in_l4 or not covers(room.ours, other):
                wrong.append(name)
        elif root in room.not_others:
            wrong.append(name)
    return wrong


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def test_every_room_is_there_and_every_file_has_one() -> None:
    homes = {room_of(module_name(file)) for file in FILES}
    assert homes == set(ROOMS)
    assert [f for f in FILES if room_of(module_name(f)) == "the package"] == [
        PACKAGE / "__init__.py"
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: module_name(file) or "vqgan_train")
def test_a_file_knows_only_what_its_room_may_know(file: Path) -> None:
    module = module_name(file)
    assert not wrong_imports(module, parse(file)), f"{module} is in {room_of(module)}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("config.run", "import torch"),
        ("config.run", "from vqgan_train.shards import ShardError"),
        ("cache", "from vqgan_train.config import Config"),
        ("models.vqgan", "from vqgan_train.losses import Objective"),
        ("models.vqgan", "from vqgan_train.training.lightning.module import VQGANModule"),
        ("losses.objective", "def f():\n    from vqgan_train.models import VQGAN"),
        ("data.index", "from vqgan_train.training.data.data_module import ShardDataModule"),
        ("data.index", "from vqgan_train.models import VQGAN"),
        ("data.index", "import pytorch_lightning as pl"),
        ("checkpoint.reading", "from omegaconf import OmegaConf"),
        ("metrics", "from vqgan_train.training.lightning.checkpoint_io import set_clock"),
        ("module", "from vqgan_train.config import Config"),
        ("data.module", "from vqgan_train import build"),
        ("callbacks.summary", "from vqgan_train.training.setup import build_data"),
        ("build", "from vqgan_train.training.train import train"),
        ("build", "from vqgan_train.training.report import report"),
        ("data.index", "from vqgan_train.training.run.logs import RankLog"),
        ("ranks.launch", "from vqgan_train.training.run.logs import RankLog"),
        ("command", "from vqgan_train.training.train import train"),
        ("command", "import torch"),
        ("conversion", "from vqgan_train.config import ExportConfig"),
        ("export", "import torch"),
    ],
)
def test_the_rules_see_what_breaks_them(module: str, source: str) -> None:
    assert wrong_imports(module, ast.parse(source))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the signature to the end, without the docstring: to document shall cost nothing."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) else None
    nodes = [function, docstring] if docstring else [function]
    function_lines, *docstring_lines = [(n.end_lineno or n.lineno) - n.lineno + 1 for n in nodes]
    return function_lines - sum(docstring_lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: module_name(file) or "vqgan_train")
def test_files_and_functions_are_small_and_loads_strict(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES_OF_A_FILE
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of_code(node) <= MOST_LINES_OF_A_FUNCTION, node.name
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_state_dict":
            assert "strict" not in {keyword.arg for keyword in node.keywords}
            assert len(node.args) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "import vqgan_train",
        "import vqgan_train.config",
        "import vqgan_train.__main__",
        "import vqgan_train.check_data",
        "import vqgan_train.export",
        "from vqgan_train import decode, encode, evaluate",
        "from vqgan_train import pack, prepare_cc3m, prepare_yfcc, prepare_yfcc_links, select",
    ],
)
def test_a_typo_is_answered_before_torch_is_imported(statement: str) -> None:
    heavy = f"import sys; {statement}; print([m for m in {NO_TORCH} if m in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "[]\n"


def test_l1_imports_neither_lightning_nor_hydra_not_even_through_others() -> None:
    names = ", ".join(f"vqgan_train.{name}" for name in L1)
    heavy = f"import sys, {names}; print([m for m in {PLAIN} if m in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "[]\n"
