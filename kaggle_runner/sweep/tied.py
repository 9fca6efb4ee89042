"""Read the tied parameters of a sweep file, and say of each what cannot work before any trial does."""

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from kaggle_runner.config_fields import field_types, has_type
from kaggle_runner.sweep.distributions import Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.expressions import BadExpression, Span, Tied, in_order
from kaggle_runner.sweep.problems import NUMBER, Findings, spelled, suggestion
from kaggle_runner.sweep.scoring import HELD, MEASURES

_SCORED = "it decides which held-out tokens are scored"
_WHY = {"seed": "it is chance and no setting"}
MOST_TRIED = 2_000
"""Points that an expression is tried at, where its ends alone cannot say whether it divides by zero."""
_RARE = 1e-9
"""Share of the draws of an unbounded distribution on each side that a tied value need not have."""


def is_expression(entry: Any, field: Any, names: Iterable[str]) -> bool:
    """Say whether an entry fixes a field of numbers to a text that is made of other parameters."""
    text = entry.get("value") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or NUMBER.fullmatch(text) or has_type(text, field) or not has_type(1, field):
        return False
    words, names = re.findall(r"[A-Za-z_]\w*", text), list(names)
    meant = len(words) == 1 and words[0] == text and difflib.get_close_matches(text, names, 1, 0.8)
    return bool(set(words) & set(names) or meant or re.search(r"[*/+(),]|\w\s*-\s*\w", text))


def read_tied(found: Findings, texts: Mapping[str, str], parameters: Mapping[str, Parameter],
              config_type: Any) -> dict[str, Tied]:
    """Return the tied parameters in an order in which each can be computed; add a problem for each that cannot be."""
    fields, tied, before = field_types(config_type), {}, len(found.problems)
    for name, text in texts.items():
        if name in (*HELD, *MEASURES, "seed"):
            found.problem(f"parameters.{name}.value", f"cannot follow from others, {_WHY.get(name, _SCORED)}; give it "
                                                      f"a value of its own")
            continue
        try:
            tied[name] = Tied.read(text, is_whole=not has_type(0.5, fields[name]))
        except BadExpression as error:
            found.problem(f"parameters.{name}.value", f"{spelled(text)} is no expression: {error}")
    if len(found.problems) > before:
        return {}
    known = {*parameters, *tied}
    for name, one in tied.items():
        for inner in one.names:
            if inner not in known:
                way_out = (f"write {inner}: value: ... beside it" if inner in fields
                           else suggestion(inner, sorted(known - {name})))
                found.problem(f"parameters.{name}.value", f"{spelled(one.text)} names {inner}, which is no parameter "
                                                          f"of this file; {way_out}")
    if len(found.problems) > before:
        return {}
    try:
        order = in_order(tied)
    except BadExpression as error:
        found.problem("parameters", f"a tied value {error}; give one of them a value, values, or min and max")
        return {}
    spans: dict[str, Span] = {}
    for name in order:
        used = {inner: span for inner in tied[name].names
                if (span := spans.get(inner) or _span(parameters[inner])) is not None}
        missing = [inner for inner in tied[name].names if inner not in used]
        if missing:
            found.problem(f"parameters.{name}.value", f"{spelled(tied[name].text)} names {missing[0]}, which is not "
                                                      f"always a number; an expression is made of numbers")
            return {}
        try:
            spans[name] = tied[name].span(used)
        except BadExpression as error:
            listed = _span_of_values(name, tied, parameters)
            if listed is not None:
                spans[name] = listed
                continue
            found.problem(f"parameters.{name}.value", f"{spelled(tied[name].text)} cannot be used: {error}; "
                                                      f"{_spelled_spans(used)}")
            return {}
    return {name: tied[name] for name in order}


def with_tied(tied: Mapping[str, Tied], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the tied ones computed, in place of whatever stood for them.

    Raises:
        BadExpression: a parameter that is needed is missing or no number.
    """
    full = {name: value for name, value in params.items() if name not in tied}
    for name, one in tied.items():
        full[name] = one.value(full)
    return full


def _span(parameter: Parameter) -> Span | None:
    """Return the ends of what a parameter can be; none if it can be something that is no number."""
    match parameter:
        case Fixed(value=value):
            values: tuple[Any, ...] = (value,)
        case Choice(values=values):
            pass
        case Range():
            values = ((parameter.lowest, parameter.highest) if parameter.is_bounded
                      else (parameter.from_unit(_RARE), parameter.from_unit(1 - _RARE)))
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return float(min(values)), float(max(values))


def _span_of_values(name: str, tied: Mapping[str, Tied], parameters: Mapping[str, Parameter]) -> Span | None:
    """Return the ends of a tied value by all values of what it is made of; none if one fails, or they are many."""
    needed, made_of = [name], []
    for inner in needed:
        needed += [other for other in tied[inner].names if other in tied and other not in needed]
        made_of += [other for other in tied[inner].names if other not in tied and other not in made_of]
    lists = [values for other in made_of if (values := _values(parameters[other]))]
    if len(lists) < len(made_of) or math.prod(map(len, lists)) > MOST_TRIED:
        return None
    own = {other: one for other, one in tied.items() if other in needed}
    try:
        found = [float(with_tied({other: own[other] for other in in_order(own)}, dict(
            zip(made_of, point, strict=True)))[name]) for point in itertools.product(*lists)]
    except BadExpression:
        return None
    return min(found), max(found)


def _values(parameter: Parameter) -> tuple[Any, ...]:
    if isinstance(parameter, Fixed):
        return (parameter.value,)
    if isinstance(parameter, Choice):
        return parameter.values
    count = parameter.count if parameter.distribution == "int_uniform" else None
    return () if count is None or count > MOST_TRIED else tuple(range(int(parameter.low), int(parameter.high) + 1))


def _spelled_spans(spans: Mapping[str, Span]) -> str:
    return ", ".join(f"{name} is {low:g}" if low == high else f"{name} runs from {low:g} to {high:g}"
                     for name, (low, high) in spans.items()) or "it names no parameter"
