"""What a picture shows of the metric: no height is spent on what is far off, and none shows less than the noise.

A trial off the scale is a mark at the edge; how many there are and how far they lie is said above the picture, and so
is the untouched base where it is far from every trial. No words stand among the marks, where they would hide some.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kaggle_runner.report.analysis.analysis import Analysis
from kaggle_runner.report.style import BAND, BASELINE, BEST, visible_range

_NOISES = 6.0
"""Standard deviations of one trial's noise that an axis shows at least."""
_NEAR = 0.6
"""The base is on the scale where it lies within so much of the scale's height beside it."""


@dataclass(frozen=True, kw_only=True)
class MetricScale:
    """The ends of a picture's metric axis, and what lies beyond them."""

    title: str
    low: float
    high: float
    base: float | None
    values: tuple[float, ...]
    text: Callable[[float], str]
    """What writes a value of the metric."""

    @property
    def base_is_near(self) -> bool:
        """Whether the untouched base is on the scale."""
        return self.base is not None and self.low <= self.base <= self.high

    def holds(self, value: float) -> bool:
        """Say whether a value is on the scale."""
        return self.low <= value <= self.high

    def at_edge(self, value: float) -> float:
        """Return where the mark of a value stands: one off the scale just inside the nearer edge."""
        if self.holds(value):
            return value
        inset = 0.02 * (self.high - self.low)
        return self.high - inset if value > self.high else self.low + inset

    def with_room(self, around: Iterable[float], reach: float) -> "MetricScale":
        """Return it with room for a band that reaches so far around those of some values that are on it."""
        held, room = [value for value in around if self.holds(value)], 1.1 * reach
        return replace(self, low=min([self.low, *(value - room for value in held)]),
                       high=max([self.high, *(value + room for value in held)]))

    @property
    def axis(self) -> dict[str, Any]:
        """The axis for a layout."""
        return {"title": {"text": self.title}, "automargin": True,
                "range": [self.low, self.high]}

    @property
    def shapes(self) -> list[dict[str, Any]]:
        """The line of the untouched base, where it is on the scale."""
        if self.base is None or not self.base_is_near:
            return []
        return [level(self.base, "untouched base")]

    @property
    def beyond(self) -> tuple[str, ...]:
        """What is off the scale, in words."""
        found = []
        for above in (True, False):
            beyond = [value for value in self.values if (value > self.high if above else value < self.low)]
            if beyond:
                far = self.text(max(beyond) if above else min(beyond))
                found.append(f"{_arrow(above)} {len(beyond)} off the scale, to {far}")
        if self.base is not None and not self.base_is_near:
            found.append(f"{_arrow(self.base > self.high)} untouched base {self.text(self.base)}")
        return tuple(found)

    def beyond_of(self, lines: Sequence[Sequence[float]]) -> tuple[str, ...]:
        """Say how many of these lines go beyond the edges, and how far."""
        found = []
        for above in (True, False):
            ends = [max(line) if above else min(line) for line in lines if line]
            beyond = [end for end in ends if (end > self.high if above else end < self.low)]
            if beyond:
                far, noun = self.text(max(beyond) if above else min(beyond)), "line" if len(lines) == 1 else "lines"
                found.append(f"{_arrow(above)} {len(beyond)} of {len(lines)} {noun} off the scale, to {far}")
        return tuple(found)


def metric_scale(analysis: Analysis, values: Iterable[float], title: str) -> MetricScale:
    """Choose the scale for these values; its title must be safe for plotly.js."""
    shown = tuple(values)
    low, high = visible_range(shown, analysis.goal)
    if analysis.noise is not None:
        grow = max(0.0, _NOISES * analysis.noise.deviation - (high - low)) / 2
        low, high = low - grow, high + grow
    base, room = analysis.baseline, _NEAR * (high - low)
    if base is not None and (not shown or low - room <= base <= high + room):
        margin = 0.05 * (high - low)
        low, high = min(low, base - margin), max(high, base + margin)
    return MetricScale(title=title, low=low, high=high, base=base, values=shown, text=analysis.text)


def level(value: float, name: str, color: str = BASELINE, dash: str = "dash") -> dict[str, Any]:
    """Return a horizontal line as a shape of a layout; its name, safe for plotly.js, stands in the legend."""
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "between",
            "line": {"color": color, "width": 1.5, "dash": dash}, "name": name, "showlegend": True}


def band(x: list[Any], low: list[Any], high: list[Any], name: str) -> list[Mapping[str, Any]]:
    """Return a band between two stepped lines, as two traces of which the second is filled."""
    edge = {"type": "scatter", "mode": "lines", "x": x, "hoverinfo": "skip",
            "line": {"width": 1, "color": BEST, "shape": "hv", "dash": "dot"}}
    return [edge | {"y": low, "name": "", "showlegend": False},
            edge | {"y": high, "name": name, "fill": "tonexty", "fillcolor": BAND}]


def _arrow(above: bool) -> str:
    return "↑" if above else "↓"
