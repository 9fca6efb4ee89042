"""Whether the values of a sweep fit the trainer: the config's own checks decide, so they are written once."""

import contextlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config_fields import describe_type, field_types, has_type
from kaggle_runner.errors import ConfigError
from kaggle_runner.sweep.distributions import KEYS, Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.expressions import Tied
from kaggle_runner.sweep.problems import Findings, spelled
from kaggle_runner.sweep.tied import with_tied

RARE = 0.001
"""Share of the draws of an unbounded distribution on each side that need not be a possible value."""


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One hyperparameter on trial: the config's own checks decide over its values."""

    config_type: Any
    name: str
    others: Mapping[str, Any]
    """One value of every hyperparameter in the file, a possible one where there is one."""
    unread: frozenset[str] = frozenset()
    """Names of the file that have no plain value: what clashes with these is tried, or told, by itself."""

    def takes(self, value: Any) -> bool:
        """Say whether the field's type takes a value like this one."""
        return has_type(value, field_types(self.config_type)[self.name])

    @property
    def wanted(self) -> str:
        """The field's type in words."""
        return describe_type(field_types(self.config_type)[self.name])

    def complaint(self, value: Any) -> str | None:
        """Return what the config says about one value, none if nothing.

        A clash with another field counts with the file's own value of that field; where that has a problem itself,
        that one is said.
        """
        alone = self._refusal({self.name: value})
        together = alone and self._refusal({**self.others, self.name: value})
        if alone is None or together is None or not alone.startswith(f"{self.name} "):
            return None
        named = {name for name in (*self.others, *self.unread)
                 if name != self.name and re.search(rf"\b{re.escape(str(name))}\b", alone)}
        if named & self.unread or (named and not together.startswith(f"{self.name} ")):
            return None
        return (together if named else alone).removeprefix(f"{self.name} ")

    def _refusal(self, values: Mapping[str, Any]) -> str | None:
        try:
            self.config_type.from_params(values)
        except ConfigError as error:
            return str(error)
        return None

    def a_possible(self, values: Sequence[Any]) -> Any:
        """Return the first value that the config does not refuse; the first one where it refuses all."""
        return next((value for value in values if self._refusal({self.name: value}) is None), values[0])


def check_values(found: Findings, parameters: Mapping[str, Parameter], config_type: Any,
                 unread: frozenset[str]) -> None:
    """Add a problem for each value, or end of a range, that the trainer's config refuses on its own."""
    usual = {name: _Trial(config_type=config_type, name=name, others={}).a_possible(_samples(parameter))
             for name, parameter in parameters.items() if name in field_types(config_type)}
    for name in usual:
        trial = _Trial(config_type=config_type, name=name, others=usual, unread=unread)
        _check_parameter(found, f"parameters.{name}", parameters[name], trial)


def _check_parameter(found: Findings, path: str, parameter: Parameter, trial: _Trial) -> None:
    """Try each value of one hyperparameter, or the ends of its range, against the config's own checks."""
    match parameter:
        case Fixed(value=value):
            _check_value(found, f"{path}.value", value, trial)
        case Choice(values=values):
            for index, value in enumerate(values):
                _check_value(found, f"{path}.values[{index}]", value, trial)
        case Range():
            _check_range(found, path, parameter, trial)


def _check_value(found: Findings, path: str, value: Any, trial: _Trial) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        return  # has its problem already
    if isinstance(value, int | float) and not isinstance(value, bool) and found.number(path, value) is None:
        return
    if trial.takes("text") or not found.text_number(path, value):
        problem = trial.complaint(value)
        if problem:
            found.problem(path, problem + ("; write null" if value in ("None", "none") and trial.takes(None) else ""))


def _check_range(found: Findings, path: str, parameter: Range, trial: _Trial) -> None:
    name, distribution = trial.name, parameter.distribution
    if not trial.takes(1):
        found.problem(path, f"must be {trial.wanted}, which no range of numbers gives; use values")
        return
    if not trial.takes(0.5) and not parameter.is_integer:
        whole = "a whole q" if parameter.is_quantised else "distribution: int_uniform, a q_ distribution"
        found.problem(path, f"must be {trial.wanted}, but {distribution} gives fractions; use {whole} or values")
        return
    ends = zip(("min", "max"), ("smallest", "largest"), (parameter.low, parameter.high), _samples(parameter),
               strict=True)
    for key, end, bound, value in ends:
        problem = trial.complaint(value)
        if problem and not parameter.is_bounded:
            found.problem(path, f"one draw in {round(1 / RARE)} lies beyond {value:.6g}, but {name} {problem}; "
                                f"use a distribution with min and max")
        elif problem and value == bound and key in KEYS[distribution]:
            found.problem(f"{path}.{key}", problem)
        elif problem:
            found.problem(path, f"the {end} value of this {distribution} is {value:.6g}, but {name} {problem}")


def check_together(found: Findings, parameters: Mapping[str, Parameter], tied: Mapping[str, Tied],
                   config_type: Any) -> None:
    """Try the fixed values with each pair of searched ones: hyperparameters that are right alone can clash."""
    first = {name: _samples(parameter)[0] for name, parameter in parameters.items()}
    tried = [[(name, value) for value in _samples(parameter)]
             for name, parameter in parameters.items() if not isinstance(parameter, Fixed)]
    pairs = itertools.chain.from_iterable(itertools.product(left, right)
                                          for left, right in itertools.combinations(tried, 2))
    seen: set[str] = set()
    for pair in itertools.chain([()], ((single,) for some in tried for single in some), pairs):
        try:
            config_type.from_params(with_tied(tied, {**first, **dict(pair)}))
        except ConfigError as error:
            used = [name for name in tied if name in str(error)]
            said = str(error).partition(", got ")[0] if used else str(error)  # an expression is said once
            if said not in seen:
                seen.add(said)
                together = " with ".join(f"{name} {spelled(value)}" for name, value in pair)
                together += "".join(f" with {name} {tied[name].text}" for name in used)
                together = together.removeprefix(" with ")
                found.problem("parameters", f"{together}: {error}" if together else str(error))


def _samples(parameter: Parameter) -> tuple[Any, ...]:
    """Return what stands for a parameter: its values, or the ends of its range."""
    match parameter:
        case Fixed(value=value):
            return (value,)
        case Choice(values=values):
            return values
        case _ if parameter.is_bounded:
            return parameter.lowest, parameter.highest
    rare = parameter.from_unit(RARE), parameter.from_unit(1 - RARE)  # a beta's may be 0.9999, which is not 1
    return rare if parameter.distribution == "beta" else tuple(float(f"{value:.3g}") for value in rare)


def spelled_alike(own: Any, given: Any) -> bool:
    """Compare a hyperparameter with what a file says, which may spell it otherwise."""
    if isinstance(own, tuple | list):
        return list(own) == ([f"{key}={name}" for key, name in given.items()] if isinstance(given, Mapping) else given)
    with contextlib.suppress(TypeError, ValueError):
        return float(own) == float(given)
    return str(own) == str(given)
