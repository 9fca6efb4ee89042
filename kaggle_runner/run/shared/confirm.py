"""Confirm the winner of a shared search on all machines that share it: its trainings are handed out as its points were.

They are a study of their own in the same database, whose name says what it confirms: more trials, or more seeds, are
another one.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kaggle_runner.events import Note, Notify, SweepStarted
from kaggle_runner.files import make_directory
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.memory.fit import memory_limit_of
from kaggle_runner.run.confirm import LEAST, chosen, sweep_of_trials, trials_of, what_begins, why_again
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.run.fixed_trials import run_twice
from kaggle_runner.run.local_sweep import run_workers
from kaggle_runner.run.one_trial import TrialRunner, preempts
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.copy import write_copy
from kaggle_runner.run.shared.database import Database
from kaggle_runner.run.shared.order import SharedOrder
from kaggle_runner.run.shared.record import CONFIRMED, DEFAULT_LEASE_S, Claim, SharedRecord
from kaggle_runner.run.shared.search import SharedSearch
from kaggle_runner.run.signals import end_on_signals
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.workers import prepare_session, worker_settings
from kaggle_runner.study.journal import Snapshot, Study, confirm_directory
from kaggle_runner.study.trial import Trial
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import Confirm


class SharedTrials(SharedSearch):
    """Trials that are known beforehand, handed out among machines as the points of a search are."""

    def __init__(self, trials: Sequence[Trial], *arguments: Any, **known: Any) -> None:
        """Join, as a search does; what a machine ended is to be trained once more."""
        self._fixed = trials
        super().__init__(*arguments, **known)
        self._points = len(trials)
        for number, row in self._record.rows.items():
            if row.result is not None and row.result.is_of_the_machine:
                self._do(partial(self._record.reopen, number, row.attempt))
                del self._results[number]

    def _choose(self, claim: Claim, total: int) -> Trial | None:
        trial = self._fixed[claim.number]
        self._do(partial(self._record.choose, claim, trial, claim.number, self._spec))
        return trial


def confirm_shared(shared: SharedOrder, spec: SweepSpec, snapshot: Snapshot, confirm: Confirm,
                   environment: Environment, notify: Notify, *, cpu_only: bool, deadline: Deadline) -> str:
    """Take part in the confirmation of a shared search that is done; return why the session ended early, if it did.

    `snapshot` is the copy of the whole study that lies in the folder of what ran here.

    Raises:
        StudyError: the database cannot be used.
        WorkerError: trials failed alike again and again; says why.
    """
    configurations = chosen(snapshot, confirm)
    if len(configurations) < LEAST:
        return ""
    trials = trials_of(configurations, confirm)
    name = name_of(snapshot.info.name, trials, confirm)
    address = replace(read_address(shared.address), study=name)
    of_trials = spec_of(spec, name, trials)
    record = SharedRecord.join(Database(address, notify=notify), of_trials, snapshot.info.seed,
                               shared.lease_s or DEFAULT_LEASE_S)
    environment = prepare_session(environment, spec.trainer, *(trial.params for trial in trials), cpu_only=cpu_only,
                                  searches=False)
    directory = confirm_directory(snapshot.directory.parent)
    with (Study.open_for_writing(directory, name=name, sweep=of_trials.raw, metric=spec.metric, goal=spec.goal,
                                 seed=snapshot.info.seed) as study, end_on_signals(notify) as ending,
          contextlib.ExitStack() as stack):
        ends, failures = preempts(ending, deadline), FailureBudget()
        search = stack.enter_context(SharedTrials(trials, record, study, of_trials, notify=notify, ends=ends,
                                                  failures=failures, checkpoints=shared.checkpoints))
        workers = worker_settings(directory, environment, trainer=spec.trainer, offline=spec.needs_no_hub)
        study.start_session(environment.as_dict() | {
            "pid": os.getpid(), "threads": workers[0].threads, "workers": len(workers), "trials": len(trials),
            "deadline": deadline.at, "confirms": len(configurations)})
        finished = len(search.snapshot().finished)
        if finished < len(trials):
            notify(Note(text=f"{what_begins(configurations, confirm)}, on all machines that share the study"))
        notify(SweepStarted(total=len(trials), finished=finished, directory=str(directory),
                            workers=len(workers)))
        with contextlib.ExitStack() as supervisors:
            runners = [TrialRunner(
                supervisor=supervisors.enter_context(Supervisor(
                    study=study, settings=settings, notify=notify, limit=memory_limit_of(environment),
                    repeats=(snapshot,), end_asked=lambda: ends() or search.end_asked())),
                deadline=deadline, notify=notify, shown=(*spec.searched, "seed"), failures=failures,
                interrupted=ending.is_set) for settings in workers]
            outcomes = run_workers(runners, search, len(trials), ending, run_twice)
        search.close()
        beside = confirm_directory(snapshot.directory)  # where those who read the study look for it
        make_directory(beside)
        write_copy(search.snapshot(), beside, uid=record.uid, shown=record.database.address.shown)
        again = why_again(search.snapshot(), trials)
    return next((outcome.reason for outcome in outcomes if outcome.cut_short or outcome.gave_up), again)


def spec_of(spec: SweepSpec, name: str, trials: Sequence[Trial]) -> SweepSpec:
    """Return the sweep that these trainings of another one are; a target ends the search, and not what confirms it."""
    return replace(spec, name=name, raw=sweep_of_trials(trials), target=None)


def name_of(study: str, trials: Sequence[Trial], confirm: Confirm) -> str:
    """Return the name of the study that confirms another one by these trainings."""
    what = json.dumps([[trial.origin, dict(trial.params)] for trial in trials], sort_keys=True)
    return f"{study}{CONFIRMED}{confirm} {hashlib.sha256(what.encode()).hexdigest()[:8]}"
