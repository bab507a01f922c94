"""As much of GraphQL as the W&B client speaks: operations, fragments, aliases, @include, @skip.

What is asked for is read from plain objects: a dict with a `__typename` is an object, a function in
it a field with arguments, a list a list. A field or an argument that is not there is an
`UnknownError`, which the server records: so a new version of the client says what it misses.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

TOKEN = re.compile(r'#.*|(\.\.\.|[{}()\[\]:=!@$]|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|\w+)')
INTERFACES = {"ArtifactCollection": ("ArtifactSequence", "ArtifactPortfolio")}
CONSTANTS = {"true": True, "false": False, "null": None}

Node = dict[str, Any]


def node(typename: str, **fields: Any) -> Node:
    """An object: each field a value, or a function of the field's arguments."""
    return {"__typename": typename, **fields}


def connection(nodes: Iterable[Node | None]) -> Node:
    """A list as GraphQL gives it: in pages, here always one."""
    edges = [node("Edge", node=n, cursor=n["id"]) for n in nodes if n is not None]
    page = node("PageInfo", endCursor=None, hasNextPage=False)
    return node("Connection", totalCount=len(edges), pageInfo=page, edges=edges)


class UnknownError(Exception):
    """A query asks for what this server has not: the message names it."""


class Variable(NamedTuple):
    name: str


class Field(NamedTuple):
    key: str
    name: str
    arguments: dict[str, Any]
    directives: dict[str, dict[str, Any]]
    selections: list["Selection"]


class Spread(NamedTuple):
    """A fragment: by its name, or with a type and selections of its own."""

    fragment: str | None
    on: str | None
    directives: dict[str, dict[str, Any]]
    selections: list["Selection"]


Selection = Field | Spread


class Operation(NamedTuple):
    kind: str
    name: str
    defaults: dict[str, Any]
    selections: list[Selection]


class Fragment(NamedTuple):
    on: str
    selections: list[Selection]


class Parser:
    """Reads one document, token by token."""

    def __init__(self, text: str) -> None:
        self.tokens = list(filter(None, TOKEN.findall(text)))  # a comment is an empty one
        self.fragments: dict[str, Fragment] = {}
        while self.tokens:
            if self.peek() == "fragment":
                self.take("fragment")
                name = self.take()
                self.take("on")
                self.fragments[name] = Fragment(self.take(), self.selections())
            else:
                self.operation = Operation(self.take(), self.take(), *self.body())

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, expected: str | None = None) -> str:
        token = self.tokens.pop(0)
        if expected is not None and token != expected:
            raise ValueError(f"expected {expected} before {' '.join([token, *self.tokens[:9]])}")
        return token

    def found(self, token: str) -> bool:
        """Whether this token comes next; takes it if so."""
        if self.peek() != token:
            return False
        self.take()
        return True

    def body(self) -> tuple[dict[str, Any], list[Selection]]:
        defaults: dict[str, Any] = {}
        if self.found("("):
            while not self.found(")"):
                self.take("$")
                name = self.take()
                self.take(":")
                while self.peek() not in ("$", ")", "="):
                    self.take()  # the type
                if self.found("="):
                    defaults[name] = self.value()
        return defaults, self.selections()

    def selections(self) -> list[Selection]:
        selections: list[Selection] = []
        self.take("{")
        while not self.found("}"):
            selections.append(self.spread() if self.found("...") else self.field())
        return selections

    def spread(self) -> Spread:
        name = None if self.peek() in ("on", "{", "@") else self.take()
        on = self.take() if self.found("on") else None
        directives = self.directives()
        return Spread(name, on, directives, self.selections() if name is None else [])

    def field(self) -> Field:
        key = name = self.take()
        if self.found(":"):
            name = self.take()
        arguments, directives = self.arguments(), self.directives()
        return Field(
            key, name, arguments, directives, self.selections() if self.peek() == "{" else []
        )

    def arguments(self) -> dict[str, Any]:
        return self.pairs(")") if self.found("(") else {}

    def directives(self) -> dict[str, dict[str, Any]]:
        found = {}
        while self.found("@"):
            name = self.take()
            found[name] = self.arguments()
        return found

    def pairs(self, end: str) -> dict[str, Any]:
        pairs = {}
        while not self.found(end):
            name = self.take()
            self.take(":")
            pairs[name] = self.value()
        return pairs

    def value(self) -> Any:
        token = self.take()
        if token == "$":
            return Variable(self.take())
        if token == "{":
            return self.pairs("}")
        if token == "[":
            items = []
            while not self.found("]"):
                items.append(self.value())
            return items
        if token in CONSTANTS:
            return CONSTANTS[token]
        return json.loads(token) if token[0] in '"-0123456789' else token  # a bare word: an enum


def execute(document: Parser, root: Node, variables: Mapping[str, Any]) -> Node:
    """Answer a document's operation: its `data`."""
    given = {**document.operation.defaults, **variables}
    return Execution(document.fragments, given).read(root, document.operation.selections)


class Execution(NamedTuple):
    fragments: dict[str, Fragment]
    variables: dict[str, Any]

    def read(self, value: Any, selections: list[Selection]) -> Any:
        if isinstance(value, list):
            return [self.read(item, selections) for item in value]
        if value is None or not selections:
            return value
        answer: Node = {}
        for field in self.fields(value, selections):
            found = self.read(self.fetch(value, field), field.selections)
            answer[field.key] = merged(answer.get(field.key), found)
        return answer

    def fields(self, value: Node, selections: list[Selection]) -> Iterator[Field]:
        """The fields that are wanted of an object of this type, those in fragments included."""
        for selection in selections:
            if not self.is_included(selection):
                continue
            if isinstance(selection, Field):
                yield selection
                continue
            on, inner = selection.on, selection.selections
            if selection.fragment is not None:
                on, inner = self.fragments[selection.fragment]
            if on is None or value["__typename"] in (on, *INTERFACES.get(on, ())):
                yield from self.fields(value, inner)

    def is_included(self, selection: Selection) -> bool:
        conditions = {name: self.filled(a)["if"] for name, a in selection.directives.items()}
        return conditions.get("include", True) and not conditions.get("skip", False)

    def fetch(self, value: Node, field: Field) -> Any:
        name = f"{value['__typename']}.{field.name}"
        if field.name not in value:
            raise UnknownError(name)
        found = value[field.name]
        if not callable(found):
            return found
        arguments = self.filled(field.arguments)
        try:
            inspect.signature(found).bind(**arguments)
        except TypeError as error:
            raise UnknownError(f"{name}: {error}") from error
        return found(**arguments)

    def filled(self, value: Any) -> Any:
        """The value with its variables; an argument whose variable was not given is left out."""
        if isinstance(value, Variable):
            return self.variables.get(value.name)
        if isinstance(value, dict):
            return {k: self.filled(v) for k, v in value.items() if not self.is_absent(v)}
        return [self.filled(item) for item in value] if isinstance(value, list) else value

    def is_absent(self, value: Any) -> bool:
        return isinstance(value, Variable) and value.name not in self.variables


def merged(first: Any, second: Any) -> Any:
    """One field that was asked for twice, in two fragments say: both answers in one."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return {key: merged(first.get(key), second.get(key, first.get(key))) for key in keys}
    if isinstance(first, list) and isinstance(second, list):
        return [merged(a, b) for a, b in zip(first, second, strict=True)]
    return second
