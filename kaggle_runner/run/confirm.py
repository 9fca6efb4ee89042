"""Confirm the winner of a sweep: its best configurations once more, each with further seeds that chose nothing yet.

The best of many noisy trials is the luckiest of them. So the winner is the best mean over all its seeds, and what is
said of it comes from seeds that had no part in choosing it: each further seed in turn is left out, the winner is chosen
by the others, and the seed that was left out says how good that one is.
Source: over 20,000 made studies that number is off by less than 0.05 deviations, the plain mean of the winner by 0.4 to
0.8 (benchmarks/choice.py).
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.events import Note, Notify
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.fixed_trials import left_of, run_trials
from kaggle_runner.study.journal import Snapshot, Study, confirm_directory, read_study
from kaggle_runner.study.near import has_begun
from kaggle_runner.study.noise import came_to, confirmed, confirming_name
from kaggle_runner.study.ranking import OF_TRIAL, Ranked, seed_of
from kaggle_runner.study.trial import Trial
from kaggle_runner.sweep.distributions import same_value
from kaggle_runner.sweep.study_settings import Confirm
from kaggle_runner.wording import how_many

LEAST = 2
"""Configurations below which there is nothing to choose."""


def chosen(snapshot: Snapshot, confirm: Confirm) -> tuple[Ranked, ...]:
    """Return the configurations that are confirmed: the best by what the sweep measured."""
    return snapshot.as_swept.configurations[:confirm.top]


def trials_of(configurations: Sequence[Ranked], confirm: Confirm) -> list[Trial]:
    """List the trainings: every configuration with every further seed, seed by seed.

    The seeds are the same for all, because some are harder than others. They follow the one that all were swept with,
    or the trainer's own where the sweep has several; those that any was swept with tell nothing new.
    """
    configs = [config_from_params(one.records[0].trial.params) for one in configurations]
    known = {seed_of(record.trial.params) for one in configurations for record in one.records}
    first = known.pop() if len(known) == 1 else type(configs[0])().seed
    seeds = itertools.islice((seed for step in itertools.count(1)
                              if (seed := (first + step) % 2**32) not in known), confirm.seeds)
    every = [(seed, one, config) for seed in seeds for one, config in zip(configurations, configs, strict=True)]
    return [Trial(id=f"{number:04d}", number=number, params={**config.as_dict(), "seed": seed},
                  origin=f"{OF_TRIAL}{one.records[0].trial.id}") for number, (seed, one, config) in enumerate(every)]


def runs_left(snapshot: Snapshot, confirm: Confirm, total: int) -> int:
    """Return how many trainings confirm a sweep of so many trials, less those that are done."""
    done = sum(record.result is not None for record in snapshot.confirming)
    return max(0, min(confirm.top, total) * confirm.seeds - done)


def what_begins(configurations: Sequence[Ranked], confirm: Confirm) -> str:
    """Say what is going to be trained."""
    return f"confirming: the best {len(configurations)} configurations with {how_many(confirm.seeds, 'more seed')} each"


def run_confirmation(snapshot: Snapshot, confirm: Confirm, environment: Environment, notify: Notify, *,
                     cpu_only: bool, deadline: Deadline) -> str:
    """Run what the confirmation of a finished sweep lacks, beside the study; return why the session ended early.

    Raises:
        StudyError: the folder holds another confirmation.
        WorkerError: trials failed alike again and again; says why.
    """
    with open_confirmation(snapshot, confirm, notify) as opened:
        if opened is None:
            return ""
        study, trials = opened
        return run_trials(study, trials, cpu_only=cpu_only, deadline=deadline, environment=environment, notify=notify,
                          what="confirm", goes_on=True, repeats=(snapshot,)) or why_again(study.snapshot(), trials)


def why_again(confirming: Snapshot, trials: Sequence[Trial]) -> str:
    """Say which training the machine ended, so that the same command trains it again; empty where it ended none."""
    return next((f"{confirming_name(record)} {came_to(record.result)}: {record.result.reason}; the same command trains "
                 f"it again" for record in confirming.records
                 if record.trial in trials and record.result and record.result.is_of_the_machine), "")


@contextlib.contextmanager
def open_confirmation(snapshot: Snapshot, confirm: Confirm,
                      notify: Notify) -> Iterator[tuple[Study, list[Trial]] | None]:
    """Make or go on with the study beside a finished sweep that confirms it, and yield it with all of its trainings.

    Yields none where there are not two complete configurations to compare.

    Raises:
        StudyError: the folder holds another confirmation.
    """
    configurations = chosen(snapshot, confirm)
    if len(configurations) < LEAST:
        yield None
        return
    trials = trials_of(configurations, confirm)
    directory = confirm_directory(snapshot.directory)
    begun = _begun(directory)
    if begun is None and directory.exists():
        aside = next(path for number in itertools.count(1)
                     if not (path := directory.with_name(f"{directory.name}.damaged-{number}")).exists())
        directory.rename(aside)
        notify(Note(text=f"{directory} does not say what it confirms, so it begins anew; it is kept as {aside.name}"))
    if begun and not all(record.trial.origin.startswith(OF_TRIAL) for record in begun.records):
        begun = None  # a tuning plan's, which is refused below
    trials = _numbered(trials, begun)
    with Study.open_for_writing(directory, name=f"{snapshot.info.name} confirmed",
                                sweep=begun.info.sweep if begun else sweep_of_trials(trials),
                                metric=snapshot.info.metric, goal=snapshot.info.goal, seed=None) as study:
        if left_of(study.snapshot(), trials):
            notify(Note(text=what_begins(configurations, confirm)))
        yield study, trials


def why_unconfirmed(snapshot: Snapshot, confirm: Confirm) -> str:
    """Say why a confirmation that ran to its end says nothing; empty where it says something, or was not to run."""
    if not confirm.runs or confirmed(snapshot) is not None:
        return ""
    count = len(snapshot.configurations)
    if count < LEAST:
        complete = f"{how_many(count, 'configuration')} {'is' if count == 1 else 'are'} complete"
        return f"nothing to compare: {complete}, and two are the least"
    failed = [record for one in snapshot.configurations for record in one.failed]
    if not failed:
        return "no training with a further seed is complete"
    assert failed[0].result is not None
    return f"no configuration was trained with all of its further seeds: {failed[0].trial.origin} with seed " \
           f"{failed[0].trial.params.get('seed')} {came_to(failed[0].result)}: {failed[0].result.reason}"


def _begun(directory: Path) -> Snapshot | None:
    """Return the confirmation that a folder has; none where it has none.

    Raises:
        StudyError: it cannot be read.
    """
    return read_study(directory) if has_begun(directory) else None


def _numbered(trials: Sequence[Trial], begun: Snapshot | None) -> list[Trial]:
    """Give trainings that a confirmation has already their own names, and the others further ones.

    So more seeds, or another best three after more trials, go on with what is there.
    """
    known = {_training(record.trial): record.trial for record in begun.records} if begun else {}
    used = {trial.number for trial in known.values()}
    free = (number for number in itertools.count() if number not in used)
    found = []
    for trial in trials:
        number = known[_training(trial)].number if _training(trial) in known else next(free)
        found.append(replace(trial, id=f"{number:04d}", number=number))
    return found


def _training(trial: Trial) -> tuple[str, Any]:
    """Return what makes a training of a confirmation this one: what it confirms, and its seed."""
    return trial.origin, trial.params.get("seed")


def sweep_of_trials(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return what the journal begins with."""
    names = [name for name in trials[0].params
             if any(not same_value(trial.params[name], trials[0].params[name]) for trial in trials)]
    varied = {name: {"values": _distinct([trial.params[name] for trial in trials])} for name in names}
    fixed = {name: {"value": value} for name, value in trials[0].params.items() if name not in names}
    return {"method": "grid", "parameters": {**varied, **fixed}}


def _distinct(values: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if not any(same_value(value, other) for other in kept):
            kept.append(value)
    return kept
