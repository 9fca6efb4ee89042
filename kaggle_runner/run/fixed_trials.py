"""Run trials that somebody else has chosen, each to its end: a study's values and seeds, a winner's further seeds.

Nothing is cut early, and nothing is chosen: partial curves do not rank good settings.
"""

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from typing import Any

from kaggle_runner.config import trainer_of
from kaggle_runner.errors import WorkerError
from kaggle_runner.events import Notify, SweepStarted
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.memory.fit import memory_limit_of
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.run.one_trial import TrialRunner, preempts
from kaggle_runner.run.signals import end_on_signals
from kaggle_runner.run.supervisor import Supervisor, Unfinished
from kaggle_runner.run.workers import prepare_session, single_threaded_settings, worker_settings
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.pace import seconds_of
from kaggle_runner.study.trial import Status, Trial, TrialResult


def run_trials(study: Study, trials: Sequence[Trial], *, cpu_only: bool, deadline: Deadline, environment: Environment,
               notify: Notify, what: str, goes_on: bool = False,
               repeats: tuple[Snapshot, ...] = ()) -> str | None:
    """Run those of the trials that are not finished, on every worker; return why the session ended early, if it did.

    Which worker runs a trial does not change it: on a CPU each of a small model's has one thread. With `goes_on` a
    trial that the machine ended is tried once more, and by the next session too. What they read must be what the trials
    of the study read that they repeat.

    Raises:
        MissingPackages: what training needs is not installed.
        WorkerError: what the first trial names cannot be loaded, or trials failed alike again and again; says why.
    """
    todo = left_of(study.snapshot(), trials) if goes_on else _unfinished(study.snapshot(), trials)
    if not todo:
        return None
    trainer = trainer_of(trials[0].params)
    environment = prepare_session(environment, trainer, *(trial.params for trial in todo), cpu_only=cpu_only,
                                  searches=False)
    if trainer == "charlm":
        workers = single_threaded_settings(study.directory, environment, trainer=trainer)[:len(todo)]
    else:
        workers = worker_settings(study.directory, environment, trainer=trainer, offline=False)
    study.start_session(environment.as_dict() | {"threads": workers[0].threads, "workers": len(workers),
                                                 "trials": len(trials), "deadline": deadline.at,
                                                 "confirms": len({trial.origin for trial in trials})})
    notify(SweepStarted(total=len(trials), finished=len(trials) - len(todo), directory=str(study.directory),
                        workers=len(workers), seconds=seconds_of(study.snapshot())))
    waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
    for trial in todo:
        waiting.put(trial)
    with end_on_signals(notify) as ending, ExitStack() as stack:
        failures = FailureBudget()
        runners = [TrialRunner(
            supervisor=stack.enter_context(Supervisor(
                study=study, settings=settings, notify=notify, limit=memory_limit_of(environment),
                repeats=repeats, end_asked=preempts(ending, deadline))),
            deadline=deadline, notify=notify, shown=_varied(study.snapshot()), failures=failures,
            interrupted=ending.is_set) for settings in workers]
        for runner in runners:
            runner.supervisor.start()
        with contextlib.suppress(Unfinished):  # the trials do not start either, and say why
            runners[0].measure_base_of(trials[0])  # what cannot be loaded is said once, and not by each trial
        with concurrent.futures.ThreadPoolExecutor(len(runners), thread_name_prefix="worker") as pool:
            runs = [pool.submit(_run_waiting, runner, waiting, what, ending, goes_on) for runner in runners]
            reasons = [run.result() for run in runs]
    return next((reason for reason in reasons if reason), None)


def _run_waiting(runner: TrialRunner, waiting: "queue.SimpleQueue[Trial]", what: str,
                 ending: threading.Event, goes_on: bool) -> str | None:
    """Run waiting trials on one worker until there is none, or the session must end; return why it must."""
    try:
        while True:
            try:
                trial = waiting.get_nowait()
            except queue.Empty:
                return None
            if runner.failures.verdict:
                raise WorkerError(runner.failures.verdict + ("; the same command tries again" if goes_on else ""))
            result = run_twice(runner, trial, what) if goes_on else runner.run(trial, origin=what)
            if result.status is Status.PREEMPTED:
                return result.reason
    except BaseException:
        ending.set()
        raise


def run_twice(runner: TrialRunner, trial: Trial, what: str | None = None) -> TrialResult:
    """Run a trial, and once more if the machine ended it: its configuration was trained before."""
    result = runner.run(trial, origin=what)
    return runner.run(trial, origin=what) if result.is_of_the_machine else result


def left_of(snapshot: Snapshot, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are to be trained, those that the machine ended too."""
    again = {record.trial.id for record in snapshot.records if record.result and record.result.is_of_the_machine}
    return _unfinished(snapshot, trials, again)


def _unfinished(snapshot: Snapshot, trials: Sequence[Trial], again: Set[str] = frozenset()) -> list[Trial]:
    done = {record.trial.id for record in snapshot.finished} - again
    return [trial for trial in trials if trial.id not in done]


def _varied(snapshot: Snapshot) -> list[str]:
    parameters: Mapping[str, Any] = snapshot.info.sweep["parameters"]
    return [name for name, entry in parameters.items() if "value" not in entry]
