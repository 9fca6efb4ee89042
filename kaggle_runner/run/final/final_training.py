"""The final training: one configuration on all rows, by every GPU of this machine in one training.

Its record is a study of one trial, so what shows, tries, exports and reports a study takes it as it is. A failure that
is not the configuration's own leaves the checkpoint, and the same command goes on from it.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError
from kaggle_runner.events import Notify, SweepStarted
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.memory.fit import MemoryLimit, memory_limit_of
from kaggle_runner.run.final.cadence import dealt, processes_for, shares_of
from kaggle_runner.run.final.same_rows import require_same_rows
from kaggle_runner.run.one_trial import TrialRunner, preempts
from kaggle_runner.run.signals import end_on_signals
from kaggle_runner.run.supervisor import Supervisor, Unfinished
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.run.workers import prepare_session
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec

TRIAL = "0000"
"""The id of the one trial."""


@dataclass(frozen=True, kw_only=True)
class FinalOrder:
    """What a user asked for besides the configuration."""

    directory: Path
    """Folder of the study."""
    processes: int | None = None
    """Processes that train together; none: one for each GPU."""
    cpu_only: bool = False
    deadline: Deadline


@dataclass(frozen=True, kw_only=True)
class FinalSession:
    """What a session did to a final training."""

    snapshot: Snapshot
    result: TrialResult

    @property
    def reason(self) -> str:
        """Why the session ended, in a sentence."""
        epochs = self.snapshot.records[0].trial.params.get("num_train_epochs") or 1
        return self.result.reason or (
            "all rows are trained" if epochs >= 1 else f"{epochs:g} of a pass over all rows is trained")

    @property
    def is_unfinished(self) -> bool:
        """Whether the same command goes on."""
        return self.result.status is Status.PREEMPTED


def run_final(spec: SweepSpec, order: FinalOrder, environment: Environment, notify: Notify) -> FinalSession:
    """Run or go on with a final training until it is done or the session must end.

    Raises:
        ConfigError: more processes than GPUs or cores, or rows that cannot be dealt evenly to them.
        MissingPackages: what training needs is not installed.
        StudyError: the directory cannot be used, or is of another configuration or of other rows.
        WorkerError: the base or the data cannot be loaded; says why.
    """
    config = FinetuneConfig.from_params(spec.fixed)
    processes, shares = _arrangement(config, order, environment)
    config = dealt(config, shares)
    trial = Trial(id=TRIAL, number=0, origin="final", params={**spec.fixed, **{
        name: getattr(config, name) for name in ("batch_size", "gradient_accumulation_steps")}})
    environment = prepare_session(environment, "finetune", spec.fixed, cpu_only=order.cpu_only, searches=False)
    with (Study.open_for_writing(order.directory, name=order.directory.name, sweep=spec.raw, metric=spec.metric,
                                 goal=spec.goal, seed=None) as study, end_on_signals(notify) as ending):
        done = next((record.result for record in study.snapshot().finished if not _goes_on(record.result)), None)
        if done is not None:
            require_same_rows(study.snapshot(), environment.cache_directory)
            return FinalSession(snapshot=study.snapshot(), result=done)
        settings = _settings(study.directory, environment, processes, offline=spec.needs_no_hub)
        study.start_session(environment.as_dict() | {
            "pid": os.getpid(), "threads": settings.threads, "workers": 1, "trials": 1, "processes": processes,
            "shares": shares, "deadline": order.deadline.at})
        notify(SweepStarted(total=1, finished=0, directory=str(order.directory), workers=1))
        with Supervisor(study=study, settings=settings, notify=notify, limit=_limit(environment, processes),
                        end_asked=preempts(ending, order.deadline), shares=shares) as supervisor:
            runner = TrialRunner(supervisor=supervisor, deadline=order.deadline, notify=notify, shown=(),
                                 interrupted=ending.is_set)
            with contextlib.suppress(Unfinished):  # the trial does not start either, and says why
                _load(runner, trial)
            result = runner.run(trial)
        return FinalSession(snapshot=study.snapshot(), result=result)


def _load(runner: TrialRunner, trial: Trial) -> None:
    """Measure the base and count the rows, unless the training does not fit: what cannot be loaded is said at once."""
    forecast = runner.supervisor.forecast(trial.params)
    if forecast is None or forecast.fits:
        runner.measure_base_of(trial)
        runner.supervisor.count_rows(trial.config)


def _goes_on(result: TrialResult | None) -> bool:
    """Say whether a training that failed is tried again: not if its loss became no number."""
    return result is not None and (result.status is Status.INFEASIBLE or (
        result.status is Status.FAILED and result.notes.get("kind") != "not_finite"))


def _arrangement(config: FinetuneConfig, order: FinalOrder, environment: Environment) -> tuple[int, int]:
    """Return how many processes train, and into how many shares the rows of a step are dealt."""
    gpus = 0 if order.cpu_only else len(environment.gpus)
    most, what = (gpus, "GPU") if gpus else (environment.cpu_count, "CPU core")
    wanted = order.processes or max(1, gpus)
    if wanted > most:
        raise ConfigError(f"--processes {wanted}, and there {'is' if most == 1 else 'are'} {most} {what}"
                          f"{'' if most == 1 else 's'} for them; give --processes {most} or fewer")
    begun = _begun_with(order.directory)
    if begun is None:
        return wanted, shares_of(config, wanted)
    return processes_for(begun, wanted, asked=order.processes is not None), begun


def _begun_with(directory: Path) -> int | None:
    """Return the shares of the first session; none where nothing was trained yet."""
    if not (directory / JOURNAL).is_file() or not (directory / JOURNAL).stat().st_size:
        return None
    snapshot = read_study(directory)
    sessions = () if snapshot.is_blank else snapshot.sessions
    return int(sessions[0]["shares"]) if sessions and "shares" in sessions[0] else None


def _settings(directory: Path, environment: Environment, processes: int, *, offline: bool) -> WorkerSettings:
    """Give the first process a GPU and a share of the cores, and name the GPUs of the others."""
    gpus = [gpu.uuid for gpu in environment.gpus][:processes] or [""] * processes
    return WorkerSettings(log=directory / "worker.log", cache_directory=environment.cache_directory, gpu=gpus[0],
                          threads=max(1, environment.cpu_count // processes), offline=offline, team=tuple(gpus[1:]))


def _limit(environment: Environment, processes: int) -> MemoryLimit:
    """Return the memory that each process may take: a GPU of its own, or a part of the RAM."""
    limit = memory_limit_of(environment)
    return limit if environment.gpus else replace(
        limit, budget_bytes=limit.budget_bytes // processes,
        reason=limit.reason if processes == 1 else f"{limit.reason}, for {processes} processes")
