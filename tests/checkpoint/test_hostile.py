"""Files made to run code. Each is shown to do so where it is trusted, and never does here."""

import copyreg
import io
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint.pickles import (
    MAGIC_NUMBER,
    PROTOCOL_1001,
    SYSTEM,
    VALUES,
    WEIGHT,
    call,
    checkpoint,
    dict_of,
    integer,
    name,
    storage,
    text,
    tuple_of,
    write_legacy,
    write_zip,
)

from vqgan_train.checkpoint import CheckpointError, StandIn, read_checkpoint

EXTENSION = 0xF1
COUNT = integer(4)

ran: list[str] = []
"""What has been run, by the functions and classes of the module `canaries`."""


def sing(*_: Any, **__: Any) -> Any:
    """Leave a trace, and return something to call again."""
    ran.append("call")
    return sing


class Bird:
    """A class in which everything that a pickle can reach leaves a trace."""

    def __new__(cls, *_: Any, **__: Any) -> "Bird":
        sing()
        return object.__new__(cls)


class Nest:
    """A class that is harmless to make, and leaves a trace once used."""

    __setstate__ = append = extend = add = __setitem__ = __hash__ = sing


class Perch:
    """A class that leaves a trace once an attribute is set, which is how states are restored."""

    song = property(sing, sing)


class Flock(np.ndarray):
    """An array that leaves a trace once numpy makes it."""

    def __array_finalize__(self, _: Any) -> None:
        sing()


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the classes importable under a name that a pickle can use."""
    module = types.ModuleType("canaries")
    for member in (sing, Bird, Nest, Perch, Flock):
        setattr(module, member.__name__, member)
    monkeypatch.setitem(sys.modules, "canaries", module)
    copyreg.add_extension("canaries", "sing", EXTENSION)
    ran.clear()
    yield
    copyreg.remove_extension("canaries", "sing", EXTENSION)


def canary(attribute: str) -> bytes:
    return name("canaries", attribute)


def made(attribute: str) -> bytes:
    """Make an object of a class of canaries, by NEWOBJ."""
    return canary(attribute) + b")\x81"


SING = canary("sing")
NESTED_PICKLE = b"\x80\x02" + call(SING) + b"."
ORDERED = name("collections", "OrderedDict")
ARRAY = call(
    name("numpy.core.multiarray", "_reconstruct"), canary("Flock"), tuple_of(b"K\0"), b"C\x01b"
)

PROGRAMS = {
    "REDUCE": call(SING),
    "REDUCE of STACK_GLOBAL": text("canaries") + text("sing") + b"\x93)R",
    "REDUCE of what REDUCE returned": call(call(SING)),
    "INST": b"(icanaries\nsing\n",
    "OBJ": b"(" + SING + text("x") + b"o",
    "NEWOBJ": made("Bird"),
    "NEWOBJ_EX": canary("Bird") + b")}\x92",
    "EXT1": b"\x82" + bytes([EXTENSION]) + b")R",
    "EXT2": b"\x83" + bytes([EXTENSION, 0]) + b")R",
    "EXT4": b"\x84" + bytes([EXTENSION, 0, 0, 0]) + b")R",
    "BUILD with __setstate__": made("Nest") + b"K\x01b",
    "BUILD with attributes": made("Perch") + b"N" + dict_of({"song": b"N"}) + b"\x86b",
    "APPEND": made("Nest") + b"Na",
    "APPENDS": made("Nest") + b"(Ne",
    "ADDITEMS": made("Nest") + b"(N\x90",
    "SETITEM": made("Nest") + b"NNs",
    "SETITEMS": made("Nest") + b"(NNu",
    "key of a dict": b"}" + made("Nest") + b"Ns",
    "member of a frozenset": b"(" + made("Nest") + b"\x91",
    "deep inside": b"](](]" + tuple_of(dict_of({"a": call(SING)})) + b"aee",
    "argument of an OrderedDict": call(ORDERED, b"](" + tuple_of(text("a"), call(SING)) + b"e"),
    "state of an OrderedDict": call(ORDERED) + dict_of({"_metadata": call(SING)}) + b"b",
    "memo": SING + b"q\x01" + b"0" + call(b"h\x01"),
    "copyreg._reconstructor": call(
        name("copyreg", "_reconstructor"), canary("Bird"), canary("Bird"), b"N"
    ),
    "copyreg.__newobj__": call(name("copyreg", "__newobj__"), canary("Bird")),
    "functools.partial": call(call(name("functools", "partial"), SING)),
    "functools.reduce": call(name("functools", "reduce"), SING, b"](K\x01K\x02e"),
    "operator.methodcaller": call(
        call(name("operator", "methodcaller"), text("append"), b"N"), made("Nest")
    ),
    "operator.call": call(name("operator", "call"), SING),
    "map in a list": call(
        name("builtins", "list"), call(name("builtins", "map"), SING, b"](K\x01e")
    ),
    "type": call(call(name("builtins", "type"), text("New"), tuple_of(canary("Bird")), b"}")),
    "pickle.loads": call(
        name("pickle", "loads"), b"C" + bytes([len(NESTED_PICKLE)]) + NESTED_PICKLE
    ),
    "timeit": call(
        name("timeit", "timeit"),
        text("canaries.sing()"),
        text("import canaries"),
        name("time", "perf_counter"),
        b"K\x01",
    ),
    "pydoc.locate": call(name("pydoc", "locate"), text("canaries.sing")) + b")R",
    "numpy's _reconstruct": ARRAY,
    "torch's _rebuild_from_type_v2": call(
        name("torch._tensor", "_rebuild_from_type_v2"), SING, SING, b")", b"N"
    ),
    "torch's _rebuild_parameter_with_state": call(
        name("torch._utils", "_rebuild_parameter_with_state"),
        WEIGHT,
        b"\x89",
        b"}",
        tuple_of(b"N", made("Bird")),
    ),
    "torch's _rebuild_wrapper_subclass": call(
        name("torch._utils", "_rebuild_wrapper_subclass"), call(SING)
    ),
    "kind of a storage": tuple_of(text("storage"), call(SING), text("0"), text("cpu"), COUNT)
    + b"Q",
    "key of a storage": tuple_of(
        text("storage"), name("torch", "FloatStorage"), call(SING), text("cpu"), COUNT
    )
    + b"Q",
    "device of a storage": tuple_of(
        text("storage"), name("torch", "FloatStorage"), text("0"), call(SING), COUNT
    )
    + b"Q",
    "size of a tensor": call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage("0", COUNT),
        b"K\0",
        tuple_of(call(SING)),
        tuple_of(b"K\x01"),
        b"\x89",
        b"}",
    ),
}

SHELL = {
    "os.system": lambda command: call(name("os", "system"), command),
    "posix.system": lambda command: call(name("posix", "system"), command),
    "by STACK_GLOBAL": lambda command: text("os") + text("system") + b"\x93" + command + b"\x85R",
    "by INST": lambda command: b"(" + command + b"iposix\nsystem\n",
    "by OBJ": lambda command: b"(" + name("posix", "system") + command + b"o",
    "by Python 2's name": lambda command: call(name("commands", "getoutput"), command),
    "subprocess": lambda command: call(name("subprocess", "getoutput"), command),
    "partial": lambda command: call(
        call(name("functools", "partial"), name("os", "system"), command)
    ),
    "getattr": lambda command: call(
        call(
            name("builtins", "getattr"),
            call(name("importlib", "import_module"), text("os")),
            text("system"),
        ),
        command,
    ),
    "eval": lambda command: call(
        call(name("builtins", "eval"), text("lambda c: __import__('os').system(c)")), command
    ),
    "Python 2's eval": lambda command: call(
        call(name("__builtin__", "eval"), text("lambda c: __import__('os').system(c)")), command
    ),
}


def trusted(path: Path) -> None:
    """Read a file as nobody should."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight"])
def test_nothing_that_a_pickle_names_is_run(
    tmp_path: Path, program: bytes, write: Callable[..., Path], place: str
) -> None:
    content = (
        checkpoint(other=program)
        if place == "beside the weights"
        else dict_of({"state_dict": dict_of({"a": WEIGHT, "b": program})})
    )
    path = write(tmp_path / "hostile.ckpt", content)
    with suppress(CheckpointError):
        read = read_checkpoint(path)
        assert torch.equal(read["state_dict"].get("weight", VALUES), VALUES)
    assert not ran
    trusted(path)
    assert ran, "the file was harmless, so reading it proved nothing"


@pytest.mark.parametrize("program", SHELL.values(), ids=SHELL.keys())
def test_a_file_that_asks_for_a_shell_is_refused_as_such(
    tmp_path: Path, program: Callable[[bytes], bytes]
) -> None:
    trace = tmp_path / "trace"
    path = write_zip(
        tmp_path / "hostile.ckpt", checkpoint(callbacks=program(text(f"touch {trace}")))
    )
    with pytest.raises(CheckpointError, match=r"it asks to run .*; nothing was run"):
        read_checkpoint(path)
    assert not trace.exists()
    trusted(path)
    assert trace.exists(), "the file was harmless, so refusing it proved nothing"


@pytest.mark.parametrize("position", range(5))
def test_every_pickle_of_an_old_file_is_read_as_data(tmp_path: Path, position: int) -> None:
    hostile = b"\x80\x02" + call(SING) + b"0%b"
    pickles = [MAGIC_NUMBER, PROTOCOL_1001, SYSTEM, checkpoint(), b"\x80\x02](" + text("0") + b"e."]
    # Run, forget, and go on as if nothing had been.
    pickles[position] = hostile % pickles[position].removeprefix(b"\x80\x02")
    head, program, keys = pickles[:3], pickles[3].removeprefix(b"\x80\x02"), pickles[4]
    path = tmp_path / "hostile.ckpt"
    if position == 0:  # no longer known as a file of torch
        path.write_bytes(pickles[0])
        with pytest.raises(CheckpointError, match="a pickle, but not one that torch writes"):
            read_checkpoint(path)
        pickle.loads(pickles[0])
    else:
        write_legacy(path, program, head=head, keys=keys)
        assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)
        assert not ran
        trusted(path)
    assert ran == ["call"], "the file was harmless, or ran more than once"


def test_a_module_that_a_file_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_a_checkpoint.py").write_text("import canaries; canaries.sing()")
    monkeypatch.syspath_prepend(tmp_path)
    path = write_zip(
        tmp_path / "hostile.ckpt", checkpoint(other=name("imported_by_a_checkpoint", "any"))
    )
    read_checkpoint(path)
    assert not ran
    assert "imported_by_a_checkpoint" not in sys.modules
    trusted(path)
    assert ran


def test_an_object_of_a_foreign_class_is_a_stand_in(tmp_path: Path) -> None:
    program = made("Nest") + b"(K\x01K\x02e" + dict_of({"secret": text("state")}) + b"b"
    found = read_checkpoint(write_zip(tmp_path / "a.ckpt", checkpoint(other=program)))["other"]
    assert isinstance(found, StandIn)
    assert (found.name, found.items, found.state) == ("canaries.Nest", [1, 2], {"secret": "state"})
    assert repr(found) == "<stand-in for 'canaries.Nest'>"


@pytest.mark.parametrize("opcode", [b"P0\n", b"\x8b\1\0\0\0\1", b"\x96" + b"\0" * 8, b"\x97"])
def test_an_opcode_that_no_checkpoint_needs_is_refused(tmp_path: Path, opcode: bytes) -> None:
    path = write_zip(tmp_path / "a.ckpt", checkpoint(other=opcode))
    with pytest.raises(CheckpointError, match="which no checkpoint needs"):
        read_checkpoint(path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    program = dict_of({"state_dict": dict_of({"\x1b[2J\r": b"N"})})
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write_zip(tmp_path / "a.ckpt", program))
    assert str(caught.value).isprintable()


def test_the_pickles_written_here_are_read_by_torch_too(tmp_path: Path) -> None:
    for write in (write_zip, write_legacy):
        path = write(tmp_path / "a.ckpt", checkpoint())
        assert torch.equal(torch.load(path)["state_dict"]["weight"], VALUES)
        assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)
    assert io.BytesIO(path.read_bytes()).getvalue().startswith(MAGIC_NUMBER)
