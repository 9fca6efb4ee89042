"""What a sweep will need before anything is run: memory of its configurations, and time of its trials.

Only what decides memory is varied, a range by its two ends, so that a sweep of any size takes a few predictions.
"""

import contextlib
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kaggle_runner.config import FinetuneConfig, trainer_of
from kaggle_runner.errors import ConfigError
from kaggle_runner.machine.deadline import MARGIN_S, SAVING_S
from kaggle_runner.machine.gpu import in_gib
from kaggle_runner.memory.fit import Fit, MemoryLimit, fit_trial
from kaggle_runner.memory.predict import shape_of_trial
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.pace import forecast_s
from kaggle_runner.sweep.distributions import Choice, Range
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import Confirm, arrange
from kaggle_runner.wording import how_many

HOUR_S = 3600.0
SESSION_S = 12 * HOUR_S - SAVING_S - MARGIN_S
"""Seconds that trials have of a GPU session of 12 hours on Kaggle.

Source: Kaggle's documentation of notebooks, "Technical Specifications".
"""
WEEK_S = 30 * HOUR_S
"""Seconds of GPU time that Kaggle gives in a week, counted by session, however many GPUs it has. Source: the same,
"GPU quota"."""
MEMORY_PARAMETERS = ("model", "load_in_4bit", "max_length", "eval_max_length", "batch_size",
                     "gradient_accumulation_steps", "lora_r", "lora_dropout", "target_modules", "optim",
                     "gradient_checkpointing", "eval_steps", "max_steps")
"""The hyperparameters that memory depends on."""
DRAWN_TRIALS = 64
"""Number of trials that are drawn to learn how long one takes on average."""
FORWARD_SHARE = 0.5
"""Time of a row in an evaluation, of its time in training: without the backward pass, which takes as long at least.
Not measured; a study's own trials count instead where there are any."""


@dataclass(frozen=True, kw_only=True)
class PlannedConfiguration:
    """One configuration and what it needs."""

    settings: Mapping[str, Any]
    """Those of its hyperparameters in which the forecasts of a plan differ."""
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long trials take, all of them to their last step."""

    shortest_s: float
    mean_s: float
    longest_s: float
    reason: str
    """Where the seconds are known from."""
    session_s: float
    """Seconds that trials have in a session."""
    workers: int
    """Number of GPUs; each has trials of its own."""

    @property
    def session_trials(self) -> int:
        """Number of trials of average length that end in one session."""
        return int(self.session_s / self.mean_s) * self.workers

    @property
    def week_trials(self) -> int:
        """Trials of average length in a week's quota; what a session's end cuts short goes on in the next."""
        return int(WEEK_S / self.mean_s) * self.workers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep with its forecasts."""

    spec: SweepSpec
    limit: MemoryLimit
    forecasts: tuple[PlannedConfiguration, ...]
    """The configurations that differ in memory, the smallest peak first."""
    times: Times | None

    @property
    def fitting(self) -> int:
        """How many of the configurations fit."""
        return sum(forecast.fit.fits for forecast in self.forecasts)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, sizes in bytes."""
        return {
            "sweep": self.spec.name, "device": self.limit.device, "budget_bytes": self.limit.budget_bytes,
            "budget_reason": self.limit.reason, "fitting": self.fitting,
            "forecasts": [{"settings": dict(forecast.settings), "fits": forecast.fit.fits,
                           "reason": forecast.fit.reason, "without_checkpointing_bytes": forecast.fit.without_bytes,
                           **asdict(forecast.fit.prediction)} for forecast in self.forecasts],
            "times": None if self.times is None else asdict(self.times) | {
                "session_trials": self.times.session_trials, "week_s": WEEK_S, "week_trials": self.times.week_trials},
        }

    def as_lines(self, *, with_time: bool = True) -> list[tuple[str, str]]:
        """Return the plan as (label, text) lines for a person; without the time of trials where there are none."""
        config = self.forecasts[0].fit.config
        return [("sweep", f"{self.spec.name}: {config.model}{', 4-bit' if config.load_in_4bit else ''}"),
                ("device", f"{self.limit.device}, {in_gib(self.limit.budget_bytes)} a trial"),
                ("", self.limit.reason), *_forecast_lines(self.forecasts),
                *(_time_lines(self) if with_time else ()), *(_confirm_lines(self.spec) if with_time else ())]


def plan(spec: SweepSpec, limit: MemoryLimit, *, seconds_per_step: float | None = None,
         snapshot: Snapshot | None = None, session_s: float | None = None, workers: int = 1) -> Plan:
    """Forecast the memory of a sweep's configurations, and the time of its trials where something is known of it.

    `seconds_per_step` is what the user says of the smallest effective batch of the sweep; without it the complete
    trials of `snapshot` tell. `session_s` is what trials have of a session; none: of Kaggle's.

    Raises:
        ConfigError: a configuration that cannot work, or a sweep of another trainer.
        ModelError: the model is not known, or cannot be built or traced from its config.
        MissingPackages: something is not in the cache, and what a trace needs is not installed.
    """
    if trainer_of(spec.fixed) != FinetuneConfig.trainer:
        raise ConfigError(f"{spec.source} trains {trainer_of(spec.fixed)} models, which are small enough for any GPU; "
                          f"only fine-tunes are planned")
    points = list(_distinct(spec))
    names = [name for name in dict.fromkeys((*MEMORY_PARAMETERS, *spec.searched))
             if name in spec.searched and len({json.dumps(point[name], default=list) for point in points}) > 1]
    forecasts = [PlannedConfiguration(settings={name: point[name] for name in names}, fit=fit_trial(point, limit))
                 for point in points]
    return Plan(spec=spec, limit=limit,
                forecasts=tuple(sorted(forecasts, key=lambda forecast: forecast.fit.prediction.peak_bytes)),
                times=_times(spec, seconds_per_step, snapshot, session_s or SESSION_S, workers))


def _distinct(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    """Yield one point of the sweep for every prediction that is needed."""
    middle = {name: parameter.from_unit(0.5) for name, parameter in spec.parameters.items()}
    needed = set(MEMORY_PARAMETERS)
    for tied_name, tied in reversed(list(spec.tied.items())):  # each comes after those it is made of
        needed |= set(tied.names) if tied_name in needed else set()
    varied = [name for name in (*MEMORY_PARAMETERS, *sorted(needed - {*MEMORY_PARAMETERS})) if name in spec.searched]
    seen = set()
    for values in itertools.product(*(_ends(spec.searched[name]) for name in varied)):
        point = spec.with_tied(middle | dict(zip(varied, values, strict=True)))
        config = FinetuneConfig.from_params(point)
        key = json.dumps([config.model, shape_of_trial(config)], sort_keys=True, default=list)
        if key not in seen:
            seen.add(key)
            yield point


def _ends(parameter: Choice | Range) -> tuple[Any, ...]:
    """Return the values that memory must be known for: all of a list, both ends of a range."""
    if isinstance(parameter, Choice):
        return parameter.distinct
    rare = 0.0 if parameter.is_bounded else 0.001
    return (parameter.from_unit(rare), parameter.from_unit(1.0 - rare))


def _times(spec: SweepSpec, seconds_per_step: float | None, snapshot: Snapshot | None, session_s: float,
           workers: int) -> Times | None:
    configs = []
    for seed in range(DRAWN_TRIALS):
        with contextlib.suppress(ConfigError):  # a rare draw of a distribution without ends, whose trial fails at once
            configs.append(FinetuneConfig.from_params(spec.sample(seed)))
    if seconds_per_step is not None:
        rows = min(config.effective_batch_size for config in configs)
        seconds = [_seconds(config, seconds_per_step / rows) for config in configs]
        reason = f"{seconds_per_step:g} s a step of {rows} rows, as stated; evaluations estimated"
    else:
        forecasts = [forecast_s(config, snapshot) if snapshot is not None else None for config in configs]
        seconds = [forecast for forecast in forecasts if forecast is not None]
        reason = "from the complete trials of the study"
    if not seconds:
        return None
    return Times(shortest_s=min(seconds), mean_s=statistics.mean(seconds), longest_s=max(seconds), reason=reason,
                 session_s=session_s, workers=workers)


def _seconds(config: FinetuneConfig, seconds_per_row: float) -> float:
    evaluations = -(-config.max_steps // config.eval_steps)
    return seconds_per_row * (config.max_steps * config.effective_batch_size
                              + FORWARD_SHARE * evaluations * config.max_eval_samples)


def _forecast_lines(forecasts: tuple[PlannedConfiguration, ...]) -> Iterator[tuple[str, str]]:
    names = list(forecasts[0].settings)
    rows, made_of = [["peak", "fits", "checkpointing", *names]], []
    for forecast in forecasts:
        fit = forecast.fit
        parts = sorted(fit.prediction.parts.items(), key=lambda item: -item[1])
        made_of.append(f"{in_gib(fit.prediction.peak_bytes)}: " + ", ".join(
            f"{name} {in_gib(size).removesuffix(' GiB')}" for name, size in parts if size >= 5 * 2**20))
        rows.append([in_gib(fit.prediction.peak_bytes), "yes" if fit.fits else "no",
                     "on" if fit.config.gradient_checkpointing else "off", *map(str, forecast.settings.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield ("memory" if number == 0 else "", text)
    for number, text in enumerate(dict.fromkeys(made_of)):
        yield ("made of" if number == 0 else "", text)
    for reason in dict.fromkeys(forecast.fit.reason for forecast in forecasts if not forecast.fit.fits):
        yield ("too large", f"{reason}; such trials are not run, and recorded as infeasible")


def _time_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    times = plan.times
    if times is None:
        yield ("time", "unknown until a trial has finished; give --seconds-per-step, or --study with finished trials")
        return
    span = _hours(times.mean_s) if times.longest_s < 1.01 * times.shortest_s else (
        f"{_hours(times.shortest_s)} to {_hours(times.longest_s)}, {_hours(times.mean_s)} on average")
    yield ("time", f"{span} for a whole trial ({times.reason})")
    gpus = "" if times.workers == 1 else f" on {times.workers} GPUs"
    yield ("session", f"{_trials(times.session_trials)} in {_hours(times.session_s)}{gpus}")
    confirm, search = _arranged(plan.spec)
    known = [count for count in (search, plan.spec.count if plan.spec.method != "random" else None) if count]
    wanted = min(known) + confirm.runs if known else None
    sweep = "" if wanted is None else (f"; the sweep's {_trials(wanted)} take "
                                       f"{wanted * times.mean_s / times.workers / WEEK_S:.1f} weeks of it")
    yield ("quota", f"{_trials(times.week_trials)} in the {_hours(WEEK_S)} of a week{sweep}")


def _arranged(spec: SweepSpec) -> tuple[Confirm, int | None]:
    """Return how a sweep that runs here is confirmed, and how many trials its search has."""
    return arrange(method=spec.method, trials=spec.run_cap, in_file=spec.confirm, asked=None, points=spec.count)


def _confirm_lines(spec: SweepSpec) -> Iterator[tuple[str, str]]:
    """Say how the winner of a sweep that runs here is confirmed."""
    confirm, search = _arranged(spec)
    if not confirm.runs:
        return
    where = (f"on top of the {_trials(spec.run_cap)}" if spec.confirm and spec.run_cap else
             "on top of the sweep's trials" if spec.confirm else
             f"taken from the {spec.run_cap} trials, {search} are left for the search; --no-confirm leaves all")
    yield ("confirm", f"the best {confirm.top} once more with {how_many(confirm.seeds, 'further seed')} each, "
                      f"{confirm.runs} trainings {where}")


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR_S:.1f} h" if seconds >= HOUR_S else f"{seconds / 60:.1f} min"


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"
