"""What the metrics beside the study's own say of its winner: the same trial, or another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kaggle_runner.metrics import GOALS, LOSS, Goal, Metric, format_metric, metric_writer
from kaggle_runner.report.style import count_text, names_text
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import Status

MOST_NAMED = 3
"""Trials that are named where several share the best value of a metric; of more their number is told."""


@dataclass(frozen=True, kw_only=True)
class OtherMetric:
    """A metric that the study was not judged by, where its trials were."""

    name: str
    winner: float
    """What the study's winner has, where its own metric was best."""
    best: float
    best_ids: tuple[str, ...]
    """The complete trials that have the best value."""
    base: float | None

    @property
    def short(self) -> str:
        """Its name without the part that all share."""
        return self.name.removeprefix("eval/")


def other_metrics(snapshot: Snapshot, winner: str | None) -> tuple[OtherMetric, ...]:
    """Return what was measured beside the study's metric, of the winner and of who is best by it."""
    complete = {record.trial.id: record.result.metrics for record in snapshot.records
                if record.result and record.result.status is Status.COMPLETE and record.result.metrics}
    found = []
    for name in GOALS:
        values = {trial: metrics[name] for trial, metrics in complete.items() if name in metrics}
        if winner not in values or name == snapshot.info.metric:
            continue
        best = Metric(name=name, goal=GOALS[name]).best(values.values())
        assert best is not None
        found.append(OtherMetric(name=name, winner=values[winner], best=best, base=snapshot.base_scores.get(name),
                                 best_ids=tuple(trial for trial, value in values.items() if value == best)))
    return tuple(found)


def agreement(metric: str, winner: str, others: Sequence[OtherMetric]) -> str:
    """Say whether the other metrics have the same winner; empty where nothing else was measured."""
    against = [other for other in others if winner not in other.best_ids]
    if not others:
        return ""
    if not against:
        names = ", ".join(other.short for other in others)
        return f"The other metrics ({names}) agree: no trial is better than trial {winner} by any of them."
    parts = [f"by {other.short} {_who(other.best_ids)} best ({write(other.best)}, trial {winner} has "
             f"{write(other.winner)})" for other in against
             for write in [metric_writer(other.name, (other.best, other.winner))]]
    agree = [other.short for other in others if other not in against]
    rest = f"; {', '.join(agree)} agree{'s' if len(agree) == 1 else ''} with {metric}" if agree else ""
    return f"The metrics do not agree on the winner: {', '.join(parts)}{rest}."


def by_loss(name: str, goal: Goal, losses: Mapping[str, float | None]) -> str:
    """Say which of the trials with the best value of a metric, the first one first, the loss has put before the others.

    Empty where it has not, and of metrics whose ties stay.
    """
    first = next(iter(losses), "")
    loss, behind = losses.get(first), sum(other != losses[first] for other in losses.values())
    if loss is None or not behind or not Metric(name=name, goal=goal).has_ties:
        return ""
    return (f" By its loss, {format_metric(LOSS, loss)}, trial {first} goes before {count_text(behind, 'other')} with "
            f"that value.")


def _who(ids: Sequence[str]) -> str:
    if len(ids) == 1:
        return f"trial {ids[0]} is"
    return f"trials {names_text(ids)} are" if len(ids) <= MOST_NAMED else f"{len(ids)} trials are"
