"""Run one trial in the worker: watch it, log it, stop it, start it anew where that helps, record how it ended.

The supervisor owns the record and never touches a GPU. Whatever happens to the worker, the journal says it.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kaggle_runner.config import TRAINERS, Config, FinetuneConfig, trainer_of
from kaggle_runner.errors import ConfigError, KaggleRunnerError, MachineFault, NoGpu, StudyError, WorkerError
from kaggle_runner.events import (
    AtRung,
    Attached,
    BaseMeasured,
    DataRead,
    Event,
    Failed,
    ForecastMemory,
    LengthKnown,
    Logged,
    MeasureBase,
    MemoryForecast,
    Note,
    Notify,
    Preempt,
    Prepare,
    Prepared,
    Request,
    Resumed,
    RowsCounted,
    RungVerdict,
    Stop,
    Train,
    Trained,
)
from kaggle_runner.machine.faults import fault, speaks_of_the_machine
from kaggle_runner.memory.fit import MemoryLimit
from kaggle_runner.metrics import Evaluations, Metric
from kaggle_runner.run.worker_process import WorkerDied, WorkerPatience, WorkerProcess, WorkerSettings
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.scoring import require_same_data
from kaggle_runner.study.trial import Status, Trial, TrialResult, result_from_dict
from kaggle_runner.study.weights import drop_beaten_weights

POLL_S = 0.2
ANSWERS = (Prepared, BaseMeasured, MemoryForecast, Trained, Failed)
"""The events that end the work on a request."""
GO_ON = ("crash", "error", "hung", "foreign_checkpoint", "foreign_rows", "refused")
"""Failures after which a final training goes on from its checkpoint: of the machine, or what a person can mend."""
MACHINES = {"machine": MachineFault, "no_gpu": NoGpu}
ENDS = {"stop": Stop(), "preempt": Preempt()}


class Unfinished(WorkerError):
    """The worker was ended, as was wished, before a trial of it had begun."""


@dataclass(kw_only=True)
class Supervisor:
    """One worker and the trials that run on it, one at a time."""

    study: Study
    settings: WorkerSettings
    notify: Notify = lambda event: None
    patience: WorkerPatience = field(default_factory=WorkerPatience)
    end_asked: Callable[[], str | None] = lambda: None
    """Asked a few times a second while the worker is busy: none, `stop` or `preempt`."""
    rungs: Callable[[Config], tuple[int, ...]] = lambda config: ()
    """The steps at which a trial of this config is judged."""
    judge: Callable[[Trial, int, float, float | None], str | None] = lambda trial, step, value, loss: None
    """Says at a rung why a trial ends there; none: it goes on."""
    limit: MemoryLimit | None = None
    """The memory that a trial may take; none: whether one fits is found out by running it."""
    repeats: tuple[Snapshot, ...] = ()
    """The study whose trials these repeat, with its data."""
    shares: int = 0
    """Parts into which the rows of a step are dealt, for the processes of a final training; 0: trials are run."""
    _worker: WorkerProcess | None = None
    _train_rows: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; returns when it is gone."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker; none where it does not run."""
        return self._worker.pid if self._worker else None

    def start(self) -> None:
        """Start the worker if it does not run, without waiting for it.

        Raises:
            MachineFault: it cannot be started.
        """
        if self._worker is None:
            try:
                self._worker = WorkerProcess(self.settings)
            except OSError as error:
                raise fault(error) from error

    def measure_baseline(self, config: Config) -> float | None:
        """Measure the untouched base, load it if need be, record all of it in the study, and return its metric.

        None for a model that is trained from nothing, where models are searched and where the study has it.

        Raises:
            StudyError: that is not what the study's trials read.
            WorkerError: the worker died or could not load what the config names; the message says why.
            Unfinished: somebody wished for an end meanwhile.
        """
        snapshot = self.study.snapshot()
        is_wanted = config.has_base and snapshot.has_one_base and snapshot.baseline is None
        answer = self._converse(MeasureBase(config=config.as_dict(), metric=snapshot.info.metric) if is_wanted else
                                Prepare(config=config.as_dict()))
        if isinstance(answer, Failed):
            raise WorkerError(answer.message)
        if not isinstance(answer, BaseMeasured):
            return None
        self.study.record_baseline(answer.value, answer.scores)
        return answer.value

    def counted(self, config: Config) -> Config:
        """Return a config with the steps that its epochs take, exactly where its rows have been counted before."""
        rows = self._train_rows.get(config.rows_key) if isinstance(config, FinetuneConfig) else None
        return config if rows is None or not isinstance(config, FinetuneConfig) else config.counted(rows)

    def count_rows(self, config: Config, follow: Notify = lambda event: None) -> Config:
        """Return a config with the steps that its epochs take; its rows are loaded for it if they were not yet.

        Raises:
            WorkerError: the worker died, or what the config names cannot be loaded.
        """
        if not isinstance(config, FinetuneConfig) or config.num_train_epochs is None:
            return config
        if config.rows_key not in self._train_rows:
            answer = self._converse(Prepare(config=config.as_dict()), follow)
            if not isinstance(answer, Prepared) or answer.train_rows is None:
                raise WorkerError(answer.message if isinstance(answer, Failed) else answer.kind)
            self._train_rows[config.rows_key] = answer.train_rows
        return self.counted(config)

    def forecast(self, params: Mapping[str, Any]) -> MemoryForecast | None:
        """Have the worker predict a trial's memory; none where that cannot be done, which is said.

        Raises:
            WorkerError: the worker died or hung over it.
        """
        if self.limit is None or not TRAINERS[trainer_of(params)].has_base:
            return None
        answer = self._converse(ForecastMemory(config=dict(params), limit=self.limit.as_dict()))
        if isinstance(answer, MemoryForecast):
            return answer
        self.notify(Note(text=f"no memory forecast: {answer.message if isinstance(answer, Failed) else answer.kind}"))
        return None

    def run(self, trial: Trial) -> TrialResult:
        """Run one trial to its end and record it; never raises for what the trial does wrong.

        A trial that is predicted not to fit is not run, and one that says nothing of `gradient_checkpointing` gets it
        where it would not fit without.

        Raises:
            StudyError: the record cannot be written.
            MachineFault: this machine failed, and not the trial, which goes on when that is mended.
        """
        started = time.monotonic()
        try:
            config = trial.config
        except ConfigError as error:
            self.study.record_start(trial, dict(trial.params))
            return self._finish(trial, _failure(trial, str(error)), started)
        self.study.record_start(trial, config.as_dict())
        try:
            return self._finish(trial, self._result_of(trial, config), started)
        except (OSError, StudyError, MachineFault) as error:
            self._drop_worker()
            found = error if isinstance(error, KaggleRunnerError) else fault(error)
            with contextlib.suppress(OSError, KaggleRunnerError):  # where the record cannot be written, it says enough
                self._finish(trial, self.study.cut_off(trial.id, str(found), kind="machine"), started)
            raise found from error

    def _result_of(self, trial: Trial, config: Config) -> TrialResult:
        """Run a config, and once more in half where it or its checkpoint asks for that."""
        result = self._attempt_if_it_fits(trial, config)
        kind, divisible = result.notes.get("kind"), config.batch_size > 1 and config.batch_size % 2 == 0
        if kind == "out_of_memory" and divisible:
            # the checkpoint is of the config that was too large
            shutil.rmtree(self.study.trial_directory(trial.id) / "checkpoint", ignore_errors=True)
            result = self._once_more_in_half(trial, config, result.reason)
        elif kind == "foreign_checkpoint" and divisible:  # perhaps an earlier session went on in half
            again = self._once_more_in_half(trial, config, "its checkpoint is not of this batch_size")
            result = result if again.notes.get("kind") == "foreign_checkpoint" else again
        return result

    def _finish(self, trial: Trial, result: TrialResult, started: float) -> TrialResult:
        attempts = next(r.attempts for r in self.study.snapshot().records if r.trial.id == trial.id)
        result = dataclasses.replace(result, seconds=round(time.monotonic() - started, 3), attempts=attempts)
        self.study.record_end(result)
        drop_beaten_weights(self.study.snapshot())
        is_kept = self.shares and result.status is Status.FAILED and result.notes.get("kind") in GO_ON
        if result.status is not Status.PREEMPTED and not is_kept:
            shutil.rmtree(self.study.trial_directory(trial.id) / "checkpoint", ignore_errors=True)
        return result

    def _once_more_in_half(self, trial: Trial, config: Config, reason: str) -> TrialResult:
        """Run it again with half the micro-batch and twice the accumulation: the same effective batch and seed."""
        smaller = dataclasses.replace(config, batch_size=config.batch_size // 2,
                                      gradient_accumulation_steps=config.gradient_accumulation_steps * 2)
        self.notify(Note(text=f"trial {trial.id}: {reason}; once more with batch_size {smaller.batch_size}, "
                              f"gradient_accumulation_steps {smaller.gradient_accumulation_steps}"))
        result = self._attempt_if_it_fits(trial, smaller)
        return dataclasses.replace(result, notes=dict(result.notes) | {
            "out_of_memory_at": config.batch_size, "micro_batch": smaller.batch_size,
            "accumulation": smaller.gradient_accumulation_steps})

    def _attempt_if_it_fits(self, trial: Trial, config: Config) -> TrialResult:
        """Run a config, a variant of the trial's own, as the forecast of its memory advises."""
        changed = {name: getattr(config, name) for name in ("batch_size", "gradient_accumulation_steps")}
        try:
            forecast = self.forecast({**trial.params, **changed})
        except Unfinished as error:
            return _unfinished(trial, self.end_asked(), str(error))
        except WorkerError as error:
            self._drop_worker()
            self.notify(Note(text=f"no memory forecast: {error}"))
            forecast = None
        if forecast is None:
            return self._attempt(trial, config)
        if not forecast.fits:
            return TrialResult(id=trial.id, status=Status.INFEASIBLE, metric=None, reason=forecast.reason,
                               notes=forecast.notes)
        config = dataclasses.replace(config, **forecast.settings)
        self.study.record_config(trial.id, config.as_dict())
        result = self._attempt(trial, config, keep=forecast.notes.get("keep", ""))
        return dataclasses.replace(result, notes={**forecast.notes, **result.notes})

    def _attempt(self, trial: Trial, config: Config, keep: str = "") -> TrialResult:
        """Run a config once in the worker and turn what became of it into a result."""
        directory, metric = self.study.trial_directory(trial.id), self.study.snapshot().metric
        progress = _Progress(metric)

        def follow(event: Event) -> None:
            if isinstance(event, Attached | Resumed):
                for row in self.study.cut_history(trial.id, event.step):
                    progress.take(row)
            elif isinstance(event, DataRead):
                progress.hashes = event.hashes
            elif isinstance(event, Logged):
                self.study.log(trial.id, event.row)
                progress.take(event.row)
            elif isinstance(event, AtRung) and self._worker is not None:
                self._worker.send(RungVerdict(why_it_ends=self.judge(trial, event.step, event.value, event.loss)))

        kind = "refused"
        try:
            counted = self.count_rows(config, follow)
            between = counted.eval_steps
            if self.shares and isinstance(counted, FinetuneConfig):
                from kaggle_runner.run.final.cadence import spread, steps_between_checkpoints  # not for trials

                counted = spread(counted)
                between = steps_between_checkpoints(counted)
            if counted is not config:
                config = counted
                self.study.record_config(trial.id, config.as_dict())
                self.notify(LengthKnown(trial=trial.id, max_steps=config.max_steps))
            kind = "hung"
            answer = self._converse(Train(
                id=trial.id, config=config.as_dict(), directory=str(directory.resolve()), checkpoint_steps=between,
                rung_steps=tuple(self.rungs(config)), keep=keep, metric=metric.name, goal=metric.goal,
                shares=self.shares), follow)
        except WorkerDied as error:
            self._drop_worker()
            return progress.failed(trial, str(error), "out_of_memory" if error.out_of_memory else "crash",
                                   exit_status=error.worker_status)
        except Unfinished as error:
            return _unfinished(trial, self.end_asked(), str(error))
        except WorkerError as error:
            return progress.failed(trial, str(error), kind)
        if isinstance(answer, Trained):
            return result_from_dict(answer.result)
        assert isinstance(answer, Failed)
        if answer.failure not in ("refused", "foreign_checkpoint", "foreign_rows", "not_finite"):
            self._drop_worker()  # a fresh process beats any clean-up
        return progress.failed(trial, answer.message, answer.failure)

    def _converse(self, request: Request, follow: Notify = lambda event: None) -> Event:
        """Send a request and pass on its events until the answer comes.

        Raises:
            MachineFault: this machine failed, and not what was asked for.
            WorkerDied: the process ended.
            WorkerError: it gave no sign of life for too long.
            Unfinished: somebody wished for an end, and no trial of it had begun.
        """
        try:
            return self._ask(request, follow)
        except WorkerDied as error:
            broken = error.broken
            if broken is None and (error.out_of_memory or not speaks_of_the_machine(str(error))):
                raise
            if broken is None or broken.is_needed:
                raise MachineFault(broken.text) if broken else fault(error) from error
            self._drop_worker()
            self.notify(Note(text=f"{broken.as_hidden}: the worker starts again without it"))
            broken.hide_from_children()
        return self._converse(request, follow)

    def _ask(self, request: Request, follow: Notify) -> Event:
        """Do so with one worker."""
        self.start()
        assert self._worker is not None
        self._worker.send(request)
        patience_s, heard, asked, training = self.patience.loading_s, time.monotonic(), None, False
        while True:
            event = self._worker.receive(POLL_S)
            now = time.monotonic()
            if event is not None:
                heard = now
                if isinstance(event, Failed) and event.failure in MACHINES:
                    raise MACHINES[event.failure](event.message)
                if isinstance(event, ANSWERS):
                    return event
                if isinstance(event, Logged | Attached | Resumed):
                    patience_s, training = self.patience.step_s, True
                if isinstance(event, DataRead) and isinstance(request, MeasureBase | Prepare | Train):
                    for found in (self.study.snapshot(), *self.repeats):
                        require_same_data(found.directory, found.records, request.config, event.hashes)
                if isinstance(event, RowsCounted):
                    self.study.record_rows(event.facts)
                follow(event)
                self.notify(dataclasses.replace(event, trial=request.id if isinstance(request, Train) else ""))
            end_asked = self.end_asked()
            if end_asked is not None and asked is None:
                if isinstance(request, Train):
                    self._worker.send(ENDS[end_asked])
                asked = now
            if asked is not None and not training and now - asked > self.patience.loading_stop_s:
                self._drop_worker()
                raise Unfinished("ended before its first step, while the model was loaded, measured or forecast")
            if asked is not None and now - asked > self.patience.stop_s:
                self._drop_worker()
                raise WorkerError(f"the worker did not stop within {self.patience.stop_s:.0f} s and was ended")
            if now - heard > patience_s:
                last = self._worker.last_lines()
                self._drop_worker()
                raise WorkerError(f"the worker gave no sign of life for {patience_s:.0f} s and was ended; "
                                  f"it last said: {last or 'nothing'}")

    def _drop_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self.close()


@dataclass
class _Progress:
    """What a running trial has shown so far: all that remains of it when its worker dies."""

    metric: Metric
    steps: int = 0
    tokens: int = 0
    hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(metric=self.metric)

    def take(self, row: Mapping[str, Any]) -> None:
        self.steps, self.tokens = row["step"], row.get("tokens", self.tokens)
        self.evaluations = self.evaluations.with_row(row)

    def failed(self, trial: Trial, reason: str, kind: str, **notes: Any) -> TrialResult:
        return dataclasses.replace(_failure(trial, reason), steps=self.steps, tokens=self.tokens,
                                   hashes=self.hashes, notes={"kind": kind, **notes}, **self.evaluations.facts)


def _unfinished(trial: Trial, end_asked: str | None, reason: str) -> TrialResult:
    """Return the result of a trial that was ended before its first step: it goes on, unless it was to be stopped."""
    status = Status.PRUNED if end_asked == "stop" else Status.PREEMPTED
    return TrialResult(id=trial.id, status=status, metric=None, reason=reason)


def _failure(trial: Trial, reason: str) -> TrialResult:
    return TrialResult(id=trial.id, status=Status.FAILED, metric=None, reason=reason, notes={"kind": "refused"})
