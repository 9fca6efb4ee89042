"""Measure what other studies are worth to a search: one that trained alike, a related one, and two that mislead.

    OMP_NUM_THREADS=1 python benchmarks/search_prior.py [--seeds 10]

On the problems of benchmarks/search.py, each with an earlier study of ten trials: of the same surface; of the same
surface in other units, as another data set has it; of that with the learning rates two fifths of their range lower
(higher for odd seeds), as another model has it; or of its mirror image, where the best is the worst. And of the same
surface, where the new ranges are the half around its best: with its trials, those outside of them too, and
without. Prints the regret at 3, 5, 10 and 15 trials, over the seeds, and how much more that is
than without.
"""

import argparse
import math
import random
import statistics
from dataclasses import replace

from search import scale_of
from search_problems import Problem, measured, problems

from kaggle_runner.run.points.propose import Observation, Told, propose
from kaggle_runner.run.points.space import SearchSpace, near
from kaggle_runner.sweep.distributions import Parameter, Range

MARKS = (3, 5, 10, 15)
KINDS = ("none", "same", "related", "elsewhere", "misleading", "narrowed", "narrowed, none")
ELSEWHERE = 0.4
EARLIER = 10


def main() -> None:
    """Run every kind of earlier study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    alone: list[list[float]] = []
    for kind in KINDS:
        rows = [[statistics.fmean(values) for values in zip(*(
            regrets(*problem_of(problem, seed, kind), seed) for problem in problems()), strict=True)]
            for seed in range(asked.seeds)]
        alone = alone or rows
        more = [[value - other for value, other in zip(*both, strict=True)] for both in zip(rows, alone, strict=True)]
        costs = "" if kind.startswith("n") else f"   more than none {cells_of(more)}"
        print(f"prior | {asked.seeds} seeds, regret at 3/5/10/15 | {kind:14} {cells_of(rows)}{costs}", flush=True)


def cells_of(rows: list[list[float]]) -> str:
    """Return the mean of each column with its standard error."""
    return "  ".join(f"{statistics.fmean(at):.3f}+-{statistics.stdev(at) / math.sqrt(len(at)):.3f}"
                     for at in zip(*rows, strict=True))


def problem_of(problem: Problem, seed: int, kind: str) -> tuple[Problem, list[Observation]]:
    """Return a problem in the ranges of the new study, and what is known of it."""
    if not kind.startswith("narrowed"):
        return problem, earlier(problem, seed, kind)
    known = earlier(problem, seed, "same")
    best = min(known, key=lambda one: one.value).params
    narrow = replace(problem, parameters={name: _around(parameter, best[name])
                                          for name, parameter in problem.parameters.items()})
    return narrow, [] if kind.endswith("none") else [replace(
        one, params={name: near(parameter, one.params[name]) for name, parameter in narrow.parameters.items()},
        at=None if all(parameter.contains(one.params[name]) for name, parameter in narrow.parameters.items())
        else one.params) for one in known]


def _around(parameter: Parameter, value: float) -> Parameter:
    """Return the half of a continuous range around a value; a list as it is."""
    if not isinstance(parameter, Range) or parameter.count is not None:
        return parameter
    low = min(max(parameter.to_unit(value) - 0.25, 0.0), 0.5)
    return replace(parameter, low=parameter.from_unit(low), high=parameter.from_unit(low + 0.5))


def earlier(problem: Problem, seed: int, kind: str) -> list[Observation]:
    """Return the trials of an earlier study."""
    if kind == "none":
        return []
    noise, past = random.Random(seed + 999), []
    for number in range(EARLIER):
        params = propose(problem.spec, seed=seed + 500, number=number, past=past, defaults=problem.defaults).params
        units = {name: parameter.to_unit(params[name]) for name, parameter in problem.parameters.items()}
        if kind == "misleading":
            units = {name: 1 - unit for name, unit in units.items()}
        elif kind == "elsewhere":
            units |= {name: min(1.0, max(0.0, units[name] + ELSEWHERE * (-1) ** seed))
                      for name, axis in SearchSpace.of(problem.spec).axes.items() if axis.is_rate}
        judged = {name: parameter.from_unit(units[name]) for name, parameter in problem.parameters.items()}
        past.append(Observation(params=params, told=Told.VALUE, value=measured(
            problem, judged if kind in ("misleading", "elsewhere") else params, noise)))
    if kind == "same":
        return past
    return [Observation(params=one.params, told=Told.VALUE, value=1.4 * one.value + 1.7, surface=1) for one in past]


def regrets(problem: Problem, prior: list[Observation], seed: int) -> list[float]:
    """Return the regret of the chosen trial at each mark."""
    least, middling = scale_of(problem.name)
    noise, past, seen = random.Random(seed), [], []
    for number in range(MARKS[-1]):
        proposal = propose(problem.spec, seed=seed, number=number, past=past, defaults=problem.defaults, prior=prior)
        if proposal is not None:
            value = measured(problem, proposal.params, noise)
            past.append(Observation(params=proposal.params, told=Told.VALUE, value=value))
            seen.append((value, problem.loss(proposal.params)))
    return [(min(seen[:mark])[1] - least) / (middling - least) for mark in MARKS]


if __name__ == "__main__":
    main()
