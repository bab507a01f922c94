"""Unpickler for `torch.load` that runs no code that a file names, except torch's tensor functions.

This module is passed to `torch.load` as `pickle_module`; torch uses its `Unpickler` and `load`.
Everything else that a pickle names becomes a stand-in, which keeps settings and does nothing.
"""

import pickle
import sys
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
    """Argument of `__setstate__`, or content of `__dict__`."""

    entries: dict[Any, Any]
    """Values that would be set as items, by key."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make a stand-in without state; the arguments of the call are dropped."""
        stand_in = super().__new__(cls)
        stand_in.state = None
        stand_in.entries = {}
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state

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


def _without_subclass(rebuild: Any, _: Any, arguments: Any, __: Any) -> Any:
    return rebuild(*arguments)


def _without_device(data: Any, dtype: Any, *_: Any) -> Any:
    return data.to(dtype=dtype)


MAX_ODD_KEYS = 10_000
"""Maximum number of keys in a file whose hashes it could make equal; each is compared with all."""

# Parameters and tensors of subclasses become plain tensors, because attributes that a file sets on
# them could replace torch's.
KNOWN: dict[str, Any] = {
    "torch.storage.UntypedStorage": SimpleNamespace(dtype=torch.uint8),
    "torch._tensor._rebuild_from_type_v2": _without_subclass,
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


class Unpickler(pickle._Unpickler):
    """Python's unpickler, for which names are dtypes, entries of `KNOWN` or stand-ins."""

    stack: list[Any]
    memo: dict[int, Any]
    num_odd_keys = 0

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
        return KNOWN.get(full_name) or type("StandIn", (StandIn,), {"name": full_name})

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys of dicts that would crash Python when hashed, or take hours to compare."""
        for key in keys:
            parts = key if isinstance(key, tuple | frozenset) else ()
            self.num_odd_keys += parts is key or (
                isinstance(key, int) and abs(key) >= sys.hash_info.modulus
            )
            # Hashing nested tuples can exhaust the C stack.
            nested = any(isinstance(part, tuple | frozenset) for part in parts)
            if nested or self.num_odd_keys > MAX_ODD_KEYS:
                raise ValueError("its pickle has nested or too many tuples or huge numbers as keys")

    def ordered_dict(self, pairs: Iterable[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
        """Make an OrderedDict of keys that were checked."""
        entries = list(pairs)
        self.check_keys(key for key, _ in entries)
        return OrderedDict(entries)

    def get_extension(self, code: int) -> None:
        """Refuse a number in copyreg's registry, which could give a class without `find_class`."""
        raise ValueError("its pickle uses copyreg's extensions, which no checkpoint needs")

    def load_build(self) -> None:
        """Set the state of a stand-in or OrderedDict only; others could be functions of torch."""
        target = self.stack[-2]
        if not isinstance(target, (StandIn, OrderedDict)):
            raise ValueError(f"its pickle sets the state of a {type(target).__name__}")
        super().load_build()  # type: ignore[misc]  # typeshed lacks it

    def load_put(self) -> None:
        """Remember a value under an index, which must be small enough to be its own hash."""
        index = int(self.readline()[:-1])  # type: ignore[attr-defined]  # typeshed lacks it
        if not 0 <= index < sys.hash_info.modulus:
            raise ValueError("its pickle has an impossible index")
        self.memo[index] = self.stack[-1]

    def load_binpersid(self) -> None:
        """Look up a storage; its keys must be text, because torch hashes and prints them."""
        reference = self.stack[-1]
        view = reference[5] if len(reference) > 5 and reference[5] else ("",)
        if not all(isinstance(key, str) for key in (reference[0], reference[2], view[0])):
            raise ValueError("its pickle has a storage whose key is no text")
        super().load_binpersid()  # type: ignore[misc]  # typeshed lacks it

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.PUT[0]: load_put,
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
