"""Run a sweep file on this machine with the embedded study: no account, no network.

Puts the pieces together: environment, study, one supervisor and one worker for each GPU, search; and takes them down
again, whatever happens.
"""

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_DATASET, DEMO_MODEL, Config, config_from_params
from kaggle_runner.machine.budget import budget_for
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.memory.fit import room_of
from kaggle_runner.run.rungs import extrapolated, rung_gate, stays, values_at
from kaggle_runner.run.search import OptunaSearch, SweepOutcome, run_sweep, warm_up
from kaggle_runner.run.supervisor import Notify, Supervisor
from kaggle_runner.run.workers import end_on_signals, lanes, prepare_session
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.pace import refusal
from kaggle_runner.study.table import format_value
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class SweepOrder:
    """What a user asked for besides the sweep file."""

    directory: Path
    """Of the study."""
    count: int | None = None
    """Trials the study shall have in the end; none takes the file's `run_cap`."""
    seed: int | None = None
    """Of the search; none takes the study's own, or 0."""
    cpu_only: bool = False
    pruning: bool = True
    """End trials early that are clearly worse than the others."""
    defaults: Mapping[str, Any] | None = None
    """Configuration that trial 0 is made of; none takes the trainer's own defaults."""
    one_thread: bool = False
    """Train on one CPU thread: the same losses on a machine with other cores."""
    deadline: Deadline


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """What a session did to a study."""

    snapshot: Snapshot
    reason: str
    """Why the session ended, in a sentence."""
    interrupted: bool
    """There is more to do: the same command continues."""
    gave_up: bool
    """The same failure came again and again."""


def run_embedded(spec: SweepSpec, order: SweepOrder, environment: Environment, notify: Notify) -> SweepRun:
    """Run or continue a sweep until it is done, the session must end, or somebody asks for an end.

    Raises:
        MissingPackages: what training needs is not installed.
        StudyError: the directory cannot be used, or is of another sweep file or seed.
        WorkerError: the base or the data cannot be loaded; says why.
    """
    environment = prepare_session(environment, spec.trainer, cpu_only=order.cpu_only, searches=True)
    with (Study.open_for_writing(order.directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                 seed=order.seed) as study, end_on_signals() as ending):
        workers = lanes(study.directory, environment, trainer=spec.trainer, offline=_needs_no_hub(spec))
        if order.one_thread:
            workers = [replace(worker, threads=1) for worker in workers]
        study.start_session(environment.as_dict() | {
            "pid": os.getpid(), "threads": workers[0].threads, "workers": len(workers),
            "deadline": order.deadline.at, "budget": budget_for(environment).as_dict()})
        search = OptunaSearch(study, spec, notify=notify, defaults=order.defaults,
                              told_value=lambda result: extrapolated(result, study.snapshot()))
        total = search.total(order.count)
        finished = len(study.snapshot().finished)
        notify({"event": "sweep_started", "total": total, "finished": finished, "directory": str(order.directory)})
        with contextlib.ExitStack() as stack:
            supervisors = [stack.enter_context(Supervisor(
                study=study, settings=lane, notify=notify,
                wish=lambda: "preempt" if ending.is_set() or order.deadline.seconds_left(time.time()) <= 0 else None,
                rungs=lambda config: rung_gate(spec, config).steps if order.pruning else (),
                judge=lambda trial, step, loss: _goes_on(spec, study, trial, step, loss),
                room=room_of(environment))) for lane in workers]
            if finished < total:
                supervisors[0].start()
                warm_up()  # while the worker imports torch
                first = search.first_params()
                forecast = supervisors[0].forecast(first)
                if forecast is None or forecast.fits:
                    _measure_baseline(supervisors[0], study, first, notify)
            outcomes = _run_lanes(supervisors, search, order, study, spec, ending, notify)
        snapshot = study.snapshot()
    telling = next((o for o in outcomes if o.gave_up), next((o for o in outcomes if o.cut_short), outcomes[0]))
    return SweepRun(snapshot=snapshot, reason=telling.reason, gave_up=telling.gave_up, interrupted=telling.cut_short)


def _run_lanes(supervisors: list[Supervisor], search: OptunaSearch, order: SweepOrder, study: Study, spec: SweepSpec,
               ending: threading.Event, notify: Notify) -> list[SweepOutcome]:
    """Run trials on every worker until nothing is left to do; an error in one ends the others cleanly."""

    def run(supervisor: Supervisor) -> SweepOutcome:
        def run_trial(trial: Trial) -> TrialResult:
            config = config_from_params(trial.params)
            done = max((row["step"] for row in study.snapshot().history(trial.id)), default=0)
            why_not = refusal(config, study.snapshot(), order.deadline, steps_done=done)
            if why_not is not None:
                return TrialResult(id=trial.id, status=Status.PREEMPTED, metric=None, reason=why_not)
            notify(_started(trial, config, spec))
            result = supervisor.run(trial)
            if result.status is Status.COMPLETE:  # where the first point of all did not fit
                _measure_baseline(supervisor, study, trial.params, notify)
            notify({"event": "trial_ended", "id": trial.id, "status": result.status.value, "metric": result.metric,
                    "reason": result.reason, "seconds": result.seconds})
            return result

        try:
            return run_sweep(search, run_trial=run_trial, count=order.count,
                             may_start=lambda: "interrupted" if ending.is_set() else None)
        except BaseException:
            ending.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(len(supervisors), thread_name_prefix="lane") as pool:
        return [future.result() for future in [pool.submit(run, supervisor) for supervisor in supervisors]]


def _measure_baseline(supervisor: Supervisor, study: Study, params: Mapping[str, Any], notify: Notify) -> None:
    """Measure the untouched base once for a study."""
    snapshot = study.snapshot()
    if snapshot.baseline is None:
        value = supervisor.measure_baseline(config_from_params(params))
        if value is not None:
            notify({"event": "baseline", "metric": snapshot.info.metric, "value": value})


def _goes_on(spec: SweepSpec, study: Study, trial: Trial, step: int, loss: float) -> bool:
    gate = rung_gate(spec, config_from_params(trial.params))
    return stays(gate, loss, values_at(study.snapshot(), step, without=trial.id))


def _needs_no_hub(spec: SweepSpec) -> bool:
    return all(spec.fixed.get(name, ours) == ours and name not in spec.searched
               for name, ours in (("model", DEMO_MODEL), ("dataset", DEMO_DATASET)))


def _started(trial: Trial, config: Config, spec: SweepSpec) -> Mapping[str, Any]:
    settings = "  ".join(f"{name} {format_value(trial.params[name])}" for name in spec.searched or spec.parameters)
    return {"event": "trial_started", "id": trial.id, "origin": trial.origin, "settings": settings,
            "max_steps": config.max_steps}
