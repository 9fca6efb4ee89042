"""The hyperparameters that a study varied, as axes of a picture: range, scale, and where a value lies on them.

Read from the sweep file in the study, and from the trials for what the file does not say; never refuses a study.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import SEED
from kaggle_runner.sweep.distributions import EXPONENTS, KEYS, Choice, Range, same_value

"""The hyperparameter in which repeats of one configuration differ: it is noise and never an axis."""
_FEW = 6
"""So many different numbers or fewer, seen in the trials, are a list and not a range."""
_WIDE = 50.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic if the sweep does not say."""
_EDGE = 0.05


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One hyperparameter that differed between trials, or could have."""

    name: str
    values: tuple[Any, ...] = ()
    """The values to choose from, numbers ascending; empty for a range."""
    low: float = 0.0
    """Lower end of a range."""
    high: float = 1.0
    is_log: bool = False
    is_integer: bool = False
    step: float = 0
    """What the values of a range are multiples of; 0 where they need not be."""
    is_bounded: bool = True
    """Whether the sweep itself sets the ends; false where they are only what the trials reached."""

    @property
    def is_range(self) -> bool:
        """Whether the axis is any number between two ends, and not one of a list."""
        return not self.values

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the values means something."""
        return self.is_range or all(is_number(value) for value in self.values)

    def position(self, value: Any) -> float | None:
        """Return where a value lies, from 0 at the low end to 1; none if it is not on the axis at all."""
        if self.values:
            index = next((i for i, known in enumerate(self.values) if same_value(known, value)), None)
            return None if index is None else (index + 0.5) / len(self.values)
        if not is_number(value) or (self.is_log and value <= 0):
            return None
        return min(1.0, max(0.0, (self._scaled(value) - self._scaled(self.low)) / self._width))

    def of(self, params: Mapping[str, Any]) -> float | None:
        """Return where a trial's value lies; none where the trial has none, which is not the value null."""
        return self.position(params[self.name]) if self.name in params else None

    def value(self, position: float) -> Any:
        """Return the value at a position; the inverse of `position`."""
        if self.values:
            return self.values[min(len(self.values) - 1, max(0, int(position * len(self.values))))]
        scaled = self._scaled(self.low) + position * self._width
        return math.exp(scaled) if self.is_log else scaled

    def rounded(self, value: Any) -> Any:
        """Return a place on a range to two digits, and never past its end: it is where a trial happened to be."""
        if self.values or not is_number(value):
            return value
        return round(value) if self.is_integer else min(self.high, max(self.low, float(f"{value:.1e}")))

    def outward(self, value: float, *, up: bool) -> float:
        """Return the nearest value that the steps of a range allow, no lower or no higher than a given one."""
        if not self.step:
            return value
        count = (math.ceil if up else math.floor)(round(value / self.step, 9))
        return count * self.step if isinstance(self.step, int) else float(f"{count * self.step:.12g}")

    @property
    def _width(self) -> float:
        return self._scaled(self.high) - self._scaled(self.low)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.is_log else float(value)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A best value at the end of its range, where better ones may lie just outside."""

    name: str
    value: Any
    side: str
    """`lowest` or `highest`."""
    limit: Any
    """The end of the range as the sweep has it."""
    suggestion: float
    """Where to put that end instead."""


def read_axes(snapshot: Snapshot) -> tuple[Axis, ...]:
    """Return an axis for each hyperparameter that the sweep searches or that differs between the trials.

    The sweep's order first. `seed` is left out, and so is a name that no trial has.
    """
    entries: Mapping[str, Any] = snapshot.info.sweep.get("parameters") or {}
    seen: dict[str, list[Any]] = {}
    for record in snapshot.records:
        for name, value in record.trial.params.items():
            seen.setdefault(name, []).append(value)
    axes = []
    for name in [*(name for name in entries if name in seen), *(name for name in seen if name not in entries)]:
        entry, axis = entries.get(name), None
        if name != SEED and not _is_tied(entry, seen[name]):
            axis = _from_sweep(name, entry, seen[name]) or _from_values(name, seen[name])
        if axis is not None:
            axes.append(axis)
    return tuple(axes)


def boundary(axis: Axis, value: Any) -> Boundary | None:
    """Say that a best value lies at an end of its range that the sweep could move; none if it does not.

    A range ends within 5 % of its length, a list at its first or last of three or more numbers. Zero is a natural end,
    and one of whole numbers.
    """
    position = axis.position(value)
    if position is None or not axis.is_ordered or not axis.is_bounded:
        return None
    if axis.is_range:
        low, high, at_low, at_high = axis.low, axis.high, position <= _EDGE, position >= 1 - _EDGE
    else:
        low, high = axis.values[0], axis.values[-1]
        at_low, at_high = (len(axis.values) > 2 and same_value(value, end) for end in (low, high))
    whole = axis.is_integer or (not axis.is_range and all(isinstance(value, int) for value in axis.values))
    natural_low = low <= 0 or (whole and low <= 1)
    if not (at_high or (at_low and not natural_low)):
        return None
    side, limit = ("highest", high) if at_high else ("lowest", low)
    if axis.is_log or (not axis.is_range and low > 0):
        factor = 3.0 if axis.is_range else 2.0
        suggestion = limit * factor if at_high else limit / factor
    else:
        suggestion = limit + (high - low) / 2 if at_high else max(0.0, limit - (high - low) / 2)
    if at_high and limit < 1 <= suggestion:  # of a share, as dropout and a moment's decay are, 1 is the end
        suggestion = (1 + limit) / 2
    if whole:
        suggestion = max(1, round(suggestion))
    suggestion = max(axis.outward(suggestion, up=at_high), axis.step if axis.is_log else -math.inf)
    if same_value(suggestion, limit):
        return None
    return Boundary(name=axis.name, value=value, side=side, limit=limit, suggestion=suggestion)


def has_exponents(entry: Mapping[str, Any]) -> bool:
    """Say whether the ends of a sweep file's entry are exponents of e, and not values."""
    return entry.get("distribution") in EXPONENTS


def is_number(value: Any) -> bool:
    """Say whether a value is a finite number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_tied(entry: Any, seen: Sequence[Any]) -> bool:
    """Say whether the sweep computes a value from others: it is no axis of its own."""
    return isinstance(entry, Mapping) and isinstance(entry.get("value"), str) and all(map(is_number, seen))


def _from_sweep(name: str, entry: Any, seen: Sequence[Any]) -> Axis | None:
    """Read an axis off a sweep file's entry; none if the entry fixes the value or cannot be read."""
    if not isinstance(entry, Mapping):
        return None
    values = entry.get("values")
    if isinstance(values, list | tuple):
        strange = [value for value in seen if not Choice(values=tuple(values)).contains(value)]
        distinct = Choice(values=(*values, *strange)).distinct
        return Axis(name=name, values=_sorted(distinct)) if len(distinct) > 1 else None
    with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError):
        spread = _range(entry)
        if spread is not None and spread.is_bounded and spread.lowest < spread.highest:
            return Axis(name=name, low=spread.lowest, high=spread.highest, is_integer=spread.is_integer,
                        step=spread.q if spread.is_quantised else 0,
                        is_log=spread.is_logarithmic and spread.lowest > 0)
    return None


def _range(entry: Mapping[str, Any]) -> Range | None:
    name = entry.get("distribution")
    if name is None and "min" in entry and "max" in entry:
        whole = all(isinstance(entry[key], int) for key in ("min", "max"))
        name = "int_uniform" if whole else "uniform"
    if name not in KEYS or "value" in entry:
        return None
    keys = {"min": "low", "max": "high"}
    return Range(distribution=name, **{keys.get(key, key): entry[key] for key in KEYS[name] if key in entry})


def _from_values(name: str, seen: Iterable[Any]) -> Axis | None:
    """Make an axis of what the trials have; none if they all have the same."""
    distinct = Choice(values=tuple(seen)).distinct
    if len(distinct) < 2:
        return None
    numbers = [value for value in distinct if is_number(value)]
    if len(numbers) < len(distinct) or len(distinct) <= _FEW:
        return Axis(name=name, values=_sorted(distinct), is_bounded=False)
    low, high = min(numbers), max(numbers)
    return Axis(name=name, low=low, high=high, is_log=low > 0 and high / low >= _WIDE, is_bounded=False,
                is_integer=all(isinstance(value, int) for value in numbers))


def _sorted(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values)) if all(is_number(value) for value in values) else tuple(values)
