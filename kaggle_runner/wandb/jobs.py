"""The jobs of a W&B agent, one at a time: open the run, train, record, log, and close the run with the truth."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kaggle_runner.config import Config, config_from_params
from kaggle_runner.errors import ConfigError, WorkerError
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.memory.fit import Room
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.run.rungs import rung_gate, stays, values_at
from kaggle_runner.run.supervisor import Notify, Supervisor
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study
from kaggle_runner.study.pace import refusal
from kaggle_runner.study.table import format_value
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult
from kaggle_runner.wandb.checkpoints import CheckpointUploads, fetch_checkpoint
from kaggle_runner.wandb.ending import CONTINUES, AgentPatience, Ending
from kaggle_runner.wandb.run import PREEMPTED, RunLog, RunLost, exit_code
from kaggle_runner.wandb.sweep import RemoteSweep


class _OutOfTime(Exception):
    """The worker did not end a trial within the grace."""


class JobRunner:
    """One worker, and the jobs that run on it; one thread runs them all."""

    def __init__(self, *, sweep: RemoteSweep, study: Study, settings: WorkerSettings, room: Room,
                 deadline: Deadline, count: int | None, patience: AgentPatience, pruning: bool,
                 notify: Notify) -> None:
        """Prepare; the worker starts with the first trial."""
        self.ending = Ending()
        self.lost = False
        """W&B's own process was ended with something left to upload."""
        self._spec, self._study, self._deadline, self._count = sweep.spec, study, deadline, count
        self._patience, self._notify = patience, notify
        self._failures = FailureBudget()
        self._log: RunLog | None = None
        self._stop_asked: Callable[[], bool] = lambda: False
        self._trials_run = 0
        self._uploads = CheckpointUploads(study, os.environ, lambda text: self._notify(_note(text)))
        self._supervisor = Supervisor(
            study=study, settings=settings, room=room, notify=self._follow, wish=self._wish,
            rungs=lambda config: rung_gate(sweep.spec, config).steps if pruning else (), judge=self._goes_on)

    def close(self) -> None:
        """End the worker."""
        self._supervisor.close()

    def run(self, stop_asked: Callable[[], bool]) -> None:
        """Run the job that W&B's agent was given, and close its run; `stop_asked` says whether W&B wants it stopped.

        Raises:
            StudyError: the record cannot be written; the run goes back to the sweep's queue.
        """
        began = time.monotonic()
        try:
            log = RunLog.open(lambda: self.ending.is_over(began, self._patience.no_job_s))
        except RunLost as error:
            return self._lose(f"W&B did not open the run of a trial that it handed out: {error}")
        try:
            self._serve(log, stop_asked)
        except Exception:
            log.mark_preempting()
            self._finish(log, PREEMPTED, ())
            raise

    def check_deadline(self) -> None:
        """Ask for the end when the deadline is there."""
        if self._deadline.seconds_left(time.time()) <= 0:
            self.ending.ask(f"the session is at its deadline ({self._deadline.reason})", CONTINUES,
                            max(self._deadline.margin_s * 0.8, self._patience.hurry_s))

    def _serve(self, log: RunLog, stop_asked: Callable[[], bool]) -> None:
        params = {name: value for name, value in log.params.items() if name in self._spec.parameters}
        try:
            config = config_from_params(params)
        except ConfigError:  # the supervisor says it
            config = None
        self.check_deadline()
        why_not = self.ending.reason or (self._refusal(log.id, config) if config and self._trials_run else None)
        if why_not:
            self.ending.ask(why_not, CONTINUES)
            self._notify(_note(f"trial {log.id} goes back to the sweep's queue: {why_not}"))
            log.describe(TrialResult(id=log.id, status=Status.PREEMPTED, metric=None, reason=why_not), stopped=False)
            log.mark_preempting()
            return self._finish(log, PREEMPTED, ())
        trial = Trial(id=log.id, number=self._study.claim_number(log.id), params=params, origin="wandb")
        if config:
            log.add_config({name: value for name, value in config.as_dict().items()
                            if name not in params and name != "gradient_checkpointing"})  # which the forecast decides
        self._notify({"event": "trial_started", "id": trial.id, "origin": trial.origin,
                      "settings": self._settings(trial), "max_steps": config.max_steps if config else 0})
        earlier = self._earlier(trial, config) if config else None
        began = time.monotonic()
        fetch_checkpoint(log, self._study, lambda text: self._notify(_note(text)),
                         lambda: self.ending.is_over(began, self._patience.upload_s))
        result = self._repeat(trial, log, earlier) if earlier else self._train(trial, log, stop_asked)
        stopped = stop_asked() and not earlier
        log.describe(result, stopped=stopped)
        code = exit_code(result, stopped=stopped)
        if code == PREEMPTED:
            log.mark_preempting()
        else:
            self._uploads.end(log)
        self._finish(log, code, self._study.snapshot().history(trial.id))
        self._notify({"event": "trial_ended", "id": trial.id, "status": result.status.value, "metric": result.metric,
                      "reason": result.reason, "seconds": result.seconds})
        self._draw_conclusions(result, config, stopped=stopped)

    def _refusal(self, trial_id: str, config: Config) -> str | None:
        """Say why a trial should not start in what is left of the session; its first one always starts."""
        snapshot = self._study.snapshot()
        done = max((row["step"] for row in snapshot.history(trial_id)), default=0)
        return refusal(config, snapshot, self._deadline, steps_done=done)

    def _earlier(self, trial: Trial, config: Config) -> TrialRecord | None:
        """Find this trial, ended, or a complete one with the same configuration, which would give the same losses."""
        for record in self._study.snapshot().records:
            status = record.result.status if record.result is not None else Status.PREEMPTED
            if record.trial.id == trial.id and status is not Status.PREEMPTED:
                return record
            if status is Status.COMPLETE and config_from_params(record.trial.params) == config:
                return record
        return None

    def _repeat(self, trial: Trial, log: RunLog, earlier: TrialRecord) -> TrialResult:
        """Answer a trial from the journal."""
        assert earlier.result is not None
        history = self._study.snapshot().history(earlier.trial.id)
        if earlier.trial.id == trial.id:  # its end never reached W&B
            log.catch_up(history)
            return earlier.result
        reason = f"the same configuration as trial {earlier.trial.id}, answered from the journal"
        self._notify(_note(f"trial {trial.id}: {reason}"))
        self._study.record_start(trial, config_from_params(trial.params).as_dict())
        rows = [row for row in history if "eval/loss" in row]
        for row in rows:
            self._study.log(trial.id, row)
        log.add_tag("duplicate")
        log.catch_up(rows)
        result = replace(earlier.result, id=trial.id, reason=reason, seconds=0.0, seconds_by_phase={}, attempts=1,
                         notes={"repeat_of": earlier.trial.id})
        self._study.record_end(result)
        return result

    def _train(self, trial: Trial, log: RunLog, stop_asked: Callable[[], bool]) -> TrialResult:
        self._log, self._stop_asked = log, stop_asked
        try:
            return self._supervisor.run(trial)
        except _OutOfTime:
            self._supervisor.close()
            return self._cut_off(trial)
        finally:
            self._log, self._stop_asked = None, lambda: False

    def _cut_off(self, trial: Trial) -> TrialResult:
        """Record a trial whose worker was ended before it wrote a checkpoint."""
        snapshot = self._study.snapshot()
        rows = snapshot.history(trial.id)
        record = next(record for record in snapshot.records if record.trial.id == trial.id)
        evaluations = tuple((row["step"], row["eval/loss"]) for row in rows if "eval/loss" in row)
        result = TrialResult(
            id=trial.id, status=Status.PREEMPTED, metric=min((loss for _, loss in evaluations), default=None),
            reason="there was no time for a checkpoint; it goes on from its last one, or from the start",
            steps=rows[-1]["step"] if rows else 0, tokens=rows[-1].get("tokens", 0) if rows else 0,
            evaluations=evaluations, seconds=round(time.time() - record.started, 3), attempts=record.attempts)
        self._study.record_end(result)
        return result

    def _follow(self, event: Mapping[str, Any]) -> None:
        """Log what the worker reports of a trial."""
        if self._log is not None and event["event"] == "log":
            self._log.log(event)
        elif self._log is not None and event["event"] in ("attached", "resumed"):
            self._log.catch_up(self._study.snapshot().history(event["trial"]))
        elif self._log is not None and event["event"] == "checkpoint" and not self.ending.reason:  # no time for it then
            self._uploads.take(self._log)
        self._notify(event)

    def _wish(self) -> str | None:
        """Say what the supervisor should tell the worker; asked a few times a second."""
        self.check_deadline()
        if not self.ending.reason:
            return "stop" if self._stop_asked() else None
        if self.ending.is_over(-math.inf):
            raise _OutOfTime
        if self._stop_asked():  # and not handed back, which a mark would do with whatever the trial ends as
            return "stop"
        if self._log is not None:
            self._log.mark_preempting()
        return "preempt"

    def _goes_on(self, trial: Trial, step: int, loss: float) -> bool:
        gate = rung_gate(self._spec, config_from_params(trial.params))
        return stays(gate, loss, values_at(self._study.snapshot(), step, without=trial.id))

    def _finish(self, log: RunLog, code: int, rows: Sequence[Mapping[str, Any]]) -> None:
        began = time.monotonic()
        try:
            log.finish(code, rows, lambda: self.ending.is_over(began, self._patience.upload_s))
        except RunLost as error:
            return self._lose(f"W&B did not take the end of run {log.id}: {error}; it will call the run crashed, the "
                              f"study has all of it")
        if log.reopened:
            self.ending.ask("W&B's own process died and was started anew, which its agent does not survive; run the "
                            "same command again", 1)

    def _lose(self, reason: str) -> None:
        self.lost = True
        self._notify(_note(reason))
        self.ending.ask(reason, 1)

    def _draw_conclusions(self, result: TrialResult, config: Config | None, *, stopped: bool) -> None:
        """Decide whether the agent goes on, and measure the untouched base once, while it is warm."""
        if result.status is Status.PREEMPTED:
            return self.ending.ask(result.reason, CONTINUES)
        self._trials_run += 1
        if not stopped and (verdict := self._failures.take(result)):
            self.ending.ask(verdict, 1)
        if self._trials_run == self._count:
            self.ending.ask(f"{self._count} trials are done, as asked")
        if config and result.status is Status.COMPLETE and not result.notes.get("repeat_of"):
            self._measure_baseline(config)

    def _measure_baseline(self, config: Config) -> None:
        if self._study.snapshot().baseline is not None:
            return
        try:
            value = self._supervisor.measure_baseline(config)
        except _OutOfTime:
            return self._supervisor.close()
        except WorkerError as error:
            self._supervisor.close()
            return self._notify(_note(f"the untouched base was not measured: {error}"))
        if value is not None:
            self._notify({"event": "baseline", "metric": self._spec.metric, "value": value})

    def _settings(self, trial: Trial) -> str:
        names = [name for name in self._spec.searched or self._spec.parameters if name in trial.params]
        return "  ".join(f"{name} {format_value(trial.params[name])}" for name in names)


def _note(text: str) -> dict[str, Any]:
    return {"event": "note", "text": text}
