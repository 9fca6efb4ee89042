"""Where a model of the loss looks next: first points away from the default, then the largest expected improvement.

A function of the record and a seed: nothing is kept from one question to the next.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_runner.run.points.covariance import Geometry, squares_of
from kaggle_runner.run.points.gaussian_process import GaussianProcess
from kaggle_runner.run.points.observations import TAUGHT, Observation, Told, is_within
from kaggle_runner.run.points.one_thread import one_thread
from kaggle_runner.run.points.space import SAME_SHARE, SWITCHES, SearchAxis, SearchSpace
from kaggle_runner.sweep.distributions import Range

STARTS = 3
"""Points before the model, the default among them."""
MOST_COLUMNS = 16
"""Values without an order that have a column each; more are numbered in one, which costs no more than a rate."""
MOST_LISTED = 2_000
"""Points of a countable space up to which every untried one is scored."""
SPREAD_DRAWS, NEAR_DRAWS, NEARER_DRAWS = 300, 50, 25
"""Candidates over the whole space, around each of the best three trials, and around the best four candidates."""
NEAR_WIDTH, NEARER_WIDTH = 0.1, 0.03
START_STRATA = (0.1, 0.9)
"""Part of a continuous axis that start points come from: the ends are the least likely to be good."""
QUANTISED_DRAWS = 32
"""Draws of start points on an axis of rounded values, until they have different ones."""
END_SHARE, END_REACH = 0.03, 1 / 3
"""A place this near to an end is a candidate only while one of the best trials lies within this reach of that end."""
LONG_LIST = 8
"""Ordered values from which a list has ends like a range."""
LITTLE_SHARE, LITTLE_APART, LITTLE_HOPE = 0.25, (0.06, 0.03), -1.5
"""Where less than this share of the noise is expected, a point is wanted that lies so far from every trial on some
axis, because beside one nothing new is measured, and that is the best one if it comes out so many deviations better
than expected: a far end hardly ever does."""
APART = 0.08
"""Least distance on a learning rate between trials that run at the same time, where there is a choice."""
MOST_BESIDE = 3
"""Trials in a row at one learning rate that a study trained otherwise may ask for: the next lies elsewhere, because
only that tells whether the best does. Source: 24 made problems, 3 seeds, of ten trials at most 7 at one rate instead of
9, and no regret at 10 trials that was higher for it."""
BAD_SHARE = 0.2
"""How much worse than the worst value a point without one is, as a share of the range of the values."""
FIT_LENGTH = 0.4
"""Length over which not fitting into memory carries."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The space as columns from 0 to 1; an unordered axis has a column for each level."""

    axes: tuple[SearchAxis, ...]

    def geometry(self, home: Sequence[float]) -> Geometry:
        """Return which columns belong to which axis, and where the default lies."""
        owners = [number for number, axis in enumerate(self.axes) for _ in range(_width(axis))]
        return Geometry(axis_of=tuple(owners), codes=self.codes, wells=tuple(
            owners.index(number) for number, axis in enumerate(self.axes) if axis.is_rate),
            numbers=tuple(column for column, number in enumerate(owners) if self.axes[number].is_number),
            home=tuple(map(float, self.columns(np.asarray(home, float)[None])[0])))

    @property
    def codes(self) -> tuple[int, ...]:
        """The columns that number values without an order."""
        firsts = itertools.accumulate((_width(axis) for axis in self.axes), initial=0)
        return tuple(first for first, axis in zip(firsts, self.axes, strict=False) if _is_coded(axis))

    def columns(self, places_PA: np.ndarray) -> np.ndarray:
        """Return points as columns: levels evenly spread, unordered ones all equally far apart, or many as numbers."""
        parts = []
        for number, axis in enumerate(self.axes):
            place = places_PA[:, number]
            if not axis.levels or _is_coded(axis):
                parts.append(place[:, None])
            elif axis.is_ordered:
                parts.append(place[:, None] / (len(axis.levels) - 1))
            else:
                parts.append(np.sqrt(0.5) * (place[:, None] == np.arange(len(axis.levels))))
        return np.concatenate(parts, axis=1)

    def from_unit(self, unit_PA: np.ndarray) -> np.ndarray:
        """Return the places at numbers from 0 to 1, as evenly spread as these."""
        places = unit_PA.copy()
        for number, axis in enumerate(self.axes):
            if axis.levels:
                count = len(axis.levels)
                places[:, number] = np.minimum(count - 1, np.floor(unit_PA[:, number] * count))
            else:
                places[:, number] = _settled(axis, np.clip(unit_PA[:, number], axis.margin, 1 - axis.margin))
        return places

    def around(self, places_PA: np.ndarray, count: int, width: float, generator: np.random.Generator) -> np.ndarray:
        """Return neighbours of points: some axes moved a little, levels by a step or two."""
        found = np.repeat(places_PA, count, 0)
        moved = generator.random(found.shape) < max(0.3, 1.5 / len(self.axes))
        for number, axis in enumerate(self.axes):
            place = found[:, number]
            if not axis.levels:
                moves = moved[:, number] | (generator.random(len(place)) < 0.5)
                place = place + np.where(moves, width * generator.standard_normal(len(place)), 0.0)
                found[:, number] = _settled(axis, np.clip(place, axis.margin, 1 - axis.margin))
                continue
            last = len(axis.levels) - 1
            if not axis.is_ordered:
                step = generator.integers(0, last + 1, len(place)) - place
            else:
                reach = 2 if last > 3 else last
                step = generator.integers(-reach, reach + 1, len(place))
            found[:, number] = np.clip(place + np.where(moved[:, number], step, 0), 0, last)
        return found


@dataclass(frozen=True, kw_only=True)
class NextPoint:
    """A point and what is expected of it, or of the most promising one where that is little."""

    places: tuple[float, ...]
    gain: float
    """Expected improvement on the best so far, in the model's units."""
    noise: float
    """Deviation of one trial around the surface, in the same units."""
    unit: float
    """What one of these units is in the metric, near the best trial."""


def start_points(space: SearchSpace, first: Sequence[float], seed: int, count: int) -> np.ndarray:
    """Return points to start with besides the first one, each axis in another stratum than the first and each other.

    Of many such draws the one whose points lie furthest apart, of those with different learning rates if there are any.
    """
    axes = tuple(space.axes.values())
    grid, generator = Grid(axes=axes), np.random.default_rng(seed)
    first_A = np.asarray(first, float)
    best, furthest = np.empty((0, len(axes))), (False, -1.0)
    for _ in range(64):
        drawn = np.stack([_distinct_strata(axis, place, count, generator)
                          for axis, place in zip(axes, first_A, strict=True)], axis=1)
        points = np.concatenate([first_A[None], drawn])
        columns = grid.columns(points)
        apart = squares_of(columns, columns, grid.codes).sum(0) + 9 * columns.shape[1] * np.eye(len(columns))
        alike = any(_is_beside(axes, points[[number]], points[:number])[0] for number in range(1, len(points)))
        if (not alike, apart.min()) > furthest:
            best, furthest = drawn, (not alike, float(apart.min()))
    return best


class Misfits:
    """Points that did not fit into memory: one that needs as much does not fit either, at any learning rate."""

    def __init__(self, space: SearchSpace, past: Sequence[Observation]) -> None:
        """Take in trials; where another trial that needs as much did fit, it was chance."""
        self._growing = space.growing
        self._axes = [(number, axis) for number, axis in enumerate(space.axes.values()) if axis.name in space.deciding]
        self._needs_MD = self._needs(_places(space, [o for o in past if o.told is Told.INFEASIBLE]))
        if len(self._needs_MD):
            fitted = _places(space, [o for o in past if o.told in (Told.VALUE, Told.BAD)])
            self._needs_MD = self._needs_MD[~self._as_much(self._needs(fitted)).any(0)]

    def has(self, points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        """Say of each point whether it needs as much memory as one that did not fit."""
        if not len(self._needs_MD) or not self._axes:
            return np.zeros(len(points), bool)
        return np.asarray(self._as_much(self._needs(np.asarray(points, float))).any(1))

    def _needs(self, places_PA: np.ndarray) -> np.ndarray:
        return np.array([[axis.value(place) > 0 for place in places_PA[:, number]] if axis.name in SWITCHES
                         else places_PA[:, number] for number, axis in self._axes], float).T

    def _as_much(self, needs_PD: np.ndarray) -> np.ndarray:
        """Say of each point whether it needs at least what each misfit does."""
        more_PMD = needs_PD[:, None] - self._needs_MD[None]
        near_D = [0.5 if axis.levels or axis.name in SWITCHES else SAME_SHARE for _, axis in self._axes]
        most_D = [np.inf if axis.name in self._growing and axis.is_ordered else near
                  for near, (_, axis) in zip(near_D, self._axes, strict=True)]
        return np.asarray(((-np.array(near_D) < more_PMD) & (more_PMD < most_D)).all(2))


def furthest(space: SearchSpace, drawn: Sequence[Mapping[str, Any]], past: Sequence[Observation],
             home: Sequence[float], misfits: Misfits) -> Mapping[str, Any]:
    """Return the one of some points that lies furthest from the default and every trial, whatever became of that.

    Of those that may fit, if there are any, and then of those with other learning rates than the running ones.
    """
    grid = Grid(axes=tuple(space.axes.values()))
    drawn_PA = np.array([list(space.places(params).values()) for params in drawn])
    running_MA = _places(space, [o for o in past if o.told is Told.RUNNING])
    for useless in (misfits.has, lambda places: _is_beside(grid.axes, places, running_MA)):
        if not (left := useless(drawn_PA)).all():
            drawn, drawn_PA = [params for params, no in zip(drawn, left, strict=True) if not no], drawn_PA[~left]
    tried_TA = np.concatenate([np.asarray(home, float)[None], _places(space, past)])
    apart_PT = squares_of(grid.columns(drawn_PA), grid.columns(tried_TA), grid.codes).sum(0)
    return drawn[int(np.argmax(apart_PT.min(1)))]


@one_thread()
def next_point(space: SearchSpace, past: Sequence[Observation], goal: str, seed: int, *,
               home: Sequence[float], misfits: Misfits, prior: Sequence[Observation] = ()) -> NextPoint | None:
    """Return the untried point with the largest expected improvement; none if every candidate was tried.

    `home` is where the default lies, which the best are expected to be near; `prior` are trials of other studies. Needs
    a trial with a value and another that teaches something. Points that are bad or do not fit are learned as a little
    worse than the worst value so far; trials that run are believed to come out as expected.
    """
    generator, grid = np.random.default_rng(seed), Grid(axes=tuple(space.axes.values()))
    sign = -1.0 if goal == "maximize" else 1.0
    tried_TA = _places(space, past)
    teaches = [o.told in TAUGHT for o in past]
    taught = [o for o in past if o.told in TAUGHT]
    measured = [sign * o.value for o in taught if o.value is not None]
    bad = max(measured) + (BAD_SHARE * (max(measured) - min(measured)) or 1.0)
    # the very same computation again tells nothing new
    found = {(space.key(o.params), o.value) for o in taught if prior}
    prior = [o for o in prior if not is_within(o) or
             (space.key(o.params), o.value if o.measured is None else o.measured) not in found]
    taught += prior
    values = [bad if o.value is None else sign * o.value for o in taught]
    places_NA = np.concatenate([tried_TA[teaches], _known_places(space, prior)])
    process = GaussianProcess.fit(grid.columns(places_NA), values, grid.geometry(home), generator=generator,
                                  surfaces=_without_gaps([o.surface for o in taught]),
                                  within=[o.at is None for o in taught])
    running_MA, latest_MA = tried_TA[[o.told is Told.RUNNING for o in past]], tried_TA[-MOST_BESIDE:]
    is_stuck = any(o.surface for o in prior) and len(latest_MA) == MOST_BESIDE and bool(
        _is_beside(grid.axes, latest_MA, latest_MA[:1]).all())
    columns = range(len(process.geometry.axis_of))
    deciding = [column for column in columns
                if grid.axes[process.geometry.axis_of[column]].name in space.deciding - SWITCHES]
    judge = _Judge(grid=grid, process=process, running_MA=running_MA, places_NA=places_NA, misfits=misfits,
                   left_MA=np.concatenate([running_MA, latest_MA]) if is_stuck else running_MA,
                   fits_N=np.array([o.told is not Told.INFEASIBLE for o in taught]),
                   deciding=deciding or list(columns))
    own_NA = np.concatenate([tried_TA[teaches], _places(space, [o for o in prior if not o.surface])])
    leaders = own_NA[np.argsort(process.mean(grid.columns(own_NA) if prior else None), kind="stable")[:3]]
    is_listed = space.count is not None and space.count <= MOST_LISTED
    if is_listed:
        everywhere = np.array(list(space.every_point()))
    else:
        drawn = grid.from_unit(generator.random((SPREAD_DRAWS, len(grid.axes))))
        everywhere = np.concatenate([drawn, grid.around(leaders, NEAR_DRAWS, NEAR_WIDTH, generator)])
    drawn_PA, everywhere = everywhere, judge.allowed(everywhere, tried_TA, leaders)
    candidates = everywhere
    scores, hopes = judge(everywhere)
    if len(candidates) and not is_listed:
        top = candidates[np.argsort(-scores, kind="stable")[:4]]
        candidates = np.concatenate([top, grid.around(top, NEARER_DRAWS, NEARER_WIDTH, generator)])
        candidates = judge.allowed(candidates, tried_TA, leaders)
        scores, _ = judge(candidates)
    if not len(candidates):
        return None
    best, gain = candidates[np.argmax(scores)], float(np.exp(scores.max()))
    if gain < LITTLE_SHARE * process.noise and not all(axis.levels for axis in grid.axes):
        hopeful = everywhere[hopes > LITTLE_HOPE]
        apart = (judge.allowed(hopeful, tried_TA, leaders, least) for least in LITTLE_APART)
        away = next(filter(len, apart), best[None])
        best = away[np.argmax(judge(away)[0])]
    if is_stuck and len(beside := judge.allowed(drawn_PA, tried_TA, leaders, left_MA=running_MA)):
        gain = max(gain, float(np.exp(judge(beside)[0].max())))  # what is left here may be worth a trial all the same
    return NextPoint(places=tuple(map(float, best)), gain=gain, noise=process.noise, unit=process.unit)


class _Judge:
    """Which candidates may be tried, and how much each one promises."""

    def __init__(self, *, grid: Grid, process: GaussianProcess, running_MA: np.ndarray, left_MA: np.ndarray,
                 places_NA: np.ndarray, fits_N: np.ndarray, misfits: Misfits, deciding: Sequence[int]) -> None:
        self._misfits, self._deciding = misfits, deciding
        self._grid, self._left_MA, self._places_NA, self._fits_N = grid, left_MA, places_NA, fits_N
        self._best_K, self._process, self._believed_KM = process.best(), process, None
        if len(running_MA):
            self._believed_KM, self._process = process.believing(grid.columns(running_MA))

    def __call__(self, places_PA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log of the expected improvement times the chance to fit, and how many of its deviations each point
        is expected to be better than the best."""
        columns = self._grid.columns(places_PA)
        mean_KP, deviation_KP = self._process.predict(columns, self._believed_KM)
        score = self._process.log_improvement(mean_KP, deviation_KP, self._best_K)
        hopes = self._process.weights_K @ ((self._best_K[:, None] - mean_KP) / deviation_KP)
        return score if self._fits_N.all() else score + np.log(self._chance_to_fit(columns)), np.asarray(hopes)

    def allowed(self, places_PA: np.ndarray, tried_TA: np.ndarray, leaders_LA: np.ndarray,
                apart: float = SAME_SHARE, left_MA: np.ndarray | None = None) -> np.ndarray:
        """Leave out what was tried or is nearly the same, needless ends, and learning rates beside those to be left."""
        same, needless = np.ones((len(places_PA), len(tried_TA)), bool), np.zeros(len(places_PA), bool)
        beside = _is_beside(self._grid.axes, places_PA, self._left_MA if left_MA is None else left_MA)
        for number, axis in enumerate(self._grid.axes):
            place = places_PA[:, number]
            near = 0.5 if axis.levels else apart
            same &= np.abs(place[:, None] - tried_TA[None, :, number]) < near
            scale = max(1, len(axis.levels) - 1)
            if not axis.levels or len(axis.levels) >= LONG_LIST:
                leading = leaders_LA[:, number] / scale
                needless |= (place / scale < END_SHARE) & (leading.min() > END_REACH)
                needless |= (place / scale > 1 - END_SHARE) & (leading.max() < 1 - END_REACH)
        untried = ~same.any(1) if len(tried_TA) else np.ones(len(places_PA), bool)
        fits = ~self._misfits.has(places_PA)
        for wanted in (untried & fits & ~needless & ~beside, untried & fits & ~needless, untried & fits,
                       untried & ~needless):
            if wanted.any():
                return places_PA[wanted]
        return places_PA[untried]

    def _chance_to_fit(self, columns: np.ndarray) -> np.ndarray:
        """Return the chance of each point to fit into memory, from those that did and did not."""
        known = self._grid.columns(self._places_NA)
        kernel = self._smooth(known, known) + 1e-2 * np.eye(len(known))
        cross = self._smooth(columns, known)
        # Expected to fit where nothing is known: two deviations.
        mean = 1.0 + cross @ np.linalg.solve(kernel, np.where(self._fits_N, 0.0, -2.0))
        return np.asarray(1 / (1 + np.exp(-6.0 * mean)))

    def _smooth(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        squares = squares_of(left, right, self._grid.codes)[self._deciding].sum(0)
        return np.asarray(np.exp(-0.5 * squares / FIT_LENGTH ** 2))


def _is_beside(axes: Sequence[SearchAxis], places_PA: np.ndarray, others_MA: np.ndarray) -> np.ndarray:
    """Say of each point whether a learning rate of it lies beside one of the others."""
    beside = np.zeros(len(places_PA), bool)
    for number, axis in enumerate(axes):
        if axis.is_rate and len(others_MA):
            gaps = np.abs(places_PA[:, None, number] - others_MA[None, :, number]) / max(1, len(axis.levels) - 1)
            beside |= gaps.min(1) < APART
    return beside


def _without_gaps(surfaces: Sequence[int]) -> list[int]:
    others = sorted({surface for surface in surfaces if surface})
    return [others.index(surface) + 1 if surface else 0 for surface in surfaces]


def _settled(axis: SearchAxis, place: np.ndarray) -> np.ndarray:
    """Return the places of the values that places are rounded to, so that what was tried is known again."""
    if axis.levels or not isinstance(axis.parameter, Range) or not axis.parameter.is_quantised:
        return place
    return np.array([axis.place(axis.value(float(one))) for one in place], float).reshape(place.shape)


def _is_coded(axis: SearchAxis) -> bool:
    return bool(axis.levels) and not axis.is_ordered and len(axis.levels) > MOST_COLUMNS


def _places(space: SearchSpace, past: Sequence[Observation]) -> np.ndarray:
    return np.array([space.key(o.params) for o in past], float).reshape(len(past), len(space.axes))


def _known_places(space: SearchSpace, prior: Sequence[Observation]) -> np.ndarray:
    """Return where trials of other studies were measured, outside of the space too."""
    return np.array([space.key(o.params) if o.at is None else space.places_anywhere(o.at) for o in prior],
                    float).reshape(len(prior), len(space.axes))


def _width(axis: SearchAxis) -> int:
    return 1 if axis.is_ordered or not axis.levels or _is_coded(axis) else len(axis.levels)


def _distinct_strata(axis: SearchAxis, first: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw places whose values differ from the first one's and each other's, where rounding to steps leaves so many."""
    best, most = _strata(axis, first, count, generator), 0
    if axis.levels or not isinstance(axis.parameter, Range) or not axis.parameter.is_quantised:
        return best
    for _ in range(QUANTISED_DRAWS):
        drawn = _strata(axis, first, count, generator)
        different = len({axis.value(float(place)) for place in (first, *drawn)})
        if different > most:
            best, most = drawn, different
        if most > count:
            break
    return best


def _strata(axis: SearchAxis, first: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw places on one axis: the strata that the first point is not in, in a random order, again if they run out."""
    drawn: list[float] = []
    if 0 < len(axis.levels) <= count + 1 or not axis.is_ordered:
        others = [float(level) for level in range(len(axis.levels)) if level != first]
        edges = np.linspace(0, len(others), min(count, len(others)) + 1)
        while len(drawn) < count:
            parts = [others[int(generator.integers(int(low), max(int(low) + 1, int(high))))]
                     for low, high in itertools.pairwise(edges)]
            if len(others) < count:
                parts.append(first)
            drawn += [parts[i] for i in generator.permutation(len(parts))]
        return np.array(drawn[:count])
    levels = len(axis.levels)
    low, high = (0.0, 1.0) if levels else START_STRATA
    width = (high - low) / (count + 1)
    first = (first + 0.5) / levels if levels else first
    own = min(count, max(0, int((first - low) / width)))
    while len(drawn) < count:
        rest = [stratum for stratum in range(count + 1) if stratum != own]
        drawn += [low + width * (rest[i] + generator.random()) for i in generator.permutation(len(rest))]
    if levels:
        return np.asarray(np.minimum(np.floor(np.array(drawn[:count]) * levels), levels - 1))
    return np.clip(drawn[:count], axis.margin, 1 - axis.margin)
