"""What stands in for the classes, functions and objects that a pickle names: data, never code."""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def shown(name: object) -> str:
    """A name out of a file, safe to print: short, and without control characters."""
    text = str(name)
    return text.encode("unicode_escape").decode() if len(text) <= 80 else shown(text[:77] + "...")


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


MAX_OPERATIONS = 1_000_000
"""An empty dict is one byte in a pickle and eighty in memory. The f16-16384 model with its
discriminator, LPIPS and optimizer takes fewer than 100,000 operations."""

MAX_KEY = 2**63
"""Larger integers can be chosen such that a dict of them takes hours to fill."""

MAX_KEY_LENGTH = 1000
"""Of text, bytes and tuples, which take time to compare."""

ORDERED_DICT = Name("collections", "OrderedDict")

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
_BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS = _NUMBERS | _BYTES | _TEXTS


def unpickle(file: io.BytesIO, load_persistent: Callable[[Any], Any]) -> Any:
    """Read one pickle, from where `file` stands to just behind its end.

    Args:
        file: the bytes.
        load_persistent: makes a value of each persistent id, which is how torch refers to storages.

    Raises:
        ValueError: the pickle is damaged, too large, or asks for what no checkpoint needs.
    """
    machine = _Machine(load_persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MAX_OPERATIONS:
            raise ValueError(f"its pickle has more than {MAX_OPERATIONS} operations")
        try:
            machine.execute(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"its pickle is damaged at {opcode.name}") from error
    if not machine.stack:
        raise ValueError("its pickle ends without a value")
    return machine.stack.pop()


class _Machine:
    """A stack, the stacks below its marks, and a memo."""

    def __init__(self, load_persistent: Callable[[Any], Any]) -> None:
        self.load_persistent = load_persistent
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def execute(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _OPERATIONS:
            _OPERATIONS[opcode](self, argument)
        else:  # EXT1, PERSID, BYTEARRAY8, LONG4, ...
            raise ValueError(f"its pickle uses {opcode}, which no checkpoint needs")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below_marks.pop()
        return values

    def mark(self, _: Any) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def discard_to_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError(length)
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def push_name(self, module_and_name: str) -> None:
        self.push(checked_name(*module_and_name.split(" ", 1)))

    def push_name_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(checked_name(module, name))

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(_made_by(function, arguments))

    def call_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(_)

    def call_to_mark(self, _: Any) -> None:
        function, *arguments = self.pop_to_mark() or [None]
        self.push(_made_by(function, tuple(arguments)))

    def call_name(self, module_and_name: str) -> None:
        arguments = self.pop_to_mark()
        self.push_name(module_and_name)
        self.push(_made_by(self.stack.pop(), tuple(arguments)))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes are torch's `_metadata`
            raise ValueError(f"its pickle sets the state of a {type(target).__name__}")

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(_checked_key, values))
        elif isinstance(target, (list, StandIn)):
            (target.items if isinstance(target, StandIn) else target).extend(values)
        else:
            raise ValueError(f"its pickle appends to a {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        pairs = [(_checked_key(k), v) for k, v in zip(values[::2], values[1::2], strict=True)]
        if isinstance(target, StandIn):
            target.pairs.extend(pairs)
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def push_dict(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.push({})
        self.set_items(values)


def _made_by(function: Any, arguments: Any) -> Any:
    if not isinstance(function, (Name, StandIn)) or not isinstance(arguments, tuple):
        raise ValueError(f"its pickle calls a {type(function).__name__}")
    if function == ORDERED_DICT and not arguments:
        return {}
    return StandIn(function.name if isinstance(function, StandIn) else str(function), arguments)


def _checked_key(key: Any) -> Any:
    """Let through what hashes fast: a tuple within a million tuples overflows the C stack."""
    parts = key if isinstance(key, tuple) else (key,)
    for part in (parts, *parts[:MAX_KEY_LENGTH]):
        if isinstance(part, int) and abs(part) >= MAX_KEY:
            raise ValueError("its pickle uses a huge number as a key")
        if isinstance(part, (str, bytes, tuple)) and len(part) > MAX_KEY_LENGTH:
            raise ValueError("its pickle uses a huge key")
    for part in parts:
        if not isinstance(part, (str, bytes, int, float, Name, StandIn, type(None))):
            raise ValueError(f"its pickle uses a {type(part).__name__} as a key")
    return key


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.discard_to_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(
        ["GET", "BINGET", "LONG_BINGET"], lambda machine, index: machine.push(machine.memo[index])
    ),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "DICT": _Machine.push_dict,
    "FROZENSET": lambda machine, _: machine.push(
        frozenset(map(_checked_key, machine.pop_to_mark()))
    ),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    **dict.fromkeys(
        ["APPENDS", "ADDITEMS"], lambda machine, _: machine.extend(machine.pop_to_mark())
    ),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_name_on_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_to_mark,
    "INST": _Machine.call_name,
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine, _: machine.push(machine.load_persistent(machine.stack.pop())),
}
