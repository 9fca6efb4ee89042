"""Run a one-at-a-time study: every value with every seed, to the end, and the decision that its numbers allow.

The study is an ordinary one, a journal in a directory. The decision is computed from the journal whenever it is asked
for, so there is nothing to lose between two sessions. Nothing is cut early: partial curves do not rank good settings.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from kaggle_runner.config import known_to_0_2
from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.files import write_atomically
from kaggle_runner.lab.decision import Decision, Setting, Verdict, decide, same
from kaggle_runner.lab.vary import as_yaml
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.metrics import Metric
from kaggle_runner.run.fixed_trials import run_trials
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.scoring import differing_data, read_by
from kaggle_runner.study.trial import Status, Trial, TrialRecord


class Contest(Protocol):
    """Settings that are run with the same seeds to find the best: a study's values, or whole configurations."""

    @property
    def name(self) -> str:
        """The name of the study."""

    @property
    def values(self) -> tuple[Any, ...]:
        """The name of each setting, the default's among them."""

    @property
    def default(self) -> Any:
        """The value of the setting that the others are compared with."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every setting is run with."""

    @property
    def judged_by(self) -> Metric:
        """What the settings are compared by."""

    @property
    def varied(self) -> tuple[str, ...]:
        """The hyperparameters in which two of its trials may differ, beside the seed."""

    def value_of(self, trial: Trial) -> Any:
        """Return the name of the setting that a trial was run with."""

    def first_trials(self) -> list[Trial]:
        """List every setting with every seed."""

    def further_trials(self, challenger: Any) -> list[Trial]:
        """List the two contenders with more seeds."""

    def sweep(self) -> dict[str, Any]:
        """Return the study as a sweep file would say it, for the first line of its journal."""

    def as_yaml(self) -> str:
        """Return the study as a file."""


@dataclass(frozen=True, kw_only=True)
class LabOrder:
    """What a user asked for besides the file."""

    directory: Path
    """Of the study, or of the plan's studies."""
    cpu_only: bool = False
    deadline: Deadline


@dataclass(frozen=True, kw_only=True)
class VarySession:
    """What a session did to a study."""

    snapshot: Snapshot
    decision: Decision | None
    """The decision; none while trials are missing."""
    reason: str = ""
    """Why the session ended before the study did."""


def run_contest(spec: Contest, order: LabOrder, environment: Environment, notify: Notify) -> VarySession:
    """Run or continue a study until every value has every seed that it needs, or the session must end.

    Raises:
        MissingPackages: what training needs is not installed.
        StudyError: the directory is another study's, or two of its runs differ in more than the variable.
        WorkerError: what the baseline names cannot be loaded; says why.
    """
    with Study.open_for_writing(order.directory, name=spec.name, sweep=spec.sweep(), seed=None,
                                metric=spec.judged_by.name, goal=spec.judged_by.goal) as study:
        write_atomically(order.directory / "study.yaml", spec.as_yaml())
        stopped = _run(study, spec.first_trials(), order, environment, notify, what=spec.name)
        first = decision_of(spec, study.snapshot(), spec.seeds) if not stopped else None
        if first is not None and first.verdict is Verdict.MORE_SEEDS:
            notify(Note(text=f"{spec.name}: {first.reason}; two more seeds for both"))
            more = spec.further_trials(first.challenger)
            stopped = _run(study, more, order, environment, notify, what=spec.name)
        snapshot = study.snapshot()
    return VarySession(snapshot=snapshot, reason=stopped or "", decision=None if stopped else finished(spec, snapshot))


def finished(spec: Contest, snapshot: Snapshot) -> Decision | None:
    """Return the decision of a study, or none while a trial that it needs is missing.

    Raises:
        StudyError: the baseline has failed, or two runs differ in more than the variable.
    """
    done = {record.trial.id for record in snapshot.finished}
    if not {trial.id for trial in spec.first_trials()} <= done:
        return None
    decision = decision_of(spec, snapshot, spec.seeds)
    if decision.verdict is not Verdict.MORE_SEEDS:
        return decision
    if not {trial.id for trial in spec.further_trials(decision.challenger)} <= done:
        return None
    last = decision_of(spec, snapshot)
    if last.verdict is not Verdict.MORE_SEEDS:
        return last
    return replace(last, verdict=Verdict.KEEP, winner=spec.default,
                   reason=f"{last.reason}; trials with the further seeds failed, so the default stays")


def decision_of(spec: Contest, snapshot: Snapshot, seeds: Sequence[int] | None = None) -> Decision:
    """Decide from the complete trials of a study, or those of some of its seeds.

    Raises:
        StudyError: the baseline has failed, or two runs differ in more than the variable.
    """
    check_one_variable(snapshot, spec.varied)
    settings = [Setting(value=value, losses={
        record.trial.params["seed"]: record.result.metric for record in snapshot.records
        if same(spec.value_of(record.trial), value) and record.result is not None
        and record.result.status is Status.COMPLETE and record.result.metric is not None
        and (seeds is None or record.trial.params["seed"] in seeds)}) for value in spec.values]
    base = next(setting for setting in settings if same(setting.value, spec.default))
    if len(base.losses) < len(spec.seeds):
        failed = next((record.result.reason for record in snapshot.records if record.result is not None
                       and record.result.status is Status.FAILED
                       and same(spec.value_of(record.trial), spec.default)), "a trial is missing")
        raise StudyError(f"{snapshot.directory}: the baseline, {' and '.join(spec.varied)} {spec.default!r}, failed "
                         f"({failed}), so nothing can be compared with it; mend the baseline, archive the study and "
                         f"run it again")
    return decide(settings, spec.default, goal=spec.judged_by.goal)


def check_one_variable(snapshot: Snapshot, varied: Sequence[str]) -> None:
    """Refuse a study in which two runs differ in more than is studied and the seed, or in what they trained on.

    Raises:
        StudyError: names the first such difference.
    """
    first: TrialRecord | None = None
    for record in snapshot.records:
        if first is None:
            first = record
        before, now = known_to_0_2(first.trial.params), known_to_0_2(record.trial.params)
        names = {*before, *now} - {*varied, "seed"}
        other = [name for name in sorted(names) if before.get(name) != now.get(name)]
        if other:
            name = other[0]
            raise StudyError(f"{snapshot.directory}: trials {first.trial.id} and {record.trial.id} differ in {name} "
                             f"({first.trial.params.get(name)!r}, {record.trial.params.get(name)!r}) besides "
                             f"{' and '.join(varied)}, so their losses say nothing about it; archive the study and run "
                             f"it again")
    trained = [record for record in snapshot.records if record.result is not None and record.result.hashes
               and record.result.status is not Status.FAILED]
    for left, right in itertools.pairwise(trained):
        known, read = (read_by(record.trial.params, record.result.hashes)
                       for record in (left, right) if record.result)
        for name, _ in differing_data(read, known):
            raise StudyError(f"{snapshot.directory}: trials {left.trial.id} and {right.trial.id} differ in the "
                             f"{name} they were trained on: a file changed under the study; archive it and run it "
                             f"again")


def _run(study: Study, trials: Sequence[Trial], order: LabOrder, environment: Environment, notify: Notify, *,
         what: str) -> str | None:
    for trial in trials:
        _write_config(study, trial)
    return run_trials(study, trials, cpu_only=order.cpu_only, deadline=order.deadline, environment=environment,
                      notify=notify, what=what)


def _write_config(study: Study, trial: Trial) -> None:
    """Write what `train` needs to run this one trial again by itself."""
    folder = study.directory / "configs"
    folder.mkdir(exist_ok=True)
    path = folder / f"{trial.id}.yaml"
    if not path.exists():
        write_atomically(path, as_yaml(trial.params))
