"""A study in numbers: everything a report shows, computed once and kept apart from its drawing.

Only complete trials are compared; what was pruned, failed or still runs is carried along to be marked, never ranked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_runner.metrics import Goal, metric_writer
from kaggle_runner.report.analysis.agreement import OtherMetric, other_metrics
from kaggle_runner.report.analysis.answers import Asked, read_answers
from kaggle_runner.report.analysis.curves import Curve, read_curves, rung_steps
from kaggle_runner.report.analysis.first_place import FirstPlace, first_place
from kaggle_runner.report.analysis.gap import measures_of
from kaggle_runner.report.analysis.importance import MIN_TRIALS, Effects, Factor, Share, find_effects, winsorised
from kaggle_runner.report.analysis.provenance import device_of, how_it_was_run
from kaggle_runner.report.analysis.surrogate import MOST_TRIALS, Surrogate, fit
from kaggle_runner.study.axes import Axis, Boundary, boundary, read_axes
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import (
    Configuration,
    Noise,
    configurations_of,
    failed_with_a_seed,
    measured_noise,
    stated_of_best,
)
from kaggle_runner.study.trial import OPEN, Status, TrialRecord

MIN_TRIALS_FOR_REGION = 8
"""Configurations below which the best of them are too few to show a region."""
TRIALS_TO_FIX = 20
"""Configurations from which on a hyperparameter without a visible effect is said to be not worth searching."""
_GRID = 28


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial, flat, with what is known of it."""

    id: str
    number: int
    status: str
    """A value of `Status`, or one of `OPEN`."""
    value: float | None
    """The study's metric."""
    compared_by: float | None = None
    """What it is compared by: where its configuration has several seeds, the mean over these, else its own value."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured beside it, by name."""
    params: Mapping[str, Any]
    origin: str = ""
    reason: str = ""
    failure: str = ""
    """What ended it without a value that counts: the kind of a failure, else its status; empty if nothing did."""
    steps: int = 0
    seconds: float = 0.0
    started: float = 0.0
    tokens: int = 0
    attempts: int = 1
    peak_bytes: int | None = None
    predicted_bytes: int | None = None
    """Peak that was predicted before the trial ran, none if none was."""
    predicted_parts: Mapping[str, int] = field(default_factory=dict)
    """What the predicted peak is made of, in bytes."""
    phases: Mapping[str, float]
    """Seconds by phase."""


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """The best value when a trial had ended, by what is known now."""

    trial_id: str
    number: int
    of: str
    """The trial that has it."""
    hours: float
    """Hours of all trials up to and with this one, added up."""
    best: float


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where the best configurations lie on one axis: a quarter of them, three at least, and all equal to these."""

    name: str
    count: int
    """Number of configurations that the region is made of."""
    low: float | None = None
    high: float | None = None
    ends: tuple[float, float] = (-math.inf, math.inf)
    """The ends of the range itself."""
    values: tuple[Any, ...] = ()
    """For an axis of listed values: those that occur, the most frequent first."""
    counts: tuple[int, ...] = ()
    """How often each of them occurs."""


@dataclass(frozen=True, kw_only=True)
class Contour:
    """The metric over two hyperparameters as the surrogate expects it, the others as in the best trial."""

    x: Axis
    y: Axis
    x_positions: tuple[float, ...]
    """Positions on the axis, from 0 to 1."""
    y_positions: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    """One row for each y position."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A step at which trials were pruned, and what each trial that came so far had then."""

    step: int
    survivors: tuple[tuple[str, float], ...]
    """Trial ids with their value at this step."""
    cut: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All numbers of one study's report."""

    directory: Path
    name: str
    metric: str
    goal: Goal
    sweep: Mapping[str, Any]
    """The sweep file as read."""
    baseline: float | None
    device: str
    """`GPU` or `CPU`: whose hours are counted; `machine` where no session says."""
    rows: tuple[Row, ...]
    ranked: tuple[Row, ...]
    """The complete trials, best first, those of one configuration together: the order of `Snapshot.ranked`."""
    curves: tuple[Curve, ...]
    axes: tuple[Axis, ...]
    shares: tuple[Share, ...]
    """Importance of the hyperparameters, largest first; empty where `shares_problem` says why."""
    shares_problem: str
    contours: tuple[Contour, ...]
    progress: tuple[BestSoFar, ...]
    regions: tuple[Region, ...]
    boundaries: tuple[Boundary, ...]
    repeats: tuple[Configuration, ...]
    """Those with several seeds, of the study and of its confirmation."""
    first: FirstPlace
    as_swept: tuple[str, ...]
    """A trial of each configuration in the order in which a confirmation takes them up: without seeds that confirm."""
    rungs: tuple[Rung, ...]
    how: tuple[tuple[str, str], ...]
    """How the study was run, as names and texts."""
    others: tuple[OtherMetric, ...] = ()
    """What the metrics beside the study's own say of the winner."""
    asked: tuple[Asked, ...] = ()
    """What the best trials answer to some held-out rows."""
    apart: int = 0
    """Trials that are left out, because they read other data than most."""

    @property
    def best(self) -> Row | None:
        """The best trial of the configuration with the best mean."""
        return self.ranked[0] if self.ranked else None

    @property
    def places(self) -> tuple[Row, ...]:
        """The best trial of each configuration, in the order of `FirstPlace.places`."""
        best = {row.id: i for i, row in enumerate(self.ranked)}
        return tuple(self.ranked[min(best[trial] for trial in one.runs_ids)] for one in self.first.places)

    @cached_property
    def text(self) -> Callable[[float | None], str]:
        """What writes a value of the metric, in as many digits as tell the configurations apart."""
        return metric_writer(self.metric, (one.mean for one in self.first.ranked))

    @property
    def noise(self) -> Noise | None:
        """How far one trial scatters by chance."""
        return self.first.noise

    @property
    def resolved(self) -> tuple[str, ...]:
        """The hyperparameters that stand out from chance, the most important first."""
        return tuple(share.name for share in self.shares if share.resolved)

    @property
    def complete(self) -> tuple[Row, ...]:
        """The trials that were trained to their end and have a value."""
        return tuple(row for row in self.rows if row.status == "complete" and row.value is not None)

    @property
    def unfinished(self) -> str:
        """What has no result: how many trials run, are out, and were stopped without an end; empty if all have one."""
        counts = [(sum(row.status == word for row in self.rows), word) for word in OPEN]
        return ", ".join(f"{count:,} {word}" for count, word in counts if count)


def labels(analyses: Sequence[Analysis]) -> list[str]:
    """Return a name for each study; studies of one name get their directory's, or its parent's, after it."""
    names = [analysis.name for analysis in analyses]
    for depth in (1, 2):
        if len(set(names)) == len(names):
            break
        parts = ["/".join(analysis.directory.resolve().parts[-depth:]) for analysis in analyses]
        names = [name if names.count(name) == 1 else f"{analysis.name} ({part})"
                 for name, part, analysis in zip(names, parts, analyses, strict=True)]
    return names


def analyse(snapshot: Snapshot, *, seed: int = 0) -> Analysis:
    """Compute everything; any study that can be read can be analysed."""
    everything, snapshot = snapshot, snapshot.comparable
    found = configurations_of(snapshot)
    of_trial = {trial: one for one in found for trial in one.all_ids}
    rows = tuple(_row(record, snapshot.info.metric, of_trial.get(record.trial.id)) for record in snapshot.records)
    axes, metric = read_axes(snapshot), snapshot.metric
    by_id = {row.id: row for row in rows}
    ranked = tuple(by_id[record.trial.id] for record in snapshot.ranked)
    place, best = {row.id: i for i, row in enumerate(ranked)}, ranked[0] if ranked else None
    varied = _varied(axes, found)
    effects, problem = _effects(varied, found, seed)
    measured, repeats = measured_noise(snapshot)
    in_order = sorted(found, key=lambda one: min(place[trial] for trial in one.all_ids))
    first = first_place(in_order, metric.goal, measured, effects,
                        lambda near: _effects(_varied(axes, near), near, seed)[0], measures_of(snapshot, in_order),
                        failed_with_a_seed(snapshot), stated_of_best(snapshot))
    surrogate = _surrogate(varied, found, seed) if sum(share.resolved for share in effects.shares) > 1 else None
    curves = read_curves(snapshot)
    return Analysis(
        directory=snapshot.directory, name=snapshot.info.name, metric=metric.name, goal=metric.goal,
        sweep=snapshot.info.sweep, baseline=snapshot.baseline, device=device_of(snapshot),
        rows=rows, ranked=ranked, curves=curves, axes=axes, shares=effects.shares, shares_problem=problem,
        contours=_contours(varied, effects.shares, surrogate, best), progress=_progress(rows, first),
        regions=_regions(varied, first), repeats=repeats, first=first,
        as_swept=tuple(one.records[0].trial.id for one in snapshot.as_swept.configurations),
        boundaries=_boundaries(axes, first), rungs=_rungs(snapshot, rows, curves), how=how_it_was_run(snapshot),
        others=other_metrics(snapshot, best.id if best else None), asked=read_answers(snapshot),
        apart=len(everything.records) - len(snapshot.records))


def _row(record: TrialRecord, metric: str, configuration: Configuration | None) -> Row:
    trial, result = record.trial, record.result
    if result is None:
        return Row(id=trial.id, number=trial.number, status=record.status_word, value=None, params=trial.params,
                   origin=trial.origin, reason=record.reason, started=record.started, attempts=record.attempts,
                   phases={})
    predicted = result.notes.get("predicted_peak_bytes")
    return Row(id=trial.id, number=trial.number, status=record.status_word, value=result.metric, params=trial.params,
               compared_by=configuration.mean if configuration else result.metric,
               metrics={name: value for name, value in result.metrics.items() if name != metric},
               origin=trial.origin, reason=result.reason, failure="" if result.status is Status.COMPLETE else str(
                   result.notes.get("kind") or result.status.value), steps=result.steps, seconds=result.seconds,
               started=record.started, tokens=result.tokens, attempts=record.attempts,
               peak_bytes=result.peak_device_bytes or None, predicted_bytes=int(predicted) if predicted else None,
               predicted_parts=dict(result.notes.get("predicted_parts", {})), phases=dict(result.seconds_by_phase))


def _varied(axes: Sequence[Axis], found: Sequence[Configuration]) -> tuple[Axis, ...]:
    """Return the axes on which the configurations differ."""
    return tuple(axis for axis in axes if len({axis.of(one.params) for one in found}) > 1)


def _effects(varied: Sequence[Axis], found: Sequence[Configuration], seed: int) -> tuple[Effects, str]:
    count = len(found)
    if count < MIN_TRIALS:
        trials = "1 complete configuration is" if count == 1 else f"{count or 'no'} complete configurations are"
        return Effects(), f"{trials} too few to say which hyperparameter mattered; {MIN_TRIALS} are the least"
    if not varied:
        return Effects(), "no hyperparameter differs between the complete trials, so none can matter"
    factors = [Factor(name=axis.name, ordered=axis.is_ordered, positions=tuple(
        -1.0 if (at := axis.of(one.params)) is None else at for one in found))
        for axis in varied]
    effects = find_effects(factors, [one.mean for one in found], seed=seed)
    return effects, "" if effects.shares else (
        f"all {count} complete configurations have the same value, so nothing can matter")


def _surrogate(varied: Sequence[Axis], found: Sequence[Configuration], seed: int) -> Surrogate | None:
    """Fit the surrogate to at most `MOST_TRIALS` configurations spread over the study."""
    values = winsorised(np.array([one.mean for one in found]))
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_TRIALS)).round().astype(int))
    points = np.array([_point(varied, found[i].params) for i in chosen])
    return fit(points, values[chosen], seed=seed) if np.ptp(values[chosen]) > 0 else None


def _point(axes: Sequence[Axis], params: Mapping[str, Any]) -> list[float]:
    """Place a trial in the surrogate's space: one coordinate for each ordered axis, one for each unordered value."""
    return [part for axis in axes for part in _coordinates(axis, axis.of(params))]


def _coordinates(axis: Axis, position: float | None) -> list[float]:
    if axis.is_ordered or len(axis.values) == 2:
        return [0.5 if position is None else position]
    chosen = None if position is None else int(position * len(axis.values))
    return [1.0 if i == chosen else 0.0 for i in range(len(axis.values))]


def _contours(varied: Sequence[Axis], shares: Sequence[Share], surrogate: Surrogate | None,
              best: Row | None) -> tuple[Contour, ...]:
    """Return the maps of the most important hyperparameter against the next two, of those that stand out."""
    if surrogate is None or best is None:
        return ()
    by_name = {axis.name: axis for axis in varied}
    order = [by_name[share.name] for share in shares if share.resolved]
    return tuple(_contour(varied, order[0], other, surrogate, best) for other in order[1:3])


def _contour(varied: Sequence[Axis], x: Axis, y: Axis, surrogate: Surrogate, best: Row) -> Contour:
    x_positions, y_positions = _grid(x), _grid(y)
    points = []
    for at_y in y_positions:
        for at_x in x_positions:
            point: list[float] = []
            for axis in varied:
                own = axis.of(best.params)
                point.extend(_coordinates(axis, {x.name: at_x, y.name: at_y}.get(axis.name, own)))
            points.append(point)
    values = surrogate.predict(np.array(points)).reshape(len(y_positions), len(x_positions))
    return Contour(x=x, y=y, x_positions=x_positions, y_positions=y_positions,
                   values=tuple(tuple(float(value) for value in row) for row in values))


def _grid(axis: Axis) -> tuple[float, ...]:
    if axis.is_range:
        return tuple(i / (_GRID - 1) for i in range(_GRID))
    return tuple((i + 0.5) / len(axis.values) for i in range(len(axis.values)))


def _progress(rows: Sequence[Row], first: FirstPlace) -> tuple[BestSoFar, ...]:
    means = [one.mean for one in first.ranked]
    place = {trial: means.index(one.mean) for one in first.ranked for trial in one.all_ids}
    best: Row | None = None
    hours, progress = 0.0, []
    for row in rows:
        hours += row.seconds / 3600
        if row.id in place and (best is None or place[row.id] < place[best.id]):
            best = row
        if best is not None and best.compared_by is not None and row.status not in OPEN:
            progress.append(BestSoFar(trial_id=row.id, number=row.number, hours=hours, best=best.compared_by,
                                      of=best.id))
    return tuple(progress)


def _boundaries(axes: Sequence[Axis], first: FirstPlace) -> tuple[Boundary, ...]:
    """Return the ends at which the best lies; several of one value say something of an end where all lie at it."""
    found = []
    for axis in axes:
        ends = [boundary(axis, one.params[axis.name]) if axis.name in one.params else None
                for one in first.ranked if one.mean == first.ranked[0].mean]
        if ends and ends[0] and all(end and end.side == ends[0].side for end in ends):
            found.append(ends[0])
    return tuple(found)


def _regions(varied: Sequence[Axis], first: FirstPlace) -> tuple[Region, ...]:
    if len(first.ranked) < MIN_TRIALS_FOR_REGION:
        return ()
    places, count = first.places, max(3, len(first.ranked) // 4)
    while count < len(places) and places[count].mean == places[count - 1].mean:
        count += 1
    near = {one.trial_ids for one in first.near}
    good = [one for one in places[:count] if one.trial_ids in near]
    if len(good) in (1, len(first.ranked)):  # what has the same value is no better than the rest
        return ()
    regions = []
    for axis in varied:
        chosen = [one.params[axis.name] for one in good if axis.of(one.params) is not None]
        if axis.is_range and chosen:
            regions.append(Region(name=axis.name, count=len(chosen), low=min(chosen), high=max(chosen),
                                  ends=(axis.low, axis.high)))
        elif chosen:
            counts = [(sum(axis.position(value) == axis.position(known) for value in chosen), known)
                      for known in axis.values]
            often = [pair for pair in sorted(counts, key=lambda pair: -pair[0]) if pair[0]]
            regions.append(Region(name=axis.name, count=len(chosen), values=tuple(known for _, known in often),
                                  counts=tuple(times for times, _ in often)))
    return tuple(regions)


def _rungs(snapshot: Snapshot, rows: Sequence[Row], curves: Sequence[Curve]) -> tuple[Rung, ...]:
    last_step = {row.id: row.steps for row in rows if row.status == "pruned"}
    rungs = []
    for step in rung_steps(snapshot.records):
        reached = [(curve.trial_id, value) for curve in curves
                   if curve.steps and curve.steps[-1] >= step and (value := curve.at(step)) is not None]
        cut = {trial_id for trial_id, value in reached if last_step.get(trial_id, step + 1) <= step}
        rungs.append(Rung(step=step, survivors=tuple(pair for pair in reached if pair[0] not in cut),
                          cut=tuple(pair for pair in reached if pair[0] in cut)))
    return tuple(rungs)
