"""Optuna's own samplers, for long sweeps and for whoever asks for them by name.

They are asked through a study in memory that is made anew for each question, from the record and with a seed of its
own. So a sampler carries nothing from one trial to the next, and what it is told of a trial without a loss never meets
the losses that were measured.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.space import SearchAxis, SearchSpace

Name = Literal["optuna-gp", "optuna-tpe"]

STARTUP_TRIALS = 4
"""Trials with a value before these samplers use a model of the loss."""


def has_gaussian_process() -> bool:
    """Say whether the packages of Optuna's GP sampler are installed, without importing them."""
    return all(importlib.util.find_spec(package) is not None for package in ("torch", "scipy"))


def answers(name: Name, space: SearchSpace, past: Sequence[Observation], goal: str, *,
            seed: int) -> Iterator[Mapping[str, float]]:
    """Ask a sampler again and again; its earlier answers count as running, so the next one lies elsewhere."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of each study made, and of a package it misses
    sampler: optuna.samplers.BaseSampler
    if name == "optuna-gp":
        sampler = optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed, deterministic_objective=False)
    else:
        sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
    distributions = {name: distribution(axis) for name, axis in space.axes.items()}
    study = optuna.create_study(direction="maximize" if goal == "maximize" else "minimize", sampler=sampler)
    study.add_trials(_lessons(space, distributions, past, goal))
    while True:
        yield study.ask(distributions).params


def distribution(axis: SearchAxis) -> BaseDistribution:
    """Return an axis as Optuna searches it."""
    if not axis.levels:
        return FloatDistribution(axis.margin, 1.0 - axis.margin)
    if axis.is_ordered:
        return IntDistribution(0, len(axis.levels) - 1)
    return CategoricalDistribution(range(len(axis.levels)))


def _lessons(space: SearchSpace, distributions: dict[str, BaseDistribution], past: Sequence[Observation],
             goal: str) -> list[FrozenTrial]:
    """Turn the record into what Optuna's samplers learn from: they read only trials that are complete or running.

    Source: measured with memory limits: of 15 trials 8.8 ran out of memory when such trials were told as failed, 2.2
    when told as the worst value with a constraint.
    """
    values = [o.value for o in past if o.told is Told.VALUE and o.value is not None]
    worst = (max if goal == "minimize" else min)(values, default=0.0)
    # The GP sampler wants the constraint on all trials or on none, and on none it is twice as fast.
    limited = any(o.told is Told.INFEASIBLE for o in past)
    trials = []
    for observation in past:
        if observation.told is Told.NOTHING:
            continue
        running = observation.told is Told.RUNNING
        value = None if running else observation.value if observation.told is Told.VALUE else worst
        fits = {"fits": 1.0 if observation.told is Told.INFEASIBLE else -1.0} if limited and not running else None
        trials.append(create_trial(state=TrialState.RUNNING if running else TrialState.COMPLETE, value=value,
                                   params=space.places(observation.params), distributions=distributions,
                                   constraints=fits))
    return trials
