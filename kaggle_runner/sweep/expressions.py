"""Tied parameters: `lora_alpha: {value: "2 * lora_r"}`, a value that follows from other parameters of the file.

Numbers, names, + - * / and parentheses, min and max: read by a parser of its own, never run as Python, so a file from
anywhere is as harmless as its numbers.
"""

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"\s*(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[-+*/(),])")
_SIGNS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max}
_DEEPEST, _LONGEST = 50, 200
"""Parentheses within each other, and parts in all; no rule of a sweep needs more, and a parser calls itself."""

Span = tuple[float, float]
"""The least and the largest value."""


class BadExpression(ValueError):
    """A text that is no expression, or one that has no value."""


@dataclass(frozen=True)
class _Node:
    """A number, a name, or a sign or function with what it is applied to."""

    head: str
    parts: "tuple[_Node, ...]" = ()
    number: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tied:
    """A parameter that follows from others."""

    text: str
    tree: _Node
    is_whole: bool
    """The field takes whole numbers only: the value is rounded to the nearest one."""

    @classmethod
    def read(cls, text: str, *, is_whole: bool) -> "Tied":
        """Read an expression.

        Raises:
            BadExpression: says what is not understood.
        """
        return cls(text=text, tree=_Parser(text).whole(), is_whole=is_whole)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters it is made of, each once."""
        return tuple(dict.fromkeys(_names(self.tree)))

    @property
    def paths(self) -> tuple[str, ...]:
        """The names that say inside of what they lie, as they were written."""
        return tuple(part for part in _tokens(self.text) if "." in part and not part[0].isdigit() and part[0] != ".")

    def value(self, params: Mapping[str, Any]) -> int | float:
        """Return the value that follows from the others.

        Raises:
            BadExpression: a division by zero, a name without a number, or more than a number can hold.
        """
        found = _value(self.tree, params)
        if not math.isfinite(found):
            raise BadExpression(f"{self.text!r} gives {found}")
        return round(found) if self.is_whole else found

    def span(self, spans: Mapping[str, Span]) -> Span:
        """Return ends between which the value lies while each name lies between its own; never too narrow.

        Raises:
            BadExpression: something is divided by what can be zero, or the value can grow past any number.
        """
        low, high = _span(self.tree, spans)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadExpression("its value can be too large for a number")
        return (float(round(low)), float(round(high))) if self.is_whole else (low, high)


def in_order(tied: Mapping[str, Tied]) -> tuple[str, ...]:
    """Return the names so that each comes after those it is made of.

    Raises:
        BadExpression: some are made of each other; names the circle.
    """
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name):], name))
            raise BadExpression(f"goes in a circle, {circle}")
        if name in tied and name not in ordered:
            for inner in tied[name].names:
                visit(inner, (*path, name))
            ordered.append(name)

    for name in tied:
        visit(name, ())
    return tuple(ordered)


class _Parser:
    """Reads sums of products of factors, from left to right."""

    def __init__(self, text: str) -> None:
        self._tokens, self._at, self._depth = list(_tokens(text)), 0, 0
        if len(self._tokens) > _LONGEST:
            raise BadExpression(f"it has more than {_LONGEST} parts")

    def whole(self) -> _Node:
        """Read the whole text as one expression."""
        node = self._sum()
        if self._next:
            raise BadExpression(f"{self._next!r} is not expected there")
        return node

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        token = self._next
        if token and token in wanted:
            self._at += 1
            return token
        return ""

    def _sum(self) -> _Node:
        node = self._product()
        while sign := self._take("+", "-"):
            node = _Node(sign, (node, self._product()))
        return node

    def _product(self) -> _Node:
        node = self._factor()
        while sign := self._take("*", "/"):
            node = _Node(sign, (node, self._factor()))
        return node

    def _factor(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadExpression(f"it is nested more than {_DEEPEST} deep")
        try:
            return self._read_factor()
        finally:
            self._depth -= 1

    def _read_factor(self) -> _Node:
        if self._take("-"):
            return _Node("-", (_Node("number"), self._factor()))
        if self._take("+"):
            return self._factor()
        if self._take("("):
            node = self._sum()
            self._close()
            return node
        token = self._next
        if not token or token in "+*/),":
            raise BadExpression(f"a number or a name is missing {f'before {token!r}' if token else 'at its end'}")
        self._at += 1
        if token[0].isdigit() or token[0] == ".":
            return _Node("number", number=float(token))
        if self._next != "(":
            return _Node("name:" + token.rpartition(".")[2])  # one inside another goes by its last name
        if token not in _CALLS:
            raise BadExpression(f"{token}(...) is not known, only min and max are")
        self._take("(")
        parts = [self._sum()]
        while self._take(","):
            parts.append(self._sum())
        self._close()
        return _Node(token, tuple(parts))

    def _close(self) -> None:
        if not self._take(")"):
            raise BadExpression("a parenthesis is not closed")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadExpression(f"{text[at:].strip()[0]!r} means nothing here; names, numbers, + - * /, min and max do")
        yield found.group(0).strip()
        at = found.end()


def _names(node: _Node) -> Iterator[str]:
    if node.head.startswith("name:"):
        yield node.head.removeprefix("name:")
    for part in node.parts:
        yield from _names(part)


def _value(node: _Node, params: Mapping[str, Any]) -> float:
    if node.head == "number":
        return node.number
    if node.head.startswith("name:"):
        name = node.head.removeprefix("name:")
        value = params.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadExpression(f"{name} is no number, but {value!r}")
        return value
    parts = [_value(part, params) for part in node.parts]
    if node.head in _CALLS:
        return _CALLS[node.head](*parts) if len(parts) > 1 else parts[0]
    try:
        return _SIGNS[node.head](*parts)
    except (ZeroDivisionError, OverflowError):
        raise BadExpression(f"{parts[0]:g} {node.head} {parts[1]:g} has no value") from None


def _span(node: _Node, spans: Mapping[str, Span]) -> Span:
    if node.head == "number":
        return node.number, node.number
    if node.head.startswith("name:"):
        return spans[node.head.removeprefix("name:")]
    parts = [_span(part, spans) for part in node.parts]
    if node.head in _CALLS:
        lows, highs = zip(*parts, strict=True)
        call = _CALLS[node.head]
        return (call(*lows), call(*highs)) if len(parts) > 1 else parts[0]
    (_, _), (low, high) = parts
    if node.head == "/" and low <= 0 <= high:
        raise BadExpression(f"it divides by zero: what it divides by {'is 0' if low == high else 'can be 0'}")
    ends = [_SIGNS[node.head](a, b) for a, b in itertools.product(*parts)]
    return min(ends), max(ends)
