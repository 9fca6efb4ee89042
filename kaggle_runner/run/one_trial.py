"""One trial after the other on one worker, the same for embedded sweeps, W&B's jobs and the studies of the lab.

May it start, say that it starts, train it, say how it ended, count failures, and measure the untouched base once.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from kaggle_runner.config import DEMO_DATASET, Config, FinetuneConfig
from kaggle_runner.config_charlm import TEXT8
from kaggle_runner.errors import ConfigError, DataError, ModelError, WorkerError
from kaggle_runner.events import BaseMeasured, Note, Notify, TrialEnded, TrialStarted
from kaggle_runner.files import sound_lines
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.run import rungs
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.run.rungs import rung_gate
from kaggle_runner.run.supervisor import Supervisor, Unfinished
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.pace import refusal
from kaggle_runner.study.table import format_value
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.wording import how_many


class Readable(Protocol):
    """Trials that can be read as they stand: a study, or one that several machines share."""

    def snapshot(self) -> Snapshot:
        """Read them."""


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """What is done around each trial of one worker."""

    supervisor: Supervisor
    deadline: Deadline
    notify: Notify
    shown: Collection[str]
    """The hyperparameters that tell one trial from the others."""
    failures: FailureBudget = field(default_factory=FailureBudget)
    """Shared by the workers of a session."""
    interrupted: Callable[[], bool] = lambda: False

    @property
    def study(self) -> Study:
        """The study that the trials are of."""
        return self.supervisor.study

    def why_not(self, trial: Trial) -> str | None:
        """Say why a trial should not be started in this session; none if it may."""
        if self.interrupted():
            return "interrupted"
        snapshot = self.study.snapshot()
        rows = sound_lines(snapshot.directory / "trials" / trial.id / "history.jsonl")
        done = max((row["step"] for row in rows or ()), default=0)  # one that is damaged starts over
        with contextlib.suppress(ConfigError):  # for the supervisor to say, as the trial's own failure
            return refusal(self.supervisor.counted(trial.config), snapshot, self.deadline, steps_done=done)
        return None

    def run(self, trial: Trial, origin: str | None = None) -> TrialResult:
        """Train a trial, unless the session has no time for it: then it is preempted, with the reason.

        Raises:
            StudyError: the record cannot be written.
        """
        if reason := self.why_not(trial):
            return TrialResult(id=trial.id, status=Status.PREEMPTED, metric=None, reason=reason)
        self.say_started(trial, origin)
        result = self.supervisor.run(trial)
        self.take_end(result)
        self.measure_base(trial, result)
        return result

    def say_started(self, trial: Trial, origin: str | None = None) -> None:
        """Tell that a trial is about to be trained."""
        max_steps, length = 0, ""
        with contextlib.suppress(ConfigError):
            config = self.supervisor.counted(trial.config)
            epochs = getattr(config, "num_train_epochs", None)  # its steps are not known before its rows are counted
            max_steps = 0 if epochs else config.max_steps
            length = f"{epochs:g} epoch{'' if epochs == 1 else 's'}" if epochs else how_many(max_steps, "step")
        settings = "  ".join(f"{name} {format_value(trial.params[name])}" for name in self.shown
                             if name in trial.params)
        self.notify(TrialStarted(trial=trial.id, origin=trial.origin if origin is None else origin,
                                 settings=settings or length, max_steps=max_steps,
                                 metric=self.study.snapshot().info.metric))

    def take_end(self, result: TrialResult) -> None:
        """Tell how a trial ended, and count it among the failures if it is one."""
        self.notify(TrialEnded(trial=result.id, status=result.status.value, metric=result.metric,
                               reason=result.reason, seconds=result.seconds))
        self.failures.take(result)

    def measure_base(self, trial: Trial, result: TrialResult) -> None:
        """Measure the untouched base once for a study, while a complete trial has it warm."""
        if result.status is not Status.COMPLETE or result.notes.get("repeat_of") or not trial.config.has_base:
            return
        snapshot = self.study.snapshot()
        if not snapshot.has_one_base or snapshot.baseline is not None:
            return
        try:
            self.measure_base_of(trial)
        except Unfinished:  # the next session measures it
            return
        except WorkerError as error:
            self.supervisor.close()
            self.notify(Note(text=f"the untouched base was not measured: {error}"))

    def measure_base_of(self, trial: Trial) -> None:
        """Load what a trial names, and measure the base if the study lacks its value.

        Raises:
            StudyError: it is not what the study's trials read.
            WorkerError: it cannot be loaded; says why.
            Unfinished: the session must end.
        """
        value = self.supervisor.measure_baseline(trial.config)
        if value is not None:
            snapshot = self.study.snapshot()
            self.notify(BaseMeasured(metric=snapshot.info.metric, value=value, scores=snapshot.base_scores))


def missing_here(config: Config) -> str:
    """Say what a config reads from this machine and is not there, which another machine may have; else empty."""
    from kaggle_runner.training.data.characters import text_file
    from kaggle_runner.training.data.sources import is_here
    from kaggle_runner.training.models.tokenizer import model_source

    try:
        if isinstance(config, FinetuneConfig):
            is_here(config)
            model_source(config.model)
        elif config.dataset not in (TEXT8, DEMO_DATASET):
            text_file(config.dataset)
    except (DataError, ModelError) as error:
        return str(error)
    return ""


def why_it_ends(spec: SweepSpec, study: Readable, trial: Trial, step: int, value: float,
                loss: float | None) -> str | None:
    """Judge a trial at a rung by what the others of its study measured."""
    return rungs.why_it_ends(rung_gate(spec, trial.config), trial.id, step, (value, loss), study.snapshot())


def preempts(ending: threading.Event, deadline: Deadline) -> Callable[[], str | None]:
    """Return what a supervisor asks while a trial runs: it is preempted when the session must end."""
    return lambda: "preempt" if ending.is_set() or deadline.seconds_left(time.time()) <= 0 else None
