"""Unpickler for `torch.load` that runs no code that a file names, except torch's tensor functions.

This module is passed to `torch.load` as `pickle_module`; torch uses its `Unpickler` and `load`.
Everything else that a pickle names becomes a stand-in, which keeps settings and does nothing.
"""

import pickle
from collections import OrderedDict
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


# Parameters and tensors of subclasses become plain tensors, because attributes that a file sets on
# them could replace torch's.
KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.storage.UntypedStorage": SimpleNamespace(dtype=torch.uint8),
    "torch._tensor._rebuild_from_type_v2": _without_subclass,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _without_device,
    "torch._utils._rebuild_parameter": _without_state,
    "torch._utils._rebuild_parameter_with_state": _without_state,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": torch._utils._rebuild_tensor_v3,
}
"""The only names, besides torch's dtypes, that are not replaced by stand-ins."""


class Unpickler(pickle._Unpickler):
    """Python's unpickler, for which every name is a dtype, an entry of `KNOWN` or a stand-in."""

    stack: list[Any]

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
        return KNOWN.get(full_name) or type("StandIn", (StandIn,), {"name": full_name})

    def get_extension(self, code: int) -> None:
        """Refuse a number in copyreg's registry, which could give a class without `find_class`."""
        raise ValueError("its pickle uses copyreg's extensions, which no checkpoint needs")

    def load_build(self) -> None:
        """Set the state of a stand-in or OrderedDict only; others could be functions of torch."""
        target = self.stack[-2]
        if not isinstance(target, (StandIn, OrderedDict)):
            raise ValueError(f"its pickle sets the state of a {type(target).__name__}")
        super().load_build()  # type: ignore[misc]  # typeshed lacks it

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }


def load(file: IO[bytes], **options: Any) -> Any:
    """Read one pickle from the current position of `file`."""
    return Unpickler(file, **options).load()
