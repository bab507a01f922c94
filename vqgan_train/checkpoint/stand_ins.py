"""What stands in for the classes, functions and objects that a pickle names: data, never code."""

from dataclasses import dataclass, field
from typing import Any

from vqgan_train.checkpoint.errors import shown

# Reading a pickle runs nothing, so these lists need not be complete. They make a hostile file known
# as such to whoever trusted it.
HOSTILE_MODULES = frozenset(
    {"commands", "ctypes", "importlib", "nt", "os", "posix", "runpy", "shutil", "subprocess", "sys"}
)
HOSTILE_BUILTINS = frozenset(
    {"__import__", "compile", "eval", "exec", "execfile", "getattr", "input", "open", "setattr"}
)


@dataclass(frozen=True, slots=True)
class Name:
    """A class or a function, by name only."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True, repr=False)
class StandIn:
    """An object that a pickle would have made: what it would have been made from, kept as it is."""

    name: str
    """The class or function that would have made it, as `module.name`."""

    arguments: tuple[Any, ...] = ()
    """What it would have been called with."""

    state: Any = None
    """What would have gone to `__setstate__` or `__dict__`."""

    items: list[Any] = field(default_factory=list)
    """What would have been appended to it."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    """Keys and values that would have been set in it."""

    def __repr__(self) -> str:
        # Nothing of its content, which may be large, or hold the object itself.
        return f"<stand-in for {self.name!r}>"


def checked_name(module: Any, name: Any) -> Name:
    """The name that a pickle asks for.

    Raises:
        ValueError: it is none, or one that only a file made to do harm would ask for.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("its pickle names something by what is no text")
    package = module.partition(".")[0]
    if package in HOSTILE_MODULES or (
        package in ("builtins", "__builtin__") and name.partition(".")[0] in HOSTILE_BUILTINS
    ):
        raise ValueError(
            f"it asks to run {shown(module)}.{shown(name)}, as a file made to do harm would; "
            "nothing was run"
        )
    return Name(module, name)
