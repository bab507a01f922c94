"""Unpickler for `torch.load` that runs no code that a file names, except torch's tensor functions.

This module is passed to `torch.load` as `pickle_module`; torch uses its `Unpickler` and `load`.
Everything else that a pickle names becomes a stand-in, which keeps settings and does nothing.
"""

import pickle
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import IO, Any, ClassVar, Self

import torch


def printable_text(value: object) -> str:
    """Shorten a file's text to 80 characters, then escape all but printable ASCII, for messages."""
    text = str(value)
    if len(text) > 80:
        text = text[:77] + "..."
    return text.encode("unicode_escape").decode()


# These lists need not be complete, because reading runs nothing. They serve to warn the user that a
# file is hostile.
HOSTILE_MODULES = frozenset(
    {"commands", "ctypes", "importlib", "nt", "os", "posix", "runpy", "shutil", "subprocess", "sys"}
)
HOSTILE_BUILTINS = frozenset(
    {"__import__", "compile", "eval", "exec", "execfile", "getattr", "input", "open", "setattr"}
)


class StandIn:
    """Object that replaces an instance of a class, or the result of a function, named by a pickle.

    Each such class or function becomes a subclass of its own. The arguments of calls and the
    entries of lists are dropped, because no setting is stored there.
    """

    name: ClassVar[str]
    """Class or function that the pickle names, as `module.name`."""

    state: Any
    """What the pickle would pass to `__setstate__`, or set as `__dict__`; None without it."""

    entries: dict[Any, Any]
    """Values that would be set as items, by key."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make a stand-in without state; the arguments of the call are dropped."""
        stand_in = super().__new__(cls)
        stand_in.state = None
        stand_in.entries = {}
        return stand_in

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Drop a value that the pickle would append or add."""

    extend = add = append

    def __repr__(self) -> str:
        # The content is left out: it may be large, or contain this object.
        return f"<stand-in for {self.name!r}>"


def _without_state(parameter: Any, *_: Any) -> Any:
    return parameter


def _without_device(data: Any, dtype: Any, *_: Any) -> Any:
    if data.dtype != dtype:  # a conversion could be larger than the file
        raise ValueError("it has a tensor that is saved as another type than its own")
    return data


MAX_STEPS = 4_000_000
"""Maximum number of steps in a pickle. Most opcodes are one; it makes up to 100 bytes in memory,
beside those of the file. A weight is 90 steps."""

MAX_SECONDS = 30
"""Maximum time of the processor for a pickle, in seconds; so many honest steps take 5."""

LARGE_OBJECT, CALL, NEW_NAME, ODD_KEY = 5, 10, 100, 400
"""Steps of what takes more memory or time. An odd key is one whose hash the file can choose; it may
be compared with all others."""

LARGE_OBJECTS = b"\x81\x92oi\x8f\x91Q"
"""Opcodes NEWOBJ, NEWOBJ_EX, OBJ, INST, EMPTY_SET, FROZENSET and BINPERSID."""

MAX_PLAIN_KEY = 2**24
"""Integers below have too few hashes for many of them to collide."""

# Parameters and tensors of subclasses become plain tensors, because attributes that a file sets on
# them could replace torch's.
KNOWN: dict[str, Any] = {
    "torch.storage.UntypedStorage": SimpleNamespace(dtype=torch.uint8),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _without_device,
    "torch._utils._rebuild_parameter": _without_state,
    "torch._utils._rebuild_parameter_with_state": _without_state,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": torch._utils._rebuild_tensor_v3,
}
"""The only names, besides torch's dtypes and OrderedDict, that are not replaced by stand-ins."""


def _checking(opcode: int, keys: slice) -> Callable[["Unpickler"], None]:
    """Return pickle's function for an opcode, with a check of the keys on the stack before."""

    def load(unpickler: "Unpickler") -> None:
        unpickler.check_keys(unpickler.stack[keys])
        pickle._Unpickler.dispatch[opcode](unpickler)  # type: ignore[arg-type]

    return load


class _Steps(dict[int, Callable[["Unpickler"], None]]):
    """The functions of an unpickler by opcode, which count the steps of one pickle."""

    def __init__(self) -> None:
        self.left = MAX_STEPS
        self.end = time.thread_time() + MAX_SECONDS

    def __missing__(self, opcode: int) -> Callable[["Unpickler"], None]:
        if opcode in LARGE_OBJECTS:
            self.take(LARGE_OBJECT)
        else:
            self.left -= 1
            if self.left % 1024 == 0:  # a look at the clock takes longer than most steps
                self.take(0)
        return Unpickler.functions[opcode]

    def take(self, steps: int) -> None:
        """Count steps, and refuse a pickle that has too many or takes too long."""
        self.left -= steps
        if self.left < 0:
            raise ValueError(
                f"its pickle has more than {MAX_STEPS:,} steps. Unless the file is hostile, save "
                "its weights without what is beside them"
            )
        if time.thread_time() > self.end:
            raise ValueError(f"its pickle takes more than {MAX_SECONDS} s, as hostile ones do")


class Unpickler(pickle._Unpickler):
    """Python's unpickler, for which names are dtypes, entries of `KNOWN` or stand-ins."""

    stack: list[Any]

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self.steps = self.dispatch = _Steps()  # type: ignore[misc,assignment]  # a class variable
        self.stand_ins: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a torch dtype, an entry of `KNOWN`, or a stand-in; import nothing.

        Raises:
            ValueError: the name is code that can do harm.
        """
        full_name = f"{module}.{name}"
        package = module.partition(".")[0]
        if package in HOSTILE_MODULES or (
            package in ("builtins", "__builtin__") and name.partition(".")[0] in HOSTILE_BUILTINS
        ):
            raise ValueError(
                f"it asks to run {printable_text(full_name)}, which only a hostile file does; "
                "nothing was run"
            )
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if full_name == "collections.OrderedDict":
            return self.ordered_dict
        if full_name == "torch._tensor._rebuild_from_type_v2":
            return self.without_subclass
        if full_name in KNOWN:
            return KNOWN[full_name]
        if full_name not in self.stand_ins:
            self.steps.take(NEW_NAME)
            self.stand_ins[full_name] = type("StandIn", (StandIn,), {"name": full_name})
        return self.stand_ins[full_name]

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys of dicts that would crash Python when hashed, or take hours to compare."""
        for key in keys:
            parts = key if isinstance(key, tuple | frozenset) else ()
            # Hashing nested tuples can exhaust the C stack.
            if any(isinstance(part, tuple | frozenset) for part in parts):
                raise ValueError("its pickle has nested tuples as keys")
            large = isinstance(key, int) and abs(key) >= MAX_PLAIN_KEY
            if parts is key or large or isinstance(key, float):
                self.steps.take(ODD_KEY)

    def ordered_dict(self, pairs: Iterable[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
        """Make an OrderedDict of keys that were checked."""
        if not isinstance(pairs, list | tuple):
            raise ValueError(f"its pickle makes an OrderedDict of a {type(pairs).__name__}")
        self.check_keys(key for key, _ in pairs)
        return OrderedDict(pairs)

    def without_subclass(self, rebuild: Any, _: Any, arguments: Any, __: Any) -> Any:
        """Make a tensor without the subclass that a file names."""
        return self.call(rebuild, arguments)

    def call(self, function: Any, arguments: Any) -> Any:
        """Call a function. It may copy arguments, such as shapes: their entries count as steps."""
        if not isinstance(arguments, tuple):
            raise ValueError(f"its pickle calls with a {type(arguments).__name__} as arguments")
        lists = [entry for entry in arguments if isinstance(entry, list | tuple)]
        self.steps.take(CALL + len(arguments) + 2 * sum(map(len, lists)))
        return function(*arguments)

    def load_reduce(self) -> None:
        """Call a function, and put its result in its place."""
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def get_extension(self, code: int) -> None:
        """Refuse a number in copyreg's registry, which could give a class without `find_class`."""
        raise ValueError("its pickle uses copyreg's extensions, which no checkpoint needs")

    def load_build(self) -> None:
        """Set the state of a stand-in only; others could be functions of torch."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.state = state
        elif not isinstance(target, OrderedDict):  # its state, torch's versions, is not needed
            raise ValueError(f"its pickle sets the state of a {type(target).__name__}")

    def load_bytearray8(self) -> None:
        """Read bytes into a bytearray as large as they are, whatever length the pickle claims."""
        (length,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.stack.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    def load_binpersid(self) -> None:
        """Look up a storage; its keys must be text, because torch hashes and prints them."""
        reference = self.stack[-1]
        view = reference[5] if len(reference) > 5 and reference[5] else ("",)
        if not all(isinstance(key, str) for key in (reference[0], reference[2], view[0])):
            raise ValueError("its pickle has a storage whose key is no text")
        if not reference[2].isdecimal():  # torch would read a member for every case of its letters
            raise ValueError("its pickle has a storage whose key is no number")
        super().load_binpersid()  # type: ignore[misc]  # typeshed lacks it

    functions: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.REDUCE[0]: load_reduce,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.BINPERSID[0]: load_binpersid,
        **{
            opcode[0]: _checking(opcode[0], keys)
            for opcode, keys in (
                (pickle.SETITEM, slice(-2, -1)),
                (pickle.SETITEMS, slice(None, None, 2)),
                (pickle.DICT, slice(None, None, 2)),
                (pickle.ADDITEMS, slice(None)),
                (pickle.FROZENSET, slice(None)),
            )
        },
    }


def load(file: IO[bytes], **options: Any) -> Any:
    """Read one of the pickles around the content of an old file, from the current position.

    Raises:
        ValueError: it holds nested values, which torch would hash and print.
    """
    value = Unpickler(file, **options).load()
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, list | tuple) else [value]:
        inner = part.values() if isinstance(part, dict) else [part]
        if not all(isinstance(entry, str | int) for entry in inner):
            raise ValueError("it is damaged, or a pickle that torch did not write")
    return value
