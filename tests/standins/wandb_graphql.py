"""Just enough GraphQL to answer the W&B client: read a document, pick what it selects out of nested mappings.

It is kinder than the real server in one thing: a field nobody described is null and reported, where the real server
refuses the whole document. So a new client keeps working against this server, and the test that looks at the report
says which field it now asks for.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\])*"|\.\.\.|[{}()\[\]:=!@$|]|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+')
COMMENT = re.compile(r"#[^\n]*")


class DocumentError(Exception):
    """A document that could not be read."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One selected field; `arguments` holds literals and `Variable`s."""

    name: str
    alias: str
    arguments: Mapping[str, Any]
    selection: tuple["Field | Spread", ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A fragment's name, or the fields of an inline fragment."""

    name: str
    selection: tuple["Field | Spread", ...]


@dataclass(frozen=True)
class Variable:
    """A `$name` in an argument."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """The one operation of a request, with its fragments."""

    kind: str
    name: str
    defaults: Mapping[str, Any]
    selection: tuple[Field | Spread, ...]
    fragments: Mapping[str, tuple[Field | Spread, ...]]

    @property
    def label(self) -> str:
        """The operation's name, or its first field for one without a name."""
        return self.name or next((item.name for item in self.selection if isinstance(item, Field)), "")


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(COMMENT.sub("", text))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise DocumentError(f"expected {expected or 'more'} at token {self.at}, got {token or 'the end'!r}")
        self.at += 1
        return token

    def skip(self, token: str) -> bool:
        found = self.peek() == token
        self.at += found
        return found

    def document(self) -> Document:
        kind, name = "", ""
        defaults: dict[str, Any] = {}
        selection: tuple[Field | Spread, ...] = ()
        fragments: dict[str, tuple[Field | Spread, ...]] = {}
        while self.peek():
            if self.skip("fragment"):
                fragment = self.take()
                self.take("on"), self.take()
                fragments[fragment] = self.selection()
                continue
            if kind:
                raise DocumentError("more than one operation")
            kind = "query" if self.peek() == "{" else self.take()
            if kind not in ("query", "mutation"):
                raise DocumentError(f"expected query or mutation, got {kind!r}")
            name = self.take() if self.peek() not in ("(", "{") else ""
            defaults = self.defaults() if self.skip("(") else {}
            selection = self.selection()
        if not kind:
            raise DocumentError("no operation")
        return Document(kind=kind, name=name, defaults=defaults, selection=selection, fragments=fragments)

    def defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        while not self.skip(")"):
            self.take("$")
            name = self.take()
            self.take(":")
            while self.peek() in ("[", "]", "!") or self.peek().isidentifier():
                self.take()
            if self.skip("="):
                defaults[name] = self.value()
        return defaults

    def selection(self) -> tuple[Field | Spread, ...]:
        items: list[Field | Spread] = []
        self.take("{")
        while not self.skip("}"):
            items.append(self.spread() if self.skip("...") else self.field())
        return tuple(items)

    def spread(self) -> Spread:
        if self.skip("on"):
            self.take()
        elif self.peek() != "{":
            return Spread(name=self.take(), selection=())
        return Spread(name="", selection=self.selection())

    def field(self) -> Field:
        alias = name = self.take()
        if self.skip(":"):
            name = self.take()
        arguments = {}
        if self.skip("("):
            while not self.skip(")"):
                key = self.take()
                self.take(":")
                arguments[key] = self.value()
        while self.skip("@"):  # all that is asked for is included
            self.take(), self.take("(")
            while not self.skip(")"):
                self.take()
        selection = self.selection() if self.peek() == "{" else ()
        return Field(name=name, alias=alias, arguments=arguments, selection=selection)

    def value(self) -> Any:
        token = self.take()
        if token == "$":
            return Variable(self.take())
        if token == "[":
            items = []
            while not self.skip("]"):
                items.append(self.value())
            return items
        if token == "{":
            fields = {}
            while not self.skip("}"):
                key = self.take()
                self.take(":")
                fields[key] = self.value()
            return fields
        if token.startswith('"""'):
            return token[3:-3]
        try:
            return json.loads(token)
        except ValueError:
            return token


def parse(text: str) -> Document:
    """Read a document with one operation.

    Raises:
        DocumentError: not a document, or one with several operations.
    """
    return _Reader(text).document()


def execute(
    document: Document, root: Mapping[str, Any], variables: Mapping[str, Any], unknown: Callable[[str], None]
) -> dict[str, Any]:
    """Pick what the document selects out of `root`; a callable is called with the field's arguments.

    `unknown` gets `Operation: path.of.field` for each selected field that is not there.
    """
    values = {**document.defaults, **variables}

    def bound(value: Any) -> Any:
        if isinstance(value, Variable):
            return values.get(value.name)
        if isinstance(value, list):
            return [bound(item) for item in value]
        if isinstance(value, dict):
            return {key: bound(item) for key, item in value.items()}
        return value

    def fields(selection: tuple[Field | Spread, ...]) -> list[Field]:
        found: list[Field] = []
        for item in selection:
            if isinstance(item, Field):
                found.append(item)
            else:
                found.extend(fields(document.fragments.get(item.name, ()) if item.name else item.selection))
        return found

    def pick(value: Any, field: Field, path: str) -> Any:
        if value is None or not field.selection:
            return value
        if isinstance(value, list):
            return [pick(item, field, path) for item in value]
        return select(value, field.selection, path)

    def select(node: Mapping[str, Any], selection: tuple[Field | Spread, ...], path: str) -> dict[str, Any]:
        answer = {}
        for field in fields(selection):
            here = f"{path}.{field.name}" if path else field.name
            if field.name not in node and field.name != "__typename":
                unknown(f"{document.label}: {here}")
            value = node.get(field.name)
            if callable(value):
                value = value({key: bound(argument) for key, argument in field.arguments.items()})
            answer[field.alias] = pick(value, field, here)
        return answer

    return select(root, document.selection, "")
