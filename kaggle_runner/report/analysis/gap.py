"""Who lies beyond a gap that chance does not make: what diverged, and what learned nothing while others did.

Told by the study's own metric, and by the loss of studies that have another one. The untouched base is one value more:
where training changes nothing, it lies anywhere among the trials.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kaggle_runner.metrics import LOSS
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import Configuration

_WIDTHS, _CHANCE = 1.5, 1e-3
"""How many times as wide as all before it a gap must be, and how seldom it may be so by chance. Source: measured with
benchmarks/truth.py, 150 studies: with heavy tails as many are wrong as at 3; at 1 twice as many."""
_FEW, _WIDTHS_OF_FEW = 3, 3
"""How wide where so few lie beyond: in a log-normal's tail two of 12 lie 1.5 widths off in one study of eight."""
_WIDTHS_OF_ONE, _CHANCE_OF_ONE = 10, 1e-6
"""The same where one alone lies on a side of it, as one does at the end of a long tail."""
_WIDTHS_OF_LEVEL = 0.5
"""How wide where all beyond have the very score of the base, three rows at least behind the others."""
_AT_BASE = 0.02
"""How seldom where those beyond are no better than the base, which is a reason of its own."""
_TIGHT = 0.9
"""Part of the whole width that a gap between two tight groups has."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What configurations are compared by: values in their order, small ones good."""

    values: tuple[float, ...]
    base: float | None = None
    is_share: bool = False
    """Whether it is a share of rows or tokens, so that values are equal by chance and no closer than one of them."""
    rows: int = 0
    """Of how many rows it is a share at least, where that is known: then equal values lie within one of them."""


def measures_of(snapshot: Snapshot, ranked: Sequence[Configuration]) -> list[Measure]:
    """Return what configurations are compared by: the study's metric, and the loss where all have measured it."""
    metric = snapshot.metric
    base = 0.0 if metric.has_ties and snapshot.baseline is None else snapshot.baseline  # no share is below 0
    own = Measure(values=tuple(metric.sign * one.mean for one in ranked), is_share=metric.has_ties,
                  base=None if base is None else metric.sign * base,
                  rows=min((facts["rows"]["validation"] for facts in snapshot.rows), default=0))
    losses = {record.trial.id: record.result.metrics[LOSS] for record in snapshot.records
              if record.result and LOSS in record.result.metrics}
    known = [[losses[trial] for trial in one.all_ids if trial in losses] for one in ranked]
    if metric.name == LOSS or not all(known):
        return [own]
    return [own, Measure(values=tuple(map(fmean, known)), base=snapshot.base_scores.get(LOSS))]


def before_gap(measures: Sequence[Measure], count: int) -> tuple[int, ...]:
    """Return which of so many configurations, best first, lie before a gap by each measure; the first always does."""
    own, near = measures[0], set(range(count))
    lost = [own.base is not None and value >= own.base for value in own.values]
    for measure in measures:
        limit = _limit(measure, lost)
        if limit is not None and measure.values[0] < limit:
            near &= {i for i, value in enumerate(measure.values) if value < limit}
    return tuple(sorted(near))


def _limit(measure: Measure, lost: Sequence[bool]) -> float | None:
    """Return a place in the first gap that is too wide for chance; none without one."""
    base = math.inf if measure.base is None else measure.base
    low, width = min(measure.values), max(measure.values) - min(measure.values)
    parts = [round((value - low) / width, 9) for value in measure.values] if width else []  # rounding is no gap
    is_counted = measure.is_share and measure.rows > 0
    steps = sorted(parts if is_counted else set(parts))
    known = sorted({*measure.values, *([measure.base] if measure.base is not None else [])})
    least = 1 / measure.rows if is_counted else min((b - a for a, b in itertools.pairwise(known)), default=0.0)
    floor = least / width if measure.is_share and width else 0.0
    for count in range(1, len(steps)):
        gap, inner, after = steps[count] - steps[count - 1], max(steps[count - 1], floor), steps[-1] - steps[count]
        middle = low + width * (steps[count] + steps[count - 1]) / 2
        sides = {(value > middle, by_own or value >= base)
                 for value, by_own in zip(measure.values, lost, strict=True)}
        beyond = sum(value > middle for value in measure.values)
        widths, limit = (_WIDTHS_OF_ONE, _CHANCE_OF_ONE) if 1 in (count, beyond) else (
            _WIDTHS_OF_FEW if beyond <= _FEW else _WIDTHS, _CHANCE)
        if gap > widths * inner and _chance(gap, inner, after, count, len(steps)) <= limit:
            return middle
        if sides == {(False, False), (True, True)}:  # the gap before the base, wherever that lies in it
            gap = min(gap, (base - low) / width - steps[count - 1])
            level = measure.is_share and not after and beyond > 2
            widths = _WIDTHS_OF_LEVEL if level and gap >= 3 * floor else _WIDTHS
            total = len(measure.values) if level else len(steps)
            if gap > widths * inner and _chance(gap, inner, after, count, total) <= _AT_BASE:
                return middle
    return None


def _chance(gap: float, before: float, after: float, count: int, total: int) -> float:
    """Return how often evenly lying values leave such a gap behind the first ones, or anywhere if all lie tightly.

    Source: Pyke, "Spacings", J. R. Stat. Soc. B 27, 1965, section 2.
    """
    behind = (1 + gap / before) ** (1 - count) if before else 1.0
    part = gap / (before + gap + after)
    return min(behind, (total - 1) * (1 - part) ** (total - 2) if part >= _TIGHT or not after else 1.0)
