"""Rungs: trials that will not win, by what the finished ones did from here on, end there.

Always under the full-length schedule: a trial that is let on is the same as one that was never judged. Trials share
rows, seeds and schedule, so a trial's loss is compared with the best trial's at the same step, and with how the other
finished trials gained on it from there. A sweep's own `early_terminate` judges as W&B does: the best 1/eta go on.
Source: benchmarks/pruning.py, where this keeps the best trial in more orders than the best third did, at the same cost.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from kaggle_runner.config import Config
from kaggle_runner.metrics import Metric
from kaggle_runner.study.axes import Axis, read_axes
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.sweep.spec import SweepSpec

SHARES = (0.1, 0.3, 0.6)
"""Shares of the steps at which trials are judged."""
LEAST_CURVES = 3
"""Complete trials that a trial is compared with; before that there is no telling, and all go on."""
DOUBT = 0.25
"""Deviations of what the others gained on the best that a trial is given on top of their mean."""
NEIGHBOURS = 3
"""Number of complete trials that a pruned one is compared with."""
LEAST_STEPS = 5
"""A rung below this says nothing: the learning rate has hardly acted."""


Score = tuple[float, float | None]
"""A value of the metric, and the loss that breaks its ties."""
Curve = tuple[float, float]
"""A complete trial's value at a step, and at its end."""


@dataclass(frozen=True, kw_only=True)
class RungGate:
    """Where trials are judged, and how many go on."""

    steps: tuple[int, ...]
    """Optimizer steps, ascending; empty if nothing is judged."""
    eta: float | None
    """One trial in this many goes on; none compares curves."""
    metric: Metric


def rung_gate(spec: SweepSpec, config: Config) -> RungGate:
    """Place the rungs of a trial: by the sweep's own `early_terminate`, else at 10, 30 and 60 % of its steps.

    W&B's bands count evaluations; a rung of ours lies after the warm-up.
    """
    if spec.early_terminate is not None:
        evaluations = math.ceil(config.max_steps / config.eval_steps)
        bands = spec.early_terminate.bands(evaluations - 1)
        return RungGate(steps=tuple(band * config.eval_steps for band in bands), eta=spec.early_terminate.eta,
                        metric=spec.judged_by)
    wanted = [math.ceil(share * config.max_steps) for share in SHARES]
    steps = tuple(step for step in wanted if step >= LEAST_STEPS and step > config.warmup_steps)
    # The last one alone comes too late: it costs an evaluation, and little is left to save.
    return RungGate(steps=steps if len(steps) > 1 else (), eta=None, metric=spec.judged_by)


def why_it_ends(gate: RungGate, trial_id: str, step: int, score: Score, snapshot: Snapshot) -> str | None:
    """Say why a trial ends at a rung, by what the others of its study measured; none if it goes on."""
    if gate.eta is None:
        on = may_win(score[0], curves_at(snapshot, step, without=trial_id), gate.metric)
        return None if on else f"behind the best trial at step {step} by more than the others made up from there on"
    on = stays(gate.metric, gate.eta, score, scores_at(snapshot, step, without=trial_id))
    return None if on else f"not in the best 1/{gate.eta:g} at step {step}, as early_terminate asks"


def may_win(value: float, curves: Sequence[Curve], metric: Metric) -> bool:
    """Say whether a trial with this value would reach the best one if it gained on it as the others did, or some more.

    Only what they gained counts, not what they lost. `curves` are those of complete trials.
    """
    if len(curves) < LEAST_CURVES:
        return True
    best = min(range(len(curves)), key=lambda number: metric.sign * curves[number][1])
    here, final = curves[best]
    gained = [metric.sign * ((at - here) - (end - final)) for number, (at, end) in enumerate(curves) if number != best]
    hoped = max(statistics.fmean(gained), 0.0) + DOUBT * statistics.pstdev(gained)
    return metric.sign * (value - here) <= hoped


def curves_at(snapshot: Snapshot, step: int, *, without: str) -> list[Curve]:
    """Return what the other complete trials of a study measured at a step, and what they came to."""
    return [(value, record.result.metric) for record in snapshot.comparable.records
            if record.result is not None and record.trial.id != without and record.result.metric is not None
            and record.result.status is Status.COMPLETE
            for at, value in record.result.evaluations if at == step]


def stays(metric: Metric, eta: float, score: Score, others: Sequence[Score]) -> bool:
    """Say whether a trial with this value and loss goes on at a rung: it is in the best 1/eta, rounded up, so far.

    With fewer than eta values there is nothing to be better than: it goes on. Rounded up, because few trials rank
    badly. Source: benchmarks/pruning.py, three times 20 configurations in 300 orders: the best one went on in 89 % of
    the orders at 40 % of the steps, rounded down in 63 % at 33 %.
    """
    count = len(others) + 1
    if count < eta:
        return True
    better = sum(metric.rank(*other) < metric.rank(*score) for other in others)
    return better < math.ceil(count / eta)


def scores_at(snapshot: Snapshot, step: int, *, without: str) -> list[Score]:
    """Return what the other trials of a study measured at a step."""
    return [(value, loss) for record in snapshot.comparable.records
            if record.result is not None and record.trial.id != without
            for (at, value), loss in zip(record.result.evaluations, record.result.losses or repeat(None), strict=False)
            if at == step]


def extrapolated(result: TrialResult, snapshot: Snapshot) -> float | None:
    """Guess the final value of a pruned trial: its last one, and the median of what complete trials like it gained.

    For the sampler only, which else would learn nothing from a pruned trial; never recorded as a loss. Like it are the
    `NEIGHBOURS` nearest ones: a low learning rate gains longer than a high one, and with the same gain for both the
    search would drift to what is good early.
    Source: facts measured at equal cost, where a guess was better than leaving pruned trials out, or than no pruning.
    """
    if not result.evaluations:
        return result.metric
    step, value = result.evaluations[-1]
    axes = read_axes(snapshot)
    places = {record.trial.id: _place(record.trial.params, axes) for record in snapshot.comparable.records}
    here = places.get(result.id, ())
    gains = [(math.dist(here, places[record.trial.id]) if here else 0.0, record.trial.id, record.result.metric - at)
             for record in snapshot.comparable.records
             if record.result is not None and record.result.status is Status.COMPLETE
             and record.result.metric is not None
             for when, at in record.result.evaluations if when == step]
    nearest = sorted(gains)[:NEIGHBOURS] if here else gains
    return value + statistics.median(gain for _, _, gain in nearest) if nearest else value


def _place(params: Mapping[str, Any], axes: Sequence[Axis]) -> tuple[float, ...]:
    """Return where a trial lies on every axis, in the middle of those it is not on.

    Values without an order are the length of an axis apart: each has a direction of its own.
    """
    place: list[float] = []
    for axis in axes:
        value = params.get(axis.name)
        if axis.is_ordered:
            position = axis.position(value)
            place.append(0.5 if position is None else position)
        else:
            place += [math.sqrt(0.5) * (value == known) for known in axis.values]
    return tuple(place)
