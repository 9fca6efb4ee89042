"""The space of a sweep as axes: where a value lies, which value lies at a place, and when two points are the same."""

import bisect
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.sweep.aliases import WRITE
from kaggle_runner.sweep.distributions import Choice, Range, same_value, token
from kaggle_runner.sweep.spec import SweepSpec

ORDINAL_LEVELS = 100
"""Most values that are searched one by one; more are searched as a continuous axis."""
FEW_LEVELS = 8
"""Most rounded values of a logarithmic range that are: with more, their steps are no equal ones to a loss."""
SAME_SHARE = 0.005
"""Points nearer than this share of the range on every continuous axis, with equal levels, count as the same."""
LEVELS_FOR_A_WELL = 4
"""Values of a learning rate from which their middle is expected to be better than both ends."""
MOST_STOPS = 2_000
"""Most values of a rounded range that are known one by one, so that a search does not propose one twice."""
FURTHEST = 4.0
"""Ranges beyond an end where everything further out lies: it tells as little of what is inside."""
_MARGIN = 1e-3
WITHOUT_MEMORY = frozenset((
    "learning_rate", "weight_decay", "lora_alpha", "warmup_ratio", "lr_scheduler_type", "min_lr_rate", "adam_beta2",
    "max_grad_norm", "gradient_accumulation_steps", "early_stopping_patience", "seed"))
"""Hyperparameters that memory does not depend on. Source: `shape_of_trial` of memory/predict.py has none of them."""
SWITCHES = frozenset(("lora_dropout", "dropout", "label_smoothing_factor"))
"""Hyperparameters of which memory knows only whether they are above 0."""
GROWING = frozenset(("batch_size", "max_length", "eval_max_length", "lora_r", "hidden_size", "num_hidden_layers"))
"""Hyperparameters of which more never needs less memory."""
_RATES = {"learning_rate", *WRITE["learning_rate"].split()}


@dataclass(frozen=True, kw_only=True)
class SearchAxis:
    """One parameter as a search sees it: the number of a level, or a place in the unit interval."""

    name: str
    parameter: Choice | Range
    levels: tuple[Any, ...] = ()
    """The values by number, in their order if they have one; empty for a continuous parameter."""
    is_ordered: bool = True
    """Neighbours are alike; false for a list of things that are not numbers."""
    margin: float = 0.0
    """How far a search keeps from both ends of the unit interval."""

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, and not words or yes and no."""
        return isinstance(self.parameter, Range) or self.parameter.is_numeric

    @classmethod
    def of(cls, name: str, parameter: Choice | Range) -> "SearchAxis":
        """Choose how a parameter is best searched."""
        if isinstance(parameter, Choice):
            levels = possible(parameter)
            if parameter.is_numeric:
                return cls(name=name, parameter=parameter, levels=tuple(sorted(levels)))
            return cls(name=name, parameter=parameter, levels=levels, is_ordered=len(levels) <= 2)
        count = parameter.count
        most = ORDINAL_LEVELS if parameter.distribution in ("int_uniform", "q_uniform", "q_beta") else FEW_LEVELS
        if count is not None and count <= most:
            first = round(parameter.lowest / parameter.q)
            levels = (tuple(range(int(parameter.low), int(parameter.low) + count))
                      if parameter.distribution == "int_uniform"
                      else tuple((first + i) * parameter.q for i in range(count)))
            return cls(name=name, parameter=parameter, levels=levels)
        # The ends of an unbounded distribution are eight standard deviations out, and a search loves corners.
        return cls(name=name, parameter=parameter, margin=0.0 if parameter.is_bounded else _MARGIN)

    @functools.cached_property
    def _numbers(self) -> dict[Any, int]:
        return {token(level): number for number, level in enumerate(self.levels)}

    @functools.cached_property
    def stops(self) -> tuple[float, ...]:
        """The places of all values of a range that is rounded to steps, where it has no levels and not too many."""
        count = self.parameter.count
        if self.levels or isinstance(self.parameter, Choice) or count is None or count > MOST_STOPS:
            return ()
        first, step = round(self.parameter.lowest / self.parameter.q), self.parameter.q
        return tuple(self.place((first + number) * step) for number in range(count))

    @property
    def is_rate(self) -> bool:
        """A learning rate, under this or another trainer's name, with enough values to have a middle."""
        words = re.sub(r"[^a-z]+", "_", self.name.lower())
        named = words in _RATES or bool(re.search(r"(^|_)(lr|learning_rate)(_(init|max|peak))?$", words))
        return named and self.is_ordered and (not self.levels or len(self.levels) >= LEVELS_FOR_A_WELL)

    def place(self, value: Any) -> float:
        """Return where a value lies on the axis.

        Raises:
            ValueError: not a value of this parameter.
        """
        if self.levels:
            number = self._numbers.get(token(value))
            if number is None:
                raise ValueError(f"{value!r} is not one of {list(self.levels)}")
            return number
        assert isinstance(self.parameter, Range)
        return max(self.margin, min(self.parameter.to_unit(value), 1.0 - self.margin))

    def place_anywhere(self, value: Any) -> float:
        """Return where a value lies that need not be one of this parameter: numbers lie between levels, and beyond."""
        if self.parameter.contains(value) and (not self.levels or token(value) in self._numbers):
            return self.place(value)
        if not self.levels:
            assert isinstance(self.parameter, Range)
            return max(-FURTHEST, min(self.parameter.place(value), 1.0 + FURTHEST))
        last = len(self.levels) - 1
        return max(-FURTHEST * last, min(_between(self.levels, value), (1.0 + FURTHEST) * last))

    def value(self, place: float) -> Any:
        """Return the value at a place of the axis."""
        return self.levels[int(place)] if self.levels else self.parameter.from_unit(place)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The parameters that differ between trials, as axes; those with a single value are left out."""

    fixed: Mapping[str, Any]
    names: tuple[str, ...]
    """Every parameter, in the order of the file."""
    axes: Mapping[str, SearchAxis]
    deciding: frozenset[str] = frozenset()
    """The parameters that decide whether a trial fits into memory."""
    growing: frozenset[str] = frozenset()
    """Those of them of which more needs more."""

    @classmethod
    def of(cls, spec: SweepSpec) -> "SearchSpace":
        """Lay out the space of a sweep."""
        axes = {name: SearchAxis.of(name, parameter) for name, parameter in spec.searched.items()}
        single = {name: axis.value(0) for name, axis in axes.items() if len(axis.levels) == 1}
        deciding = {name for name in (*spec.parameters, *spec.tied) if name not in WITHOUT_MEMORY}
        for name, tied in reversed(list(spec.tied.items())):  # each comes after those it is made of
            deciding |= set(tied.names) if name in deciding else set()
        used = {inner for name, tied in spec.tied.items() if name in deciding for inner in tied.names}
        return cls(fixed={**spec.fixed, **single}, names=tuple(spec.parameters), deciding=frozenset(deciding),
                   growing=GROWING - used,
                   axes={name: axis for name, axis in axes.items() if name not in single})

    @property
    def count(self) -> int | None:
        """Number of points; none where an axis is continuous."""
        count = 1
        for axis in self.axes.values():
            if not axis.levels and not axis.stops:
                return None
            count *= len(axis.levels) or len(axis.stops)
        return count

    def every_point(self) -> Iterator[tuple[float, ...]]:
        """List the places of all points of a countable space."""
        return itertools.product(*(axis.stops or tuple(map(float, range(len(axis.levels))))
                                   for axis in self.axes.values()))

    def places(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return where parameters lie in the space."""
        return {name: axis.place(params[name]) for name, axis in self.axes.items()}

    def places_anywhere(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return where parameters lie that need not be in the space."""
        return tuple(axis.place_anywhere(params[name]) for name, axis in self.axes.items())

    def params(self, places: Mapping[str, float]) -> dict[str, Any]:
        """Return all the parameters of a point, fixed ones included."""
        return self.in_order({**self.fixed, **{name: axis.value(places[name]) for name, axis in self.axes.items()}})

    def in_order(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters in the order of the file."""
        return {name: values[name] for name in self.names}

    def key(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return what makes a point the same as another one."""
        return tuple(self.places(params).values())

    def is_near(self, left: tuple[float, ...], right: tuple[float, ...]) -> bool:
        """Say whether two points differ by less than what could matter."""
        return all(abs(a - b) < (0.5 if axis.levels else SAME_SHARE)
                   for axis, a, b in zip(self.axes.values(), left, right, strict=True))


def near(parameter: Choice | Range, value: Any) -> Any:
    """Return the value of the parameter that is nearest to a wanted one; its first or middle one if none is near."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(parameter, Choice):
        values = possible(parameter)
        if is_number and parameter.is_numeric:
            return min(values, key=lambda choice: abs(choice - value))
        return next((choice for choice in values if same_value(choice, value)), values[0])
    if not is_number:
        return parameter.from_unit(0.5)
    if parameter.contains(value):
        return value
    inside = max(parameter.lowest, min(value, parameter.highest))
    return inside if parameter.contains(inside) else parameter.from_unit(parameter.to_unit(inside))


def lies_on(parameter: Choice | Range, value: Any) -> bool:
    """Say whether a value has a place on the scale of a parameter, within its range or not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (isinstance(parameter, Range) or (parameter.is_numeric and len(possible(parameter)) > 1))


def _between(levels: Sequence[float], value: float) -> float:
    """Return where a number lies among ascending levels, on the scale on which these lie more evenly."""
    scale: Callable[[float], float] = float
    if min(*levels, value) > 0:
        ratios, gaps = ([b / a for a, b in itertools.pairwise(levels)], [b - a for a, b in itertools.pairwise(levels)])
        scale = math.log if max(ratios) / min(ratios) < max(gaps) / min(gaps) else float
    marks, wanted = [scale(level) for level in levels], scale(value)
    step = (marks[-1] - marks[0]) / (len(marks) - 1)
    if wanted <= marks[0]:
        return (wanted - marks[0]) / step
    if wanted >= marks[-1]:
        return len(marks) - 1 + (wanted - marks[-1]) / step
    above = bisect.bisect_right(marks, wanted)
    return above - (marks[above] - wanted) / (marks[above] - marks[above - 1])


def possible(choice: Choice) -> tuple[Any, ...]:
    """List the different values that have a chance."""
    chances = choice.probabilities or (1.0,) * len(choice.values)
    return tuple(value for index, (value, chance) in enumerate(zip(choice.values, chances, strict=True))
                 if chance > 0 and choice.index(value) == index)
