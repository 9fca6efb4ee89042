"""Learning curves of a study's trials, read from their histories and thinned to what a picture can show."""

from collections.abc import Sequence
from dataclasses import dataclass

from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import Status, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one trial measured over its optimizer steps."""

    trial_id: str
    number: int
    status: str
    """A value of `Status`, or one of `OPEN`."""
    steps: tuple[int, ...]
    """Steps at which the study's metric was measured, ascending."""
    values: tuple[float, ...]
    """The metric at `steps`."""
    tokens: tuple[int | None, ...] = ()
    """Training tokens seen at `steps`; none where the history does not say."""
    train_steps: tuple[int, ...] = ()
    train_values: tuple[float, ...] = ()
    """The training loss at `train_steps`; mean of a stretch of steps where it was thinned."""

    def at(self, step: int) -> float | None:
        """Return the last value measured at or before a step, none if there is none."""
        return next((value for at, value in zip(reversed(self.steps), reversed(self.values), strict=True)
                     if at <= step), None)


def read_curve(snapshot: Snapshot, record: TrialRecord, *, points: int = 200) -> Curve:
    """Read one trial's metric and training loss; at most about `points` of each, the best and the last among them.

    The history wins over the result's evaluations: only it has the trial that still runs.
    """
    metric, rows = snapshot.info.metric, snapshot.history(record.trial.id)
    measured = {int(row["step"]): (float(row[metric]), row.get("tokens"))
                for row in rows if row.get("step") is not None and row.get(metric) is not None}
    if not measured and record.result:
        measured = {step: (value, None) for step, value in record.result.evaluations}
    steps = sorted(measured)
    best = _best_position([measured[step][0] for step in steps], snapshot.info.goal)
    kept = [steps[i] for i in thinned(len(steps), points, keep=best)]
    train = sorted((int(row["step"]), float(row["train/loss"]))
                   for row in rows if row.get("step") is not None and row.get("train/loss") is not None)
    train_steps, train_values = _stretch_means(train, points)
    return Curve(
        trial_id=record.trial.id, number=record.trial.number, status=record.status_word,
        steps=tuple(kept), values=tuple(measured[step][0] for step in kept),
        tokens=tuple(measured[step][1] for step in kept), train_steps=train_steps, train_values=train_values)


def read_curves(snapshot: Snapshot, *, total_points: int = 16_000) -> tuple[Curve, ...]:
    """Read the curves of all trials, thinned so that together they hold about `total_points` of the metric."""
    each = max(8, min(200, total_points // max(1, len(snapshot.records))))
    return tuple(read_curve(snapshot, record, points=each) for record in snapshot.records)


def thinned(count: int, points: int, *, keep: int | None = None) -> list[int]:
    """Return at most `points` positions of `count`, evenly spread, the first and last and `keep` among them."""
    if count <= points:
        return list(range(count))
    positions = {round(i * (count - 1) / (points - 1)) for i in range(points)}
    return sorted(positions | ({keep} if keep is not None else set()))


def rung_steps(records: Sequence[TrialRecord], *, most: int = 8) -> tuple[int, ...]:
    """Return the steps at which trials were pruned, ascending; only the `most` frequent ones."""
    counts: dict[int, int] = {}
    for record in records:
        if record.result and record.result.status is Status.PRUNED:
            step = int(record.result.notes.get("pruned_at_step") or record.result.steps)
            counts[step] = counts.get(step, 0) + 1
    return tuple(sorted(sorted(counts, key=lambda step: (-counts[step], step))[:most]))


def _best_position(values: Sequence[float], goal: str) -> int | None:
    if not values:
        return None
    choose = max if goal == "maximize" else min
    return values.index(choose(values))


def _stretch_means(points: Sequence[tuple[int, float]], stretches: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Average a noisy series over equal stretches; each mean stands at the last step of its stretch."""
    size = max(1, -(-len(points) // stretches))
    chunks = [points[start:start + size] for start in range(0, len(points), size)]
    return (tuple(chunk[-1][0] for chunk in chunks),
            tuple(sum(value for _, value in chunk) / len(chunk) for chunk in chunks))
