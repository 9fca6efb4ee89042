"""The parameters of a sweep: what each of W&B's distributions means, to the value.

A parameter maps the unit interval to its values and back. `from_unit` is the inverse of the cumulative distribution, so
evenly spread numbers (random or Sobol) become values drawn as W&B draws them.

Source: PyPI `sweeps` 0.3.0, `params.HyperParameter.ppf` and `.cdf`, without its slips at exactly 0 and 1, where it
leaves the range (int_uniform at 0 gives min - 1, categorical at 0 the last value, normal at 1 infinity, beta at 1 1).
"""

import functools
import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from kaggle_runner.errors import MissingPackages

KEYS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "inv_log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
    "inv_log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
"""Every distribution with the keys it takes in a sweep file; value, values, probabilities, min and max are required."""

EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
"""Distributions whose min and max are exponents of e, not values."""

_TOP = 1.0 - 2.0**-53
_BOTTOM = 2.0**-54


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A setting that every trial shares."""

    value: Any

    @property
    def count(self) -> int:
        """Number of different values."""
        return 1

    def from_unit(self, u: float) -> Any:
        """Return the value, wherever `u` lies."""
        return self.value

    def to_unit(self, value: Any) -> float:
        """Return 0, the place of the only value."""
        return 0.0

    def contains(self, value: Any) -> bool:
        """Say whether this is the value."""
        return same_value(value, self.value)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a list of values; their order is the order a search takes them in."""

    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None
    """Chance of each value; none where all have the same."""

    @property
    def count(self) -> int:
        """Number of different values."""
        return len(self.distinct)

    @property
    def distinct(self) -> tuple[Any, ...]:
        """The values without repetitions, in their order."""
        return tuple(self.values[index] for index in self._places.values())

    @functools.cached_property
    def _places(self) -> dict[Any, int]:
        """Where each value stands first."""
        found: dict[Any, int] = {}
        for index, value in enumerate(self.values):
            found.setdefault(token(value), index)
        return found

    @property
    def is_numeric(self) -> bool:
        """Whether every value is a number, so that their order means something."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def from_unit(self, u: float) -> Any:
        """Return the value whose share of the unit interval holds `u`."""
        if self.probabilities is None:
            return self.values[_nth_of(u, 0, len(self.values))]
        for value, edge in zip(self.values, itertools.accumulate(self.probabilities), strict=True):
            if u < edge:
                return value
        return [value for value, chance in zip(self.values, self.probabilities, strict=True) if chance > 0][-1]

    def to_unit(self, value: Any) -> float:
        """Return the upper end of the value's share of the unit interval; its middle when there are probabilities.

        Raises:
            ValueError: not one of the values.
        """
        index = self.index(value)
        if self.probabilities is None:
            return (index + 1) / len(self.values)
        # W&B's engine has no such number: its cdf of a categorical with probabilities raises IndexError.
        return sum(self.probabilities[:index]) + self.probabilities[index] / 2

    def index(self, value: Any) -> int:
        """Return the position of a value.

        Raises:
            ValueError: not one of the values.
        """
        if token(value) not in self._places:
            raise ValueError(f"{value!r} is not one of {list(self.values)}")
        return self._places[token(value)]

    def contains(self, value: Any) -> bool:
        """Say whether this is one of the values."""
        return token(value) in self._places


@dataclass(frozen=True, kw_only=True)
class Range:
    """A numeric distribution of W&B; fields that a distribution does not use keep W&B's defaults."""

    distribution: str
    """Name in W&B's schema, one of `KEYS`."""
    low: float = 0.0
    """`min` of the file: a value, or an exponent of e for the distributions in `EXPONENTS`."""
    high: float = 1.0
    """`max` of the file, included; a value or an exponent as `low`."""
    q: float = 1.0
    """Values of a `q_` distribution are multiples of this, possibly just out of bounds; ints if it is an int."""
    mu: float = 0.0
    """Mean of the normal distributions; of the logarithm for the log-normal ones."""
    sigma: float = 1.0
    """Standard deviation, of the logarithm for the log-normal ones."""
    a: float = 1.0
    """First shape of the beta distributions."""
    b: float = 1.0
    """Second shape of the beta distributions."""

    @property
    def is_quantised(self) -> bool:
        """Whether the values are multiples of `q`."""
        return self.distribution.startswith("q_")

    @property
    def is_integer(self) -> bool:
        """Whether every value is a whole number."""
        return self.distribution == "int_uniform" or (self.is_quantised and float(self.q).is_integer())

    @property
    def is_logarithmic(self) -> bool:
        """Whether equal ratios are equally likely."""
        return "log_uniform" in self.distribution

    @property
    def is_bounded(self) -> bool:
        """Whether a smallest and a largest value are drawn; a beta draws everything between 0 and 1, and neither."""
        return "normal" not in self.distribution and self.distribution != "beta"

    @property
    def lowest(self) -> float:
        """Smallest value `from_unit` returns; minus infinity for a normal, 0 for a log-normal and a beta."""
        return self.from_unit(0.0) if self.is_bounded else -math.inf if self._shape == "normal" else 0.0

    @property
    def highest(self) -> float:
        """Largest value `from_unit` returns; infinity for the normal and log-normal ones, 1 for a beta."""
        return self.from_unit(1.0) if self.is_bounded else 1.0 if self._shape == "beta" else math.inf

    @property
    def count(self) -> int | None:
        """Number of different values; none if they cannot be counted."""
        if self.distribution == "int_uniform":
            return int(self.high) - int(self.low) + 1
        if self.is_quantised and self.is_bounded:
            return round(self.highest / self.q) - round(self.lowest / self.q) + 1
        return None

    def from_unit(self, u: float) -> float:
        """Return the value below which a share `u` of all draws lies; an int for int_uniform and for an int `q`."""
        if self.distribution == "int_uniform":
            return _nth_of(u, int(self.low), int(self.high) + 1)
        value = self._continuous(u)
        return round(value / self.q) * self.q if self.is_quantised else value

    def to_unit(self, value: float) -> float:
        """Return the share of draws at or below the value: 0 below the range, 1 above it."""
        return _clamp(self.place(value), 0.0, 1.0)

    def place(self, value: float) -> float:
        """Return what `to_unit` does; below and above an even spread the scale goes on."""
        match self._shape:
            case "int_uniform":
                return (math.floor(value) - self.low + 1) / (self.high - self.low + 1)
            case "normal":
                return _normal_cdf((value - self.mu) / self.sigma)
            case "log_normal":
                return _normal_cdf((math.log(value) - self.mu) / self.sigma) if value > 0 else 0.0
            case "beta":
                return float(_scipy_special().betainc(self.a, self.b, min(max(value, 0.0), 1.0)))
            case "uniform":
                place = value
            case _:
                place = math.log(value) if value > 0 else -math.inf
        start, end = self._ends
        if end <= start:  # two neighbouring numbers have one logarithm
            return 0.0 if place < start else 1.0
        return (place - start) / (end - start)

    def contains(self, value: Any) -> bool:
        """Say whether the value can be drawn, up to rounding in the last digits."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        if self.distribution == "int_uniform" and not float(value).is_integer():
            return False
        if self.is_quantised and not math.isclose(value / self.q, round(value / self.q), rel_tol=1e-9, abs_tol=1e-9):
            return False
        slack = 1e-12 * max(abs(value), self.q if self.is_quantised else 0.0)
        return self.lowest - slack <= value <= self.highest + slack

    def grid_values(self) -> tuple[float, ...]:
        """List the values a grid takes: every int of int_uniform; min, min + q, ... below max for q_uniform.

        Raises:
            ValueError: W&B's grid has no list for this distribution.

        Source: PyPI `sweeps` 0.3.0, `grid_search_next_runs`; the uneven steps are numpy's `arange`.
        """
        if self.distribution == "int_uniform":
            return tuple(range(int(self.low), int(self.high) + 1))
        if self.distribution != "q_uniform":
            raise ValueError(f"a grid cannot list the values of {self.distribution}")
        step = (self.low + self.q) - self.low
        return tuple(self.low + i * step for i in range(math.ceil((self.high - self.low) / self.q)))

    @property
    def _shape(self) -> str:
        return self.distribution.removeprefix("q_")

    @property
    def _ends(self) -> tuple[float, float]:
        """Where the even spread runs from and to: values for uniform, their logarithms for the others."""
        if self.distribution == "inv_log_uniform":  # log(1/x) is spread from min to max
            return -self.high, -self.low
        if self.distribution in EXPONENTS or self._shape == "uniform":
            return self.low, self.high
        return math.log(self.low), math.log(self.high)

    def _continuous(self, u: float) -> float:
        match self._shape:
            case "normal":
                return self.mu + self.sigma * _normal_inverse(u)
            case "log_normal":
                return math.exp(self.sigma * _normal_inverse(u)) * math.exp(self.mu)
            case "beta":
                return _clamp(float(_scipy_special().betaincinv(self.a, self.b, u)), _BOTTOM, _TOP)
        start, end = self._ends
        place = _clamp(u * (end - start) + start, start, end)
        if self._shape == "uniform":
            return place
        if self.distribution in EXPONENTS:
            return math.exp(place)
        # exp(log(x)) may miss x by its last digits; the file's own bounds are met and never passed.
        return self.low if u <= 0 else self.high if u >= 1 else _clamp(math.exp(place), self.low, self.high)


Parameter = Fixed | Choice | Range


def same_value(left: Any, right: Any) -> bool:
    """Compare two values as a sweep does: 8 is 8.0 and a list is its tuple, but true is not 1."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same_value, left, right))
    return bool(left == right)


def token(value: Any) -> Any:
    """Return what is equal for values that are the same, to look them up by."""
    if isinstance(value, bool):
        return bool, value
    if isinstance(value, list | tuple):
        return list, tuple(map(token, value))
    return value if isinstance(value, int | float | str) or value is None else repr(value)


def _nth_of(u: float, start: int, stop: int) -> int:
    """Return the whole number from `start` to below `stop` whose equal share holds `u`, upper end included.

    Source: scipy 1.17, `randint.ppf`, whose second look repairs a product that was rounded up.
    """
    count = stop - start
    nth = math.ceil(u * count + start) - 1
    before = max(nth - 1, start)
    return max(start, min(before if (before - start + 1) / count >= u else nth, stop - 1))


def _normal_inverse(u: float) -> float:
    """Return the quantile of the standard normal; 0 and 1 give its finite ends in floating point, about 8.3."""
    return NormalDist().inv_cdf(_clamp(u, _BOTTOM, _TOP))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))


def _scipy_special() -> Any:
    """Return scipy's special functions, which only the beta distributions need: the base install has no scipy.

    Raises:
        MissingPackages: scipy is not installed.
    """
    try:
        from scipy import special
    except ModuleNotFoundError as error:
        raise MissingPackages(["scipy"], "local") from error
    return special
