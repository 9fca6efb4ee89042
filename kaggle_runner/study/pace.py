"""Whether another trial still fits into this session, by what the finished ones took."""

import statistics
import time

from kaggle_runner.config import Config, config_from_params
from kaggle_runner.machine.deadline import Deadline, in_minutes
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import Status

SAFETY = 1.1
"""A trial is started if its forecast times this factor fits into the session."""


def forecast_s(config: Config, snapshot: Snapshot, *, steps_done: int = 0) -> float | None:
    """Forecast the seconds that a trial will take, from the complete trials of its study; none without any.

    The median of their seconds by training row and step, times what this trial has left of both. Trials that were
    answered from the journal, or run in more than one attempt, do not count: their seconds are not those of their
    steps.
    """
    rates = []
    for record in snapshot.records:
        result = record.result
        if (result is not None and result.status is Status.COMPLETE and result.steps and result.attempts == 1
                and not result.notes.get("repeat_of")):
            rows = config_from_params(record.trial.params).effective_batch_size * result.steps
            rates.append(result.seconds / rows)
    if not rates:
        return None
    return statistics.median(rates) * config.effective_batch_size * (config.max_steps - steps_done)


def seconds_of(snapshot: Snapshot) -> tuple[float, ...]:
    """Return what each trial took that ran in one go and was not answered from the journal."""
    return tuple(record.result.seconds for record in snapshot.records if record.result
                 and record.result.status in (Status.COMPLETE, Status.PRUNED) and record.result.attempts == 1
                 and not record.result.notes.get("repeat_of"))


def refusal(config: Config, snapshot: Snapshot, deadline: Deadline, *, steps_done: int = 0,
            now: float | None = None) -> str | None:
    """Say why a trial should not be started in this session; none if it may."""
    left = deadline.seconds_left(time.time() if now is None else now)
    if left <= 0:
        return f"the session is at its deadline ({deadline.reason})"
    forecast = forecast_s(config, snapshot, steps_done=steps_done)
    if forecast is not None and forecast * SAFETY > left:
        return (f"the next trial takes about {in_minutes(forecast)}, but the session has {in_minutes(left)} left "
                f"({deadline.reason})")
    return None
