"""A study in numbers: everything a report shows, computed once and kept apart from its drawing.

Only complete trials are compared; what was pruned, failed or still runs is carried along to be marked, never ranked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_runner.report.analysis.curves import Curve, read_curves, rung_steps, status_word
from kaggle_runner.report.analysis.importance import MIN_TRIALS, Factor, Share, importances, winsorised
from kaggle_runner.report.analysis.surrogate import MOST_TRIALS, TRIALS_FOR_NOISE, Surrogate, fit
from kaggle_runner.study.axes import Axis, Boundary, boundary, read_axes
from kaggle_runner.study.journal import JOURNAL, Snapshot, confirm_directory, read_study
from kaggle_runner.study.noise import Noise, Repeat, find_repeats, noise_of_repeats
from kaggle_runner.study.trial import Status, TrialRecord

MIN_TRIALS_FOR_REGION = 8
"""Complete trials below which the best of them are too few to show a region."""
_GRID = 28


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial, flat, with what is known of it."""

    id: str
    number: int
    status: str
    """A value of `Status`, or `running`."""
    value: float | None
    """The study's metric."""
    params: Mapping[str, Any]
    origin: str = ""
    reason: str = ""
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
class Progress:
    """The best value when a trial had ended."""

    trial_id: str
    number: int
    hours: float
    """Hours of all trials up to and with this one, added up."""
    best: float


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where the best complete trials lie on one axis: a quarter of them, and three at least."""

    name: str
    count: int
    """Number of trials that the region is made of."""
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] = ()
    """For an axis of listed values: those that occur, the most frequent first."""


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
    goal: str
    baseline: float | None
    device: str
    """`GPU` or `CPU`: whose hours are counted; `machine` where no session says."""
    rows: tuple[Row, ...]
    best: Row | None
    curves: tuple[Curve, ...]
    axes: tuple[Axis, ...]
    shares: tuple[Share, ...]
    """Importance of the hyperparameters, largest first; empty where `shares_problem` says why."""
    shares_problem: str
    contours: tuple[Contour, ...]
    progress: tuple[Progress, ...]
    regions: tuple[Region, ...]
    boundaries: tuple[Boundary, ...]
    repeats: tuple[Repeat, ...]
    noise: Noise | None
    ties: tuple[str, ...]
    """Complete trials, the best left out, whose distance to the best is within the noise; best first."""
    rungs: tuple[Rung, ...]

    @property
    def complete(self) -> tuple[Row, ...]:
        """The trials that were trained to their end and have a value."""
        return tuple(row for row in self.rows if row.status == "complete" and row.value is not None)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The complete trials, best first."""
        sign = -1.0 if self.goal == "maximize" else 1.0
        return tuple(sorted(self.complete, key=lambda row: (sign * (row.value or 0.0), row.number)))

    @property
    def is_running(self) -> bool:
        """Whether some trial has no result yet."""
        return any(row.status == "running" for row in self.rows)


def analyse(snapshot: Snapshot, *, seed: int = 0, models: bool = True) -> Analysis:
    """Compute everything; any study that can be read can be analysed.

    Without `models` nothing is fitted: no importances, no contours, noise from repeats only.
    """
    rows = tuple(_row(record) for record in snapshot.records)
    best_record = snapshot.best
    best = next((row for row in rows if best_record and row.id == best_record.trial.id), None)
    axes, goal = read_axes(snapshot), snapshot.info.goal
    complete = [row for row in rows if row.status == "complete" and row.value is not None]
    varied = _varied(axes, complete)
    shares, problem = _shares(varied, complete, seed) if models else ((), "importances were not computed")
    surrogate = _surrogate(varied, complete, seed) if models else None
    repeats = find_repeats([(row.id, row.params, row.value) for row in complete if row.value is not None])
    confirmed = _confirmed(snapshot)
    noise = (noise_of_repeats(repeats) or noise_of_repeats(confirmed, "confirmed with several seeds")
             or _noise_of_surrogate(surrogate, len(complete)))
    curves = read_curves(snapshot)
    return Analysis(
        directory=snapshot.directory, name=snapshot.info.name, metric=snapshot.info.metric, goal=goal,
        baseline=snapshot.baseline, device=_device(snapshot),
        rows=rows, best=best, curves=curves, axes=axes, shares=shares, shares_problem=problem,
        contours=_contours(varied, shares, surrogate, best), progress=_progress(rows, goal),
        regions=_regions(varied, complete, goal), repeats=(*repeats, *confirmed), noise=noise,
        ties=_ties(complete, best, noise, goal),
        boundaries=tuple(found for axis in axes if best and axis.name in best.params
                         and (found := boundary(axis, best.params[axis.name]))),
        rungs=_rungs(snapshot, rows, curves))


def _row(record: TrialRecord) -> Row:
    trial, result = record.trial, record.result
    if result is None:
        return Row(id=trial.id, number=trial.number, status=status_word(record), value=None, params=trial.params,
                   origin=trial.origin, started=record.started, attempts=record.attempts, phases={})
    predicted = result.notes.get("predicted_peak_bytes")
    return Row(id=trial.id, number=trial.number, status=status_word(record), value=result.metric, params=trial.params,
               origin=trial.origin, reason=result.reason, steps=result.steps, seconds=result.seconds,
               started=record.started, tokens=result.tokens, attempts=record.attempts,
               peak_bytes=result.peak_device_bytes or None, predicted_bytes=int(predicted) if predicted else None,
               predicted_parts=dict(result.notes.get("predicted_parts", {})), phases=dict(result.seconds_by_phase))


def _device(snapshot: Snapshot) -> str:
    if any(session.get("gpus") for session in snapshot.sessions):
        return "GPU"
    return "CPU" if any("gpus" in session for session in snapshot.sessions) else "machine"


def _confirmed(snapshot: Snapshot) -> tuple[Repeat, ...]:
    """Return the repeats of the confirmation that a tuning plan's sweep has in its directory; none without one."""
    directory = confirm_directory(snapshot.directory)
    if not (directory / JOURNAL).is_file():
        return ()
    other = read_study(directory)
    if (other.info.metric, other.info.goal) != (snapshot.info.metric, snapshot.info.goal):
        return ()
    return find_repeats([(f"{record.trial.origin or record.trial.id} with seed {record.trial.params.get('seed')}",
                          record.trial.params, record.result.metric)
                         for record in other.records if record.result and record.result.metric is not None
                         and record.result.status is Status.COMPLETE])


def _varied(axes: Sequence[Axis], complete: Sequence[Row]) -> tuple[Axis, ...]:
    """Return the axes on which the complete trials differ."""
    return tuple(axis for axis in axes
                 if len({axis.position(row.params.get(axis.name)) for row in complete}) > 1)


def _shares(varied: Sequence[Axis], complete: Sequence[Row], seed: int) -> tuple[tuple[Share, ...], str]:
    count = len(complete)
    if count < MIN_TRIALS:
        trials = "1 complete trial is" if count == 1 else f"{count or 'no'} complete trials are"
        return (), f"{trials} too few to say which hyperparameter mattered; {MIN_TRIALS} are the least"
    if not varied:
        return (), "no hyperparameter differs between the complete trials, so none can matter"
    factors = [Factor(name=axis.name, ordered=axis.is_ordered, positions=tuple(
        -1.0 if (at := axis.position(row.params.get(axis.name))) is None else at for row in complete))
        for axis in varied]
    shares = importances(factors, [row.value for row in complete if row.value is not None], seed=seed)
    return shares, "" if shares else f"all {count} complete trials have the same value, so nothing can matter"


def _surrogate(varied: Sequence[Axis], complete: Sequence[Row], seed: int) -> Surrogate | None:
    """Fit the surrogate to at most `MOST_TRIALS` trials spread over the study; none if there is nothing to fit."""
    values = winsorised(np.array([row.value for row in complete])) if complete else np.empty(0)
    if len(values) < MIN_TRIALS or not varied or np.ptp(values) == 0:
        return None
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_TRIALS)).round().astype(int))
    points = np.array([_point(varied, complete[i].params) for i in chosen])
    return fit(points, values[chosen], seed=seed) if np.ptp(values[chosen]) > 0 else None


def _point(axes: Sequence[Axis], params: Mapping[str, Any]) -> list[float]:
    """Place a trial in the surrogate's space: one coordinate for each ordered axis, one for each unordered value."""
    point: list[float] = []
    for axis in axes:
        point.extend(_coordinates(axis, axis.position(params.get(axis.name))))
    return point


def _coordinates(axis: Axis, position: float | None) -> list[float]:
    if axis.is_ordered or len(axis.values) == 2:
        return [0.5 if position is None else position]
    chosen = None if position is None else int(position * len(axis.values))
    return [1.0 if i == chosen else 0.0 for i in range(len(axis.values))]


def _noise_of_surrogate(surrogate: Surrogate | None, count: int) -> Noise | None:
    if surrogate is None or count < TRIALS_FOR_NOISE:
        return None
    return Noise(deviation=surrogate.noise, freedom=None,
                 source=f"a Gaussian process fitted to {len(surrogate.points)} trials, no seed being repeated")


def _ties(complete: Sequence[Row], best: Row | None, noise: Noise | None, goal: str) -> tuple[str, ...]:
    if best is None or best.value is None or noise is None:
        return ()
    near = [(abs(row.value - best.value), row.number, row.id) for row in complete
            if row.value is not None and row.id != best.id
            and abs(row.value - best.value) <= noise.least_difference]
    return tuple(trial_id for _, _, trial_id in sorted(near))


def _contours(varied: Sequence[Axis], shares: Sequence[Share], surrogate: Surrogate | None,
              best: Row | None) -> tuple[Contour, ...]:
    """Return the maps of the most important hyperparameter against the second and the third."""
    if surrogate is None or best is None:
        return ()
    by_name = {axis.name: axis for axis in varied}
    order = [by_name[share.name] for share in shares]
    return tuple(_contour(varied, order[0], other, surrogate, best) for other in order[1:3])


def _contour(varied: Sequence[Axis], x: Axis, y: Axis, surrogate: Surrogate, best: Row) -> Contour:
    x_positions, y_positions = _grid(x), _grid(y)
    points = []
    for at_y in y_positions:
        for at_x in x_positions:
            point: list[float] = []
            for axis in varied:
                own = axis.position(best.params.get(axis.name))
                point.extend(_coordinates(axis, {x.name: at_x, y.name: at_y}.get(axis.name, own)))
            points.append(point)
    values = surrogate.predict(np.array(points)).reshape(len(y_positions), len(x_positions))
    return Contour(x=x, y=y, x_positions=x_positions, y_positions=y_positions,
                   values=tuple(tuple(float(value) for value in row) for row in values))


def _grid(axis: Axis) -> tuple[float, ...]:
    count = _GRID if axis.is_range else len(axis.values)
    if axis.is_range:
        return tuple(i / (count - 1) for i in range(count))
    return tuple((i + 0.5) / count for i in range(count))


def _progress(rows: Sequence[Row], goal: str) -> tuple[Progress, ...]:
    sign = -1.0 if goal == "maximize" else 1.0
    best: float | None = None
    hours, progress = 0.0, []
    for row in rows:
        hours += row.seconds / 3600
        if row.status == "complete" and row.value is not None and (best is None or sign * row.value < sign * best):
            best = row.value
        if best is not None and row.status != "running":
            progress.append(Progress(trial_id=row.id, number=row.number, hours=hours, best=best))
    return tuple(progress)


def _regions(varied: Sequence[Axis], complete: Sequence[Row], goal: str) -> tuple[Region, ...]:
    if len(complete) < MIN_TRIALS_FOR_REGION:
        return ()
    sign = -1.0 if goal == "maximize" else 1.0
    good = sorted(complete, key=lambda row: sign * (row.value or 0.0))[:max(3, len(complete) // 4)]
    regions = []
    for axis in varied:
        chosen = [row.params[axis.name] for row in good if axis.position(row.params.get(axis.name)) is not None]
        if axis.is_range and chosen:
            regions.append(Region(name=axis.name, count=len(chosen), low=min(chosen), high=max(chosen)))
        elif chosen:
            counts = [(sum(axis.position(value) == axis.position(known) for value in chosen), known)
                      for known in axis.values]
            regions.append(Region(name=axis.name, count=len(chosen), values=tuple(
                known for count, known in sorted(counts, key=lambda pair: -pair[0]) if count)))
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
