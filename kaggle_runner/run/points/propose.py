"""Which point a sweep tries next: a function of the sweep, the seed, the trial's number and the trials before it.

So a study that was killed goes on as if it had not been.
Source: the design (current defaults, two points away from them, then a Gaussian process of our own) is measured against
Optuna's samplers, W&B's and random search by benchmarks/search.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kaggle_runner.run.points import optuna_samplers
from kaggle_runner.run.points.next_point import STARTS, Misfits, NextPoint, furthest, next_point, start_points
from kaggle_runner.run.points.observations import TAUGHT, Observation, Told, is_within, stable_seed
from kaggle_runner.run.points.space import SearchSpace, near
from kaggle_runner.sweep.distributions import token
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import Sampler

__all__ = ["Observation", "Proposal", "Told", "propose", "stable_seed", "warm_up"]

OWN_TRIALS = 200
"""Trials after which our process, cubic in their number, gives way to Optuna's TPE."""
REASKS = 4
START_DRAWS = 64
"""Draws of which the one that lies furthest from all trials is tried while none of them has a value."""
RANDOM_DRAWS = 1000
"""Draws after which a space is taken to have no untried point left."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A point to try and who proposed it."""

    params: Mapping[str, Any]
    origin: str
    expected: NextPoint | None = None
    """What the model expects of it; none where it was not asked."""


def propose(spec: SweepSpec, *, seed: int, number: int, past: Sequence[Observation],
            defaults: Mapping[str, Any], sampler: Sampler = "own",
            prior: Sequence[Observation] = (), is_given: bool = False) -> Proposal | None:
    """Choose the parameters of trial `number`; none when there is no untried point left.

    `random` draws as W&B does, repeats included. `bayes` never repeats a point: training is deterministic, so a second
    run of one configuration measures nothing. The best of `prior`, trials of other studies, is tried first, and after
    `defaults` where these are a configuration that somebody has given.
    """
    if spec.method == "grid":
        points, tried = spec.grid(), {token([o.params[name] for name in spec.searched]) for o in past}
        # a study that was taken over has tried some of them in another order
        left = (point for point in (*points[number:], *points[:number])
                if token([point[name] for name in spec.searched]) not in tried)
        return next((Proposal(params=point, origin="grid") for point in left), None)
    if spec.method == "random":
        return Proposal(params=spec.sample(stable_seed(seed, number)), origin="random")
    space = SearchSpace.of(spec)
    tried = {space.key(observation.params) for observation in past}
    if spec.count is not None and len(tried) >= spec.count:
        return None
    misfits = Misfits(space, past)
    candidates = _candidates(spec, space, seed, number, past, defaults, sampler, prior, is_given, misfits)
    chosen: Proposal | None = None
    for candidate in candidates:
        key = space.key(candidate.params)
        if key not in tried:
            if not misfits.has([key])[0]:
                chosen = candidate
                break
            chosen = chosen or candidate
    return chosen and replace(chosen, params=spec.with_tied(chosen.params))


def warm_up() -> None:
    """Import what the first question to the model would import, and run it once."""
    import numpy as np

    np.linalg.inv(np.linalg.cholesky(np.eye(4)))


def _candidates(spec: SweepSpec, space: SearchSpace, seed: int, number: int, past: Sequence[Observation],
                defaults: Mapping[str, Any], sampler: Sampler,
                prior: Sequence[Observation], is_given: bool, misfits: Misfits) -> Iterator[Proposal]:
    """Yield points to try, the best first."""
    wanted = {name: near(parameter, defaults.get(name)) for name, parameter in spec.searched.items()}
    usual = space.in_order({**space.fixed, **wanted})
    first = dict(past[0].params) if past and number else usual
    taught = [o for o in past if o.told in TAUGHT]
    values = [o for o in taught if o.told is Told.VALUE]
    is_misled = bool(prior) and misleads(prior, space, spec.goal, usual, values)
    home = tuple(space.places(usual if is_misled else first).values())
    best = _best(prior, spec.goal) if prior else None
    if best is not None and (number == is_given or (number > is_given and _leads(best, values, spec.goal))):
        yield Proposal(params=space.in_order({**space.fixed, **best.params}), origin="prior")
    if number == 0 or not space.axes or (number == 1 and prior and not is_given):
        yield Proposal(params=usual, origin="given" if is_given and number == 0 else "defaults")
    knows = len(prior) >= STARTS and bool(values)
    started = len(taught) + sum(o.told is Told.RUNNING for o in past)
    if number == 0 or not space.axes:
        pass
    elif not knows and (started < STARTS or not values or len(taught) < 2):
        if number < STARTS:
            points = start_points(space, home, stable_seed(seed, "start", 0), STARTS - 1)
            places = dict(zip(space.axes, map(float, points[number - 1]), strict=True))
            yield Proposal(params=space.params(places), origin="start")
        # the first failed or are still running: away from all of them
        drawn = [spec.sample(stable_seed(seed, number, "start", draw)) for draw in range(START_DRAWS)]
        yield Proposal(params=furthest(space, drawn, past, home, misfits), origin="start")
    elif sampler != "own" or number >= OWN_TRIALS:
        is_gp = sampler == "optuna-gp" and optuna_samplers.has_gaussian_process()
        name: optuna_samplers.Name = "optuna-gp" if is_gp else "optuna-tpe"
        known = [*past, *(o for o in prior if is_within(o))]  # these samplers know of one surface and no outside
        answers = optuna_samplers.answers(name, space, known, spec.goal, seed=stable_seed(seed, number))
        for _, found in zip(range(REASKS), answers, strict=False):
            yield Proposal(params=space.params(found), origin=name.removeprefix("optuna-"))
    else:
        point = next_point(space, past, spec.goal, stable_seed(seed, number), home=home, prior=prior, misfits=misfits)
        if point is not None:
            yield Proposal(params=space.params(dict(zip(space.axes, point.places, strict=True))), origin="model",
                           expected=point)
    for draw in range(RANDOM_DRAWS):
        yield Proposal(params=spec.sample(stable_seed(seed, number, draw)), origin="random")


def _best(prior: Sequence[Observation], goal: str) -> Observation:
    sign = -1.0 if goal == "maximize" else 1.0
    return min(prior, key=lambda o: (o.surface, not o.is_winner, sign * (o.value or 0.0)))


def _leads(best: Observation, values: Sequence[Observation], goal: str) -> bool:
    """Say whether the best that is known of this very surface beats all that was tried: a study that was taken over
    has trials of its own, and its best may lie outside of the new ranges."""
    sign = -1.0 if goal == "maximize" else 1.0
    return not best.surface and all(sign * (best.value or 0.0) < sign * (o.value or 0.0) for o in values)


def misleads(prior: Sequence[Observation], space: SearchSpace, goal: str, usual: Mapping[str, Any],
             values: Sequence[Observation]) -> bool:
    """Say whether the best of other studies came out worse than the default: then the best are expected near that.

    Source: benchmarks/search_prior.py, 20 seeds: a study that misleads costs .014 +- .010 at 10 trials, else .035.
    """
    sign = -1.0 if goal == "maximize" else 1.0
    found = {space.key(o.params): sign * (o.value or 0.0) for o in values}
    first, default = space.key(_best(prior, goal).params), space.key(usual)
    return first in found and default in found and found[first] > found[default]
