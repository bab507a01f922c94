"""Interpret pickles as data: classes, functions and objects become stand-ins; no code is run."""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def printable_text(value: object) -> str:
    """Return text from a file in a form safe to print: at most 80 characters, none of control."""
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


@dataclass(frozen=True, slots=True)
class Name:
    """Name of a class or function in a pickle."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True, repr=False)
class StandIn:
    """Record of an object that a pickle would build, with all that the pickle would pass to it."""

    name: str
    """Class or function that would be called, as `module.name`."""

    arguments: tuple[Any, ...] = ()
    """Arguments of the call."""

    state: Any = None
    """Argument of `__setstate__`, or content of `__dict__`."""

    items: list[Any] = field(default_factory=list)
    """Values that would be appended."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    """Pairs (key, value) that would be set as items."""

    def __repr__(self) -> str:
        # The content is left out: it may be large, or contain this object.
        return f"<stand-in for {self.name!r}>"


def checked_name(module: Any, name: Any) -> Name:
    """Check the name of a class or function that a pickle refers to.

    Raises:
        ValueError: module or name is not text, or the name belongs to code that can do harm.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("its pickle refers to a class or function by something other than text")
    package = module.partition(".")[0]
    if package in HOSTILE_MODULES or (
        package in ("builtins", "__builtin__") and name.partition(".")[0] in HOSTILE_BUILTINS
    ):
        raise ValueError(
            f"it asks to run {printable_text(module)}.{printable_text(name)}, which only a hostile "
            "file does; nothing was run"
        )
    return Name(module, name)


MAX_OPERATIONS = 1_000_000
"""Maximum number of opcodes, because an empty dict takes one byte in a pickle but eighty in memory.
The f16-16384 model with discriminator, LPIPS and optimizer takes fewer than 100,000."""

MAX_KEY = 2**63
"""Limit of integer keys. Larger ones can be chosen so that their hashes collide, and a dict of them
takes hours to fill."""

MAX_KEY_LENGTH = 1000
"""Maximum length of text, bytes and tuples as keys, because comparing them takes time."""

ORDERED_DICT = Name("collections", "OrderedDict")

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
_BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS = _NUMBERS | _BYTES | _TEXTS


def unpickle(file: io.BytesIO, load_persistent: Callable[[Any], Any]) -> Any:
    """Read one pickle from the current position of `file`, and leave `file` just after it.

    Args:
        file: the file's bytes.
        load_persistent: function from a persistent id, by which torch refers to a storage, to a
            value.

    Raises:
        ValueError: the pickle is damaged, too large, or uses operations that no checkpoint needs.
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
    """State of a pickle's interpreter: a stack, the stacks below its marks, and a memo."""

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
        self.push(_call(function, arguments))

    def call_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(_)

    def call_to_mark(self, _: Any) -> None:
        function, *arguments = self.pop_to_mark() or [None]
        self.push(_call(function, tuple(arguments)))

    def call_name(self, module_and_name: str) -> None:
        arguments = self.pop_to_mark()
        self.push_name(module_and_name)
        self.push(_call(self.stack.pop(), tuple(arguments)))

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


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, (Name, StandIn)) or not isinstance(arguments, tuple):
        raise ValueError(f"its pickle calls a {type(function).__name__}")
    if function == ORDERED_DICT and not arguments:
        return {}
    return StandIn(function.name if isinstance(function, StandIn) else str(function), arguments)


def _checked_key(key: Any) -> Any:
    """Return a key that hashes fast; a tuple nested a million times overflows the C stack."""
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
