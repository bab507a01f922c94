"""Pickles that run code if they are trusted, and canaries that record it."""

from typing import Any

import numpy as np
from checkpoint.pickles import (
    WEIGHT,
    call,
    dict_of,
    integer,
    name,
    storage,
    text,
    tuple_of,
)

EXTENSION = 0xF1
COUNT = integer(4)

ran: list[str] = []
"""Names of the functions and classes of the module `canaries` that were run."""


def sing(*_: Any, **__: Any) -> Any:
    """Record the call, and return a function that can be called again."""
    ran.append("call")
    return sing


class Bird:
    """Class that records every access that a pickle can make."""

    def __new__(cls, *_: Any, **__: Any) -> "Bird":
        sing()
        return object.__new__(cls)


class Nest:
    """Class whose creation is harmless, but whose use is recorded."""

    __setstate__ = append = extend = add = __setitem__ = __hash__ = sing


class Perch:
    """Class that records when an attribute is set, which is how pickles restore states."""

    song = property(sing, sing)


class Flock(np.ndarray):
    """Array that records when numpy makes it."""

    def __array_finalize__(self, _: Any) -> None:
        sing()


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
