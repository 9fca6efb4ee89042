"""One session of a sweep in a process of its own, to be run, ended and killed by tests.

usage: optuna_session.py SWEEP STUDY COUNT [HANG]

Trials cost nothing: the loss is a known function of the parameters. With HANG, the trial of that number says `hanging`
on stdout after its start is recorded and never ends, as a fine-tune in which the process is killed.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.run.rungs import extrapolated
from kaggle_runner.run.search import OptunaSearch, SearchEnd, run_sweep
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep

BEST_RATE = 1e-3
BEST_LOSS = 2.0


def loss(params: Mapping[str, Any]) -> float:
    """Return 2.0 at a learning rate of 1e-3 and rank 16, more elsewhere."""
    decades = math.log10(params["learning_rate"] / BEST_RATE)
    ranks = math.log2(params.get("lora_r", 16) / 16)
    return BEST_LOSS + 0.5 * decades**2 + 0.02 * ranks**2 + params.get("weight_decay", 0.0)


def complete(trial: Trial) -> TrialResult:
    """Return the result of a trial that went well."""
    value = loss(trial.params)
    return TrialResult(id=trial.id, status=Status.COMPLETE, metric=value, steps=20,
                       evaluations=((10, value + 0.5), (20, value)))


def run(sweep: Path, directory: Path, count: int, *, seed: int = 0,
        train: Callable[[Trial], TrialResult] = complete) -> SearchEnd:
    """Run a session and record its trials as the supervisor does."""
    spec = read_sweep(sweep)
    with Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=seed) as study:

        def run_trial(trial: Trial) -> TrialResult:
            study.record_start(trial, dict(trial.params))
            result = train(trial)
            study.record_end(result)
            search.failures.take(result)
            return result

        search = OptunaSearch(study, spec, told_value=lambda result: extrapolated(result, study.snapshot()))
        return run_sweep(search, run_trial=run_trial, count=count)


def main(sweep: str, directory: str, count: str, hang: str = "-1") -> None:
    """Run a session as the command line asks."""

    def train(trial: Trial) -> TrialResult:
        if trial.number == int(hang):
            print("hanging", flush=True)
            time.sleep(600)
        return complete(trial)

    print(run(Path(sweep), Path(directory), int(count), train=train).reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
