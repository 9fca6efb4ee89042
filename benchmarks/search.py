"""Measure how near a search gets to the best setting in 5, 10 and 15 trials, against the engines one could install.

    OMP_NUM_THREADS=1 python benchmarks/search.py [--seeds 20] [--engines ours,random] [--workers 1] [--out runs.json]
    OMP_NUM_THREADS=1 python benchmarks/search.py --marks 60,100,150,200 --engines ours,tpe-from-60,tpe-from-100

Regret is 0 at the best setting and 1 at a middling random one; the winner is chosen by its noisy loss, as a user must,
and judged by its true one. Engines: ours; `0.2.0`, ours before (default, three Sobol points, Optuna's GP); Optuna's GP
and TPE as they come and with the default first and fewer random points; W&B's own engine where PyPI's `sweeps` is
installed; random; `tpe-from-60`, ours for 60 trials and then Optuna's TPE. The same noise for every engine. Prints a
table and lines for RESULTS.md.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from search_problems import Problem, measured, problems

from kaggle_runner.run.points import optuna_samplers
from kaggle_runner.run.points.propose import Observation, Told, propose, stable_seed
from kaggle_runner.run.points.space import SearchSpace, near

MARKS = (5, 10, 15)
"""Trials after which the winner is judged, unless others are asked for."""
Ask = Iterator[Mapping[str, Any]]
"""A generator of points that is sent each one's loss."""


def main() -> None:
    """Run every engine on every problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--workers", type=int, default=1, help="trials that run at the same time; ours only")
    parser.add_argument("--marks", type=lambda text: tuple(map(int, text.split(","))), default=MARKS)
    parser.add_argument("--problems", help="names, divided by commas [all]")
    parser.add_argument("--out", type=Path, help="write every regret as JSON")
    parser.add_argument("--into", type=Path, nargs="*", default=[], help="add the regrets of earlier --out files")
    asked = parser.parse_args()
    kept: dict[str, dict[str, list[list[float]]]] = {}
    for path in asked.into:
        for engine, by_problem in json.loads(path.read_text()).items():
            kept.setdefault(engine, {}).update(by_problem)
    seconds = {}
    chosen = [p for p in problems() if not asked.problems or p.name in asked.problems.split(",")]
    for engine in [name for name in asked.engines.split(",") if name]:
        if engine == "wandb" and not importlib.util.find_spec("sweeps"):
            print("wandb: PyPI's sweeps is not installed, left out")
            continue
        started, trials = time.process_time(), 0
        kept.setdefault(engine, {})
        for problem in chosen:
            kept[engine][problem.name] = [regrets(problem, engine, seed, asked.workers, asked.marks)
                                          for seed in range(asked.seeds)]
            trials += asked.seeds * asked.marks[-1]
        seconds[engine] = (time.process_time() - started) / trials
        print(row(engine, kept[engine]), f"{seconds[engine] * 1000:7.1f} ms CPU an ask", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(kept))
    report(kept, asked.marks)


def report(kept: Mapping[str, Mapping[str, list[list[float]]]], marks: tuple[int, ...]) -> None:
    """Print each problem's and the mean regret at every mark."""
    for engine, by_problem in kept.items():
        for name, runs in by_problem.items():
            print(f"{engine:22} {name:26} " + "  ".join(
                f"{statistics.fmean(run[at] for run in runs):6.3f}" for at in range(len(marks))))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    for engine, by_problem in kept.items():
        seeds = len(next(iter(by_problem.values())))
        print(f"search | {machine} | {len(by_problem)} problems, {seeds} seeds, regret at "
              f"{'/'.join(map(str, marks))}: {row(engine, by_problem)}")


def row(engine: str, by_problem: Mapping[str, list[list[float]]]) -> str:
    """Return the mean regrets of an engine with their standard errors, over the seeds."""
    cells = []
    for at in range(len(next(iter(by_problem.values()))[0])):
        seeds = zip(*([run[at] for run in runs] for runs in by_problem.values()), strict=True)
        means = [statistics.fmean(values) for values in seeds]
        cells.append(f"{statistics.fmean(means):.3f}+-{statistics.stdev(means) / math.sqrt(len(means)):.3f}")
    return f"{engine:22} " + "  ".join(cells)


def regrets(problem: Problem, engine: str, seed: int, workers: int = 1,
            marks: tuple[int, ...] = MARKS) -> list[float]:
    """Return the regret of the chosen trial at each mark."""
    least, middling = scale_of(problem.name)
    noise, seen, found = random.Random(seed), [], []
    generator = ENGINES[engine](problem, seed) if workers == 1 else ours(problem, seed, workers)
    params = next(generator)
    for number in range(1, marks[-1] + 1):
        value = measured(problem, params, noise)
        seen.append((value, problem.loss(params)))
        if number in marks:
            found.append((min(seen)[1] - least) / (middling - least))
        if number < marks[-1]:
            try:
                params = generator.send(value)
            except StopIteration:  # every point was tried
                return found + [(min(seen)[1] - least) / (middling - least)] * (len(marks) - len(found))
    return found


@functools.cache
def scale_of(name: str) -> tuple[float, float]:
    """Return the losses of regret 0 and 1, found once for each problem."""
    return next(problem for problem in problems() if problem.name == name).scale()


def ours(problem: Problem, seed: int, workers: int = 1, own_trials: int | None = None) -> Ask:
    """The package's search, all of it or its first trials; with several workers the oldest running trial ends first."""
    spec, past, running = problem.spec, [], []
    number = 0
    while True:
        while len(running) < workers:
            told = [*past, *(Observation(params=params, told=Told.RUNNING) for params in running)]
            proposal = propose(spec, seed=seed, number=number, past=told, defaults=problem.defaults,
                               sampler="own" if own_trials is None or number < own_trials else "optuna-tpe")
            if proposal is None:
                break
            running.append(proposal.params)
            number += 1
        if not running:
            return
        value = yield running[0]
        past.append(Observation(params=running.pop(0), told=Told.VALUE, value=value))


def chance(problem: Problem, seed: int) -> Ask:
    """Random search."""
    for number in range(1000):
        yield problem.spec.sample(stable_seed(seed, number))


def optuna_engine(sampler: Callable[[int], optuna.samplers.BaseSampler], first: bool, sobol: int = 0
                  ) -> Callable[[Problem, int], Ask]:
    """Return Optuna's search in the same space, values in their order."""

    def ask(problem: Problem, seed: int) -> Ask:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        spec = problem.spec
        space = SearchSpace.of(spec)
        distributions = {name: optuna_samplers.distribution(axis) for name, axis in space.axes.items()}
        study = optuna.create_study(sampler=sampler(seed))
        wanted = {name: near(parameter, problem.defaults.get(name)) for name, parameter in spec.searched.items()}
        if first:
            study.enqueue_trial(space.places(wanted))
        if sobol:
            from scipy.stats import qmc

            for point in qmc.Sobol(len(space.axes), scramble=True, seed=seed).random(4)[:sobol]:
                params = {name: spec.searched[name].from_unit(float(u))
                          for name, u in zip(space.axes, point, strict=True)}
                study.enqueue_trial(space.places(params))
        while True:
            trial = study.ask(distributions)
            value = yield space.params(trial.params)
            study.tell(trial, value)

    return ask


def wandb_engine(problem: Problem, seed: int) -> Ask:
    """W&B's own engine, as PyPI's `sweeps` has it."""
    import numpy as np
    import sweeps

    parameters: dict[str, Any] = {}
    for name, parameter in problem.parameters.items():
        if hasattr(parameter, "values"):
            parameters[name] = {"values": list(parameter.values)}
        else:
            parameters[name] = {"distribution": parameter.distribution, "min": parameter.low, "max": parameter.high}
    config = {"method": "bayes", "metric": {"name": "loss", "goal": "minimize"}, "parameters": parameters}
    random.seed(seed)
    np.random.seed(seed)
    runs: list[Any] = []
    while True:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            run = sweeps.next_run(config, runs)
        params = {name: entry["value"] for name, entry in run.config.items()}
        value = yield params
        runs.append(sweeps.SweepRun(config=run.config, state=sweeps.RunState.finished, summaryMetrics={"loss": value},
                                    history=[{"loss": value}]))


def gp(startup: int) -> Callable[[int], optuna.samplers.BaseSampler]:
    """Return Optuna's GP sampler with so many random points first."""
    return lambda seed: optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed, deterministic_objective=False)


def tpe(startup: int) -> Callable[[int], optuna.samplers.BaseSampler]:
    """Return Optuna's TPE sampler with so many random points first."""
    return lambda seed: optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)


ENGINES: dict[str, Callable[[Problem, int], Ask]] = {
    "ours": ours,
    "random": chance,
    "tpe-from-60": functools.partial(ours, own_trials=60),
    "tpe-from-100": functools.partial(ours, own_trials=100),
    "optuna-tpe": optuna_engine(tpe(10), first=False),
    "optuna-tpe-default": optuna_engine(tpe(4), first=True),
    "wandb": wandb_engine,
    "0.2.0": optuna_engine(gp(4), first=True, sobol=3),
    "optuna-gp-default": optuna_engine(gp(4), first=True),
    "optuna-gp": optuna_engine(gp(10), first=False),
}


if __name__ == "__main__":
    main()
