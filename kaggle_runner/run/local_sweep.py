"""Run a sweep file on this machine with the embedded study: no account, no network.

Puts the pieces together: environment, study, one supervisor and one worker for each GPU, search; and takes them down
again, whatever happens.
"""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.events import Note, Notify, SweepStarted
from kaggle_runner.machine.budget import budget_for
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.memory.fit import memory_limit_of
from kaggle_runner.run.confirm import runs_left
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.run.one_trial import TrialRunner, preempts, why_it_ends
from kaggle_runner.run.points.observations import is_within
from kaggle_runner.run.points.prior import Known, in_words, known_of, lessons_of, observations, remember
from kaggle_runner.run.points.space import near
from kaggle_runner.run.rungs import extrapolated, rung_gate
from kaggle_runner.run.search import OptunaSearch, Search, SearchEnd, require_end, run_sweep, warm_up
from kaggle_runner.run.shared.order import SharedOrder, join_shared, refuse_alone
from kaggle_runner.run.signals import end_on_signals
from kaggle_runner.run.supervisor import Supervisor, Unfinished
from kaggle_runner.run.workers import prepare_session, worker_settings
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study, read_study, refuse_another
from kaggle_runner.study.pace import seconds_of
from kaggle_runner.study.table import format_value
from kaggle_runner.study.trial import Trial, TrialResult
from kaggle_runner.sweep.distributions import same_value
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import OFF, Confirm


@dataclass(frozen=True, kw_only=True)
class SweepOrder:
    """What a user asked for besides the sweep file."""

    directory: Path
    """Folder of the study."""
    count: int | None = None
    """Trials the study shall have in the end; none takes the file's `run_cap`."""
    seed: int | None = None
    """Seed of the search; none takes the study's own, or 0."""
    cpu_only: bool = False
    pruning: bool = True
    """End trials early that are clearly worse than the others."""
    defaults: Mapping[str, Any] | None = None
    """Configuration that trial 0 is made of; none takes the trainer's own defaults."""
    prior_studies: tuple[Path, ...] = ()
    """Other studies that the search learns from."""
    start: Mapping[str, Any] | None = None
    """The configuration to begin with, in place of the trainer's defaults."""
    adopts: bool = False
    """Take over what still counts of a study of another sweep file."""
    stops_early: bool = True
    """End a search of more than 15 trials when little is expected of another one."""
    confirm: Confirm = OFF
    """How its winner is confirmed when the sweep is done: the weights of so many best ones are kept until then."""
    one_thread: bool = False
    """Train on one CPU thread: the same losses on a machine with other cores."""
    deadline: Deadline
    shared: SharedOrder | None = None
    """The database that holds the search, where it is not this machine's own."""


@dataclass(frozen=True, kw_only=True)
class SweepSession:
    """What a session did to a study."""

    snapshot: Snapshot
    reason: str
    """Why the session ended, in a sentence."""
    interrupted: bool
    """Whether there is more to do; the same command then continues."""
    gave_up: bool
    """Whether the session ended because the same failure came again and again."""


def run_embedded(spec: SweepSpec, order: SweepOrder, environment: Environment, notify: Notify) -> SweepSession:
    """Run or continue a sweep until it is done, the session must end, or somebody asks for an end.

    Raises:
        MissingPackages: what training needs is not installed.
        StudyError: the directory cannot be used, or is of another sweep file or seed.
        SweepError: only W&B's scheduler can search it.
        WorkerError: the base or the data cannot be loaded; says why.
    """
    spec.require_search()
    environment = prepare_session(environment, spec.trainer, spec.parameters, cpu_only=order.cpu_only, searches=True)
    if order.shared is None:
        refuse_alone(order.directory)
    else:
        refuse_another(order.directory, spec.raw)
    known = begin_with(spec, order, notify)
    record = join_shared(order.shared, spec, order.seed, known, notify) if order.shared else None
    with (Study.open_for_writing(order.directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                 seed=record.info.seed if record else order.seed) as study,
          end_on_signals(notify) as ending, contextlib.ExitStack() as stack):
        remember(known, study)
        workers = worker_settings(study.directory, environment, trainer=spec.trainer, offline=spec.needs_no_hub)
        if order.one_thread:
            workers = [replace(worker, threads=1) for worker in workers]
        failures = FailureBudget()
        ends = preempts(ending, order.deadline)
        if record is not None and order.shared is not None:
            from kaggle_runner.run.shared.search import SharedSearch

            search: OptunaSearch | SharedSearch = stack.enter_context(SharedSearch(
                record, study, spec, notify=notify, ends=ends, checkpoints=order.shared.checkpoints,
                defaults=order.defaults, failures=failures, stops_early=order.stops_early))
        else:
            search = OptunaSearch(study, spec, notify=notify, defaults=order.defaults, failures=failures,
                                  told_value=lambda result: extrapolated(result, study.snapshot()),
                                  stops_early=order.stops_early)
        total = search.total(order.count)
        study.start_session(environment.as_dict() | {
            "pid": os.getpid(), "threads": workers[0].threads, "workers": len(workers), "trials": total,
            "deadline": order.deadline.at, "budget": budget_for(environment).as_dict(), "confirms": order.confirm.top})
        everything = study if isinstance(search, OptunaSearch) else search
        before = everything.snapshot()
        finished = len(before.finished)
        notify(SweepStarted(total=max(total, finished), finished=finished, directory=str(order.directory),
                            workers=len(workers), seconds=seconds_of(before),
                            confirming=runs_left(before, order.confirm, total)))
        with contextlib.ExitStack() as supervisors:
            runners = [TrialRunner(
                supervisor=supervisors.enter_context(Supervisor(
                    study=study, settings=settings, notify=notify, limit=memory_limit_of(environment),
                    end_asked=lambda: ends() or search.end_asked(),
                    rungs=lambda config: rung_gate(spec, config).steps if order.pruning else (),
                    judge=lambda trial, step, value, loss: why_it_ends(spec, everything, trial, step, value, loss))),
                deadline=order.deadline, notify=notify, shown=spec.searched or spec.parameters, failures=failures,
                interrupted=ending.is_set) for settings in workers]
            if finished < total:
                with contextlib.suppress(Unfinished):  # the trials do not start either, and say why
                    _measure_base_first(runners[0], search)
            outcomes = run_workers(runners, search, order.count, ending)
        snapshot = study.snapshot() if isinstance(search, OptunaSearch) else search.close()
    telling = next((o for o in outcomes if o.gave_up), next((o for o in outcomes if o.cut_short), None))
    return SweepSession(snapshot=snapshot, reason=telling.reason if telling else search.reason,
                        gave_up=telling is not None and telling.gave_up,
                        interrupted=telling is not None and telling.cut_short)


def begin_with(spec: SweepSpec, order: SweepOrder, notify: Notify) -> Known | None:
    """Take over a study of another file if that was asked for, and return what the search is to know besides.

    Everything that is refused is refused before a study on the disk has changed.

    Raises:
        StudyError: another study teaches nothing here, or the study has begun and cannot begin anew.
        SweepError: this sweep has no search that could learn, or no end.
    """
    require_end(spec, order.count)
    adoption = None
    if order.adopts or order.directory.with_name(f"{order.directory.name}.adopting").exists():
        from kaggle_runner.run.adopt import Adoption, finish_adoption  # which stays at home, where sweep files change

        finish_adoption(order.directory)
        adoption = Adoption.of(order.directory, spec, order.seed) if order.adopts else None
    known = None
    if order.prior_studies or order.start:
        has_begun = bool(adoption.kept) if adoption else _has_begun_otherwise(order)
        known = _known(spec, order, has_begun, notify)
    for line in adoption.carry_out().as_lines() if adoption else ():
        notify(Note(text=line))
    return known


def _has_begun_otherwise(order: SweepOrder) -> bool:
    """Say whether a study has trials, the first of which is not the configuration that was given to start with."""
    if not order.start or not (order.directory / JOURNAL).is_file():
        return False
    begun = read_study(order.directory)
    return bool(begun.records) and known_of(begun).start != order.start


def _known(spec: SweepSpec, order: SweepOrder, has_begun: bool, notify: Notify) -> Known:
    if spec.method != "bayes":
        raise SweepError(spec.source, [f"method: {spec.method} learns from no trial, so it needs no --prior-study and "
                                       f"no --start; leave them out, or write method: bayes"])
    here = order.directory.resolve()
    if any(directory.resolve() == here for directory in order.prior_studies):
        raise StudyError(f"{order.directory} is the study itself, and learns from its own trials anyway; give another "
                         f"study with --prior-study")
    if order.start and has_begun:
        raise StudyError(f"{order.directory} has its first trial already, so it cannot start with --start; choose "
                         f"another directory with --study")
    lessons = lessons_of(order.prior_studies, spec)
    for name, value in (order.start or {}).items():
        if not same_value(nearest := near(spec.searched[name], value), value):
            notify(Note(text=f"--start: {name} {format_value(value)} is none of this sweep's values; the first trial "
                             f"has the nearest, {format_value(nearest)}"))
    if lessons:
        seen = observations(lessons, spec)
        others = len(seen) - sum(map(is_within, seen))
        notify(Note(text=f"known from before: {in_words(seen)}"
                         + (f"; {spec.sampler} learns from those within the ranges that were trained alike, and not "
                            f"from the other {others}" if others and spec.sampler != "own" else "")))
    return Known(lessons=lessons, start=order.start or {})


def _measure_base_first(runner: TrialRunner, search: Search) -> None:
    """Load what the first point names, so that what cannot be loaded is said once; unless that point does not fit."""
    runner.supervisor.start()
    warm_up()  # while the worker imports torch
    first = Trial(id="", number=0, params=search.first_params())
    forecast = runner.supervisor.forecast(first.params)
    if forecast is None or forecast.fits:
        runner.measure_base_of(first)


def run_workers(runners: list[TrialRunner], search: Search, count: int | None, ending: threading.Event,
                run_one: Callable[[TrialRunner, Trial], TrialResult] = TrialRunner.run) -> list[SearchEnd]:
    """Run trials on every worker until nothing is left to do; an error in one ends the others cleanly."""

    def run(runner: TrialRunner) -> SearchEnd:
        try:
            return run_sweep(search, run_trial=partial(run_one, runner), count=count,
                             may_start=lambda: "interrupted" if ending.is_set() else None)
        except BaseException:
            ending.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(len(runners), thread_name_prefix="worker") as pool:
        return [future.result() for future in [pool.submit(run, runner) for runner in runners]]
