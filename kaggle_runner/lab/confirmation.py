"""The end of a tuning plan: a Bayesian sweep, and a contest of its best points against the baseline over seeds.

The best of many noisy trials looks better than it is. So the two best points of the sweep are trained again, with the
plan's seeds beside the baseline's, and the rule of every study decides between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.lab.decision import EXTRA_SEEDS, same
from kaggle_runner.lab.vary import as_yaml
from kaggle_runner.metrics import Metric
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.trial import Trial
from kaggle_runner.sweep.spec import SweepSpec

CONFIRMED = 2
"""Points of the sweep that meet the baseline again. Source: half of what a search leaves on the table is a wrong
winner, measured over synthetic and real surfaces; two or three points with seeds cost little and give an interval."""
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The baseline and the best points of a sweep, each with the same seeds."""

    name: str
    settings: Mapping[str, Mapping[str, Any]]
    """`baseline` and `trial 0007` with the whole config of each, seed left out."""
    seeds: tuple[int, ...]
    varied: tuple[str, ...]
    """The hyperparameters that the sweep searched."""
    judged_by: Metric
    """What the sweep goes by."""

    @property
    def values(self) -> tuple[Any, ...]:
        """The names of the settings, the baseline first."""
        return tuple(self.settings)

    @property
    def default(self) -> Any:
        """The baseline's name."""
        return BASELINE

    def value_of(self, trial: Trial) -> Any:
        """Return which setting a trial is of."""
        return next(name for name, params in self.settings.items()
                    if all(same(trial.params[key], params[key]) for key in self.varied))

    def first_trials(self) -> list[Trial]:
        """List every setting with every seed."""
        return self._trials([(name, seed) for seed in self.seeds for name in self.settings], 0)

    def further_trials(self, challenger: Any) -> list[Trial]:
        """List the two contenders with more seeds."""
        first = len(self.settings) * len(self.seeds)
        seeds = [max(self.seeds) + 1 + i for i in range(EXTRA_SEEDS)]
        return self._trials([(name, seed) for seed in seeds for name in (BASELINE, challenger)], first)

    def sweep(self) -> dict[str, Any]:
        """Return what the journal begins with."""
        base = self.settings[BASELINE]
        varied = {name: {"values": _distinct([params[name] for params in self.settings.values()])}
                  for name in self.varied}
        fixed = {name: {"value": value} for name, value in base.items() if name not in self.varied}
        return {"method": "grid", "metric": self.judged_by.as_dict(), "name": self.name,
                "parameters": {**varied, "seed": {"values": list(self.seeds)}, **fixed}}

    def as_yaml(self) -> str:
        """Return the settings, one after the other."""
        return f"seeds: {list(self.seeds)}\n" + "".join(
            f"{name.replace(' ', '_')}:\n{as_yaml(params, indent='  ')}" for name, params in self.settings.items())

    def _trials(self, points: list[tuple[str, int]], first: int) -> list[Trial]:
        return [Trial(id=f"{number:04d}", number=number, origin=name, params={**self.settings[name], "seed": seed})
                for number, (name, seed) in enumerate(points, start=first)]


def confirmation(snapshot: Snapshot, spec: SweepSpec, baseline: Mapping[str, Any],
                 seeds: tuple[int, ...]) -> Confirmation:
    """Put the best points of a finished sweep beside the baseline, alike in all that was not searched."""
    names = tuple(spec.searched)
    settings: dict[str, Mapping[str, Any]] = {BASELINE: dict(baseline)}
    for record in snapshot.as_swept.ranked:
        params = {**baseline, **{name: record.trial.params[name] for name in names}}
        known = any(all(same(params[name], other[name]) for name in names) for other in settings.values())
        if not known and len(settings) <= CONFIRMED:
            settings[f"trial {record.trial.id}"] = params
    return Confirmation(name=f"{spec.name} confirmed", settings=settings, seeds=seeds, varied=names,
                        judged_by=spec.judged_by)


def _distinct(values: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if not any(same(value, other) for other in kept):
            kept.append(value)
    return kept


