"""The jobs of a W&B agent, one at a time: open the run, train, record, log, and close the run with the truth."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import Config
from kaggle_runner.errors import INTERRUPTED, ConfigError
from kaggle_runner.events import Attached, Checkpointed, Event, Logged, Note, Notify, Resumed
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.faults import end_in_peace, fault, fault_of_machine, machine_failed
from kaggle_runner.machine.writable import problem_with
from kaggle_runner.memory.fit import MemoryLimit
from kaggle_runner.metrics import LOSS
from kaggle_runner.run.one_trial import TrialRunner, missing_here, why_it_ends
from kaggle_runner.run.rungs import rung_gate
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import LOST_TO, Status, Trial, TrialRecord, TrialResult
from kaggle_runner.wandb.answers import HOLDER, STUDY, ask_run
from kaggle_runner.wandb.checkpoints import CheckpointUploads, fetch_checkpoint
from kaggle_runner.wandb.connection import end_core, forget_run, leave
from kaggle_runner.wandb.ending import AgentPatience, Ending
from kaggle_runner.wandb.ends.hand_back import hand_back
from kaggle_runner.wandb.ends.missed import describe_end
from kaggle_runner.wandb.ends.received import Doubt, refusal_of, refused_file, upload_line, what_is_missing
from kaggle_runner.wandb.ends.taken import Hold
from kaggle_runner.wandb.run import CONFIRMED_TRIAL, PREEMPTED, RunLog, RunLost, exit_code
from kaggle_runner.wandb.sweep import RemoteSweep
from kaggle_runner.wording import how_many


class _OutOfTime(Exception):
    """The worker did not end a trial within the grace."""


class JobRunner:
    """One worker, and the jobs that run on it; one thread runs them all."""

    def __init__(self, *, sweep: RemoteSweep, study: Study, settings: WorkerSettings, limit: MemoryLimit,
                 deadline: Deadline, count: int | None, patience: AgentPatience, pruning: bool,
                 notify: Notify) -> None:
        """Prepare; the worker starts with the first trial."""
        self.ending = Ending()
        self.lost = False
        """W&B's own process was ended with something left to upload."""
        self.opened: set[str] = set()
        """The runs that were opened here, or tried to, by id."""
        self.let_go = False
        """The last run was another agent's, so W&B's own process was ended, and its agent must begin anew."""
        self._sweep, self._spec, self._study, self._deadline, self._count = sweep, sweep.spec, study, deadline, count
        self._patience, self._notify = patience, notify
        self._log: RunLog | None = None
        self._hold: Hold | None = None
        self._stop_asked: Callable[[], bool] = lambda: False
        self._trials_run = 0
        self._looked = time.monotonic()
        self._told_of: set[str] = set()
        self._uploads = CheckpointUploads(study, os.environ, lambda text: self._notify(Note(text=text)))
        self._supervisor = Supervisor(
            study=study, settings=settings, limit=limit, notify=self._follow, end_asked=self._end_asked,
            rungs=lambda config: rung_gate(sweep.spec, config).steps if pruning and not self._confirms else (),
            judge=lambda trial, step, value, loss: why_it_ends(sweep.spec, study, trial, step, value, loss))
        self._runner = TrialRunner(supervisor=self._supervisor, deadline=deadline, notify=notify,
                                   shown=sweep.spec.searched or sweep.spec.parameters)

    def close(self) -> None:
        """End the worker."""
        self._supervisor.close()

    def run(self, stop_asked: Callable[[], bool]) -> None:
        """Run the job that W&B's agent was given, and close its run; `stop_asked` says whether W&B wants it stopped.

        Raises:
            StudyError: the record cannot be written; the run goes back to the sweep's queue.
            MachineFault: this machine failed; the run goes back, too.
        """
        began, files = time.monotonic(), Path(os.environ["WANDB_DIR"]) / "wandb"
        self.opened.add(os.environ.get("WANDB_RUN_ID", ""))  # as the client says it
        problem = problem_with(files)
        if problem:
            problem = f"WANDB_DIR {files} cannot be written: {problem}"
            self.ending.ask(machine_failed(problem), 1)
            return self._give_back_unopened(problem, self._patience.upload_s)
        doubt = Doubt(f"{self._sweep.path.rsplit('/', 1)[0]}/{os.environ.get('WANDB_RUN_ID', '')}",
                      first_after_s=self._patience.told_s)
        try:
            log = RunLog.open(lambda: self.ending.is_over(began, self._patience.no_job_s) or doubt.is_certain())
        except RunLost as error:
            why = f"W&B did not open the run of a trial that it handed out: {doubt.reason or error}"
            project = self._sweep.path.rpartition("/")[0]
            mend = f"have its owner let this key write to {project}, or take another one, and " \
                if "HTTP 403" in why else ""
            self._lose(f"{why}; {mend}run the same command again")
            return None if doubt.reason else self._give_back_unopened(why, self._patience.told_s)
        self.opened.add(log.id)
        try:
            self._serve(log, stop_asked)
        except Exception as error:
            if fault_of_machine(error):
                end_in_peace()
            log.mark_preempting()
            self._finish(log, PREEMPTED, ())
            if isinstance(error, OSError):
                raise fault(error) from error
            raise

    def _give_back_unopened(self, problem: str, patience_s: float) -> None:
        """Give the run back that W&B's client could not open, or write the files of: else it is pending for ever."""
        began, run = time.monotonic(), os.environ["WANDB_RUN_ID"]
        try:
            hand_back(self._sweep, run, lambda: self.ending.is_over(began, patience_s))
        except (RunLost, OSError) as error:
            return self._lose(f"W&B did not take back run {run}: {error}")
        self._notify(Note(text=f"trial {run} goes back to the sweep's queue: {problem}"))

    def check_deadline(self) -> None:
        """Ask for the end when the deadline is there."""
        if self._deadline.seconds_left(time.time()) <= 0:
            self.ending.ask(f"the session is at its deadline ({self._deadline.reason})", INTERRUPTED,
                            max(self._deadline.margin_s * 0.8, self._patience.hurry_s))

    def _serve(self, log: RunLog, stop_asked: Callable[[], bool]) -> None:
        given = self._spec.given_by_wandb(log.params)
        # W&B knows the file only: not what the evaluation is held at, and tied parameters as they are written.
        params = self._spec.with_tied(given | dict(self._spec.held))
        trial = Trial(id=log.id, number=-1, params=params, origin="wandb")
        config = _config_of(trial)
        self.check_deadline()
        # the first trial of a session always starts
        why_not = self.ending.reason or (self._runner.why_not(trial) if self._trials_run else None)
        earlier = self._earlier(trial, config) if config and not why_not else None
        missing = missing_here(config) if config and not why_not and not earlier else ""  # another machine may have it
        if why_not or missing:
            why_not = why_not or f"{missing} (seen from {Path.cwd()})"
            self.ending.ask(why_not, 1 if missing else INTERRUPTED)
            self._notify(Note(text=f"trial {log.id} goes back to the sweep's queue: {why_not}"))
            log.describe(TrialResult(id=log.id, status=Status.PREEMPTED, metric=None, reason=why_not),
                         self._spec.metric, stopped=False)
            log.mark_preempting()
            return self._finish(log, PREEMPTED, ())
        trial = replace(trial, number=self._study.claim_number(log.id))
        if config:
            log.add_config({name: value for name, value in config.as_dict().items()
                            if name not in {*given, *self._spec.tied} and name != "gradient_checkpointing"}
                           # the forecast decides checkpointing; W&B keeps the text of a tied parameter under its name
                           | ({"tied": {name: params[name] for name in self._spec.tied}} if self._spec.tied else {}))
        hold = Hold(log, self._patience)
        # who starts in the study may give it back
        log.add_config({STUDY: str(self._study.directory.resolve()), HOLDER: hold.name})
        self._runner.say_started(trial)
        began = time.monotonic()
        if not earlier:
            fetch_checkpoint(log, self._study, lambda text: self._notify(Note(text=text)),
                             lambda: self.ending.is_over(began, self._patience.upload_s))
        result = self._repeat(trial, log, earlier) if earlier else self._train(trial, log, stop_asked, hold)
        if not earlier and hold.ask():
            return self._let_go(result, hold.lost_to)
        stopped = stop_asked() and not earlier
        describe_end(log, result, self._spec.metric, self._study.directory, stopped=stopped)
        code = exit_code(result, stopped=stopped)
        if code == PREEMPTED:
            log.mark_preempting()
        else:
            self._uploads.end(log)
        self._finish(log, code, self._study.snapshot().history(trial.id))
        self._runner.take_end(result)
        self._draw_conclusions(trial, result)

    def _earlier(self, trial: Trial, config: Config) -> TrialRecord | None:
        """Find this trial, ended, or a complete one with the same configuration, which would give the same losses."""
        records = self._study.snapshot().records
        own = next((record for record in records if record.trial.id == trial.id and record.has_own_end), None)
        return own or next((record for record in records if record.result is not None
                            and record.result.status is Status.COMPLETE and record.trial.config == config), None)

    def _repeat(self, trial: Trial, log: RunLog, earlier: TrialRecord) -> TrialResult:
        """Answer a trial from the journal."""
        assert earlier.result is not None
        history = self._study.snapshot().history(earlier.trial.id)
        if earlier.trial.id == trial.id:  # its end never reached W&B
            log.catch_up(history)
            return earlier.result
        reason = f"the same configuration as trial {earlier.trial.id}, answered from the journal"
        self._notify(Note(text=f"trial {trial.id}: {reason}"))
        self._study.record_start(trial, trial.config.as_dict())
        rows = [row for row in history if LOSS in row]
        for row in rows:
            self._study.log(trial.id, row)
        log.add_tag("duplicate")
        log.catch_up(rows)
        result = replace(earlier.result, id=trial.id, reason=reason, seconds=0.0, seconds_by_phase={}, attempts=1,
                         notes={"repeat_of": earlier.trial.id})
        self._study.record_end(result)
        return result

    def _let_go(self, result: TrialResult, holder: str) -> None:
        """Leave a run to who has it: nothing more is written to it, not even its end."""
        end_core()
        leave()
        forget_run()
        self.let_go = True
        result = replace(result, status=Status.PREEMPTED, metric=None, notes={**result.notes, LOST_TO: holder}, reason=(
            f"lost to {holder}: W&B had no word from here for so long that it gave the trial out again"))
        self._study.record_end(result)
        self._runner.take_end(result)

    def _train(self, trial: Trial, log: RunLog, stop_asked: Callable[[], bool], hold: Hold) -> TrialResult:
        self._log, self._stop_asked, self._hold = log, stop_asked, hold
        try:
            return self._supervisor.run(trial)
        except _OutOfTime:
            self._supervisor.close()
            return self._cut_off(trial)
        finally:
            self._log, self._stop_asked, self._hold = None, lambda: False, None

    def _cut_off(self, trial: Trial) -> TrialResult:
        """Record a trial whose worker was ended before it wrote a checkpoint."""
        result = self._study.cut_off(trial.id, "there was no time for a checkpoint; it goes on from its last one, or "
                                               "from the start")
        self._study.record_end(result)
        return result

    def _follow(self, event: Event) -> None:
        """Log what the worker reports of a trial."""
        if self._log is not None and isinstance(event, Logged):
            self._log.log(event.row)
            self._look(self._log)
        elif self._log is not None and isinstance(event, Attached | Resumed):
            self._log.catch_up(self._study.snapshot().history(event.trial))
        elif self._log is not None and isinstance(event, Checkpointed) and not self.ending.reason:
            self._uploads.take(self._log, event.step)  # at the end of a session there is no time for it
        self._notify(event)

    def _look(self, log: RunLog) -> None:
        """Say at once, and not when the trial is over, that W&B takes nothing of it."""
        if time.monotonic() - self._looked > self._patience.told_s:
            self._looked = time.monotonic()
            log.end_halted()
            refusal = refusal_of(log.files)
            if refusal and log.id not in self._told_of:
                self._told_of.add(log.id)
                self._notify(Note(text=f"W&B refuses what run {log.id} sends: {refusal}; the trial goes on, and the "
                                       f"study has all of it"))

    @property
    def _confirms(self) -> bool:
        """Whether the job confirms a trial with another seed, so that its end is what is wanted."""
        return self._log is not None and CONFIRMED_TRIAL in self._log.params

    def _end_asked(self) -> str | None:
        """Say what the supervisor should tell the worker; asked a few times a second."""
        self.check_deadline()
        if self._hold:
            self._hold.look()
            if self._hold.lost_to:
                self._log = None
        if not self.ending.reason:
            return "stop" if self._stop_asked() else "preempt" if self._hold and self._hold.lost_to else None
        if self.ending.is_over(-math.inf):
            raise _OutOfTime
        if self._stop_asked():  # and not handed back, which a mark would do with whatever the trial ends as
            return "stop"
        if self._log is not None:
            self._log.mark_preempting()
        return "preempt"

    def _finish(self, log: RunLog, code: int, rows: Sequence[Mapping[str, Any]]) -> None:
        began, path, files = time.monotonic(), log.path, log.files
        doubt = Doubt(path)
        try:
            log.finish(code, rows, lambda: self.ending.is_over(began, self._patience.upload_s) or doubt.is_certain())
        except RunLost as error:
            if not doubt.reason:
                state = "unknown" if isinstance(error.__cause__, TimeoutError) else ask_run(path)[1].state
                if state in ("finished", "failed", "preempted"):
                    return self._lose(f"W&B's client failed when run {log.id} had ended, which W&B shows as {state}: "
                                      f"{error}; the study has all of it")
                self._note_missing(log.id, str(error))
                if state == "unknown":
                    return self._lose(f"W&B has not confirmed the end of run {log.id}: {error}; if it lacks it, it "
                                      f"calls the run crashed; the study has all of it")
                return self._lose(f"W&B did not take the end of run {log.id}: {error}; it will call the run crashed, "
                                  f"the study has all of it")
            self.lost = True
        missing = doubt.reason or what_is_missing(
            path, files, lambda: self.ending.is_over(began, self._patience.upload_s), goes_back=code == PREEMPTED)
        if missing:
            self._note_missing(log.id, missing)
            line = upload_line(path, files, is_gone=missing.endswith("gone there"))
            self._notify(Note(text=(reason := f"W&B lacks the end of run {path}: {missing}; the study has all of it; "
                                              f"when W&B takes it again, upload it with: {line}")))
            self.ending.ask(reason, 1)
        elif refusal := refused_file(files):
            self._notify(Note(text=f"W&B has every row of run {path}, and lacks files of it: {refusal}"))
        if log.reopened:
            self.ending.ask("W&B's own process died and was started anew, which its agent does not survive; run the "
                            "same command again", 1)

    def _note_missing(self, trial: str, missing: str) -> None:
        """Write into the journal that W&B lacks a trial."""
        for record in self._study.snapshot().records:
            if record.trial.id == trial and record.result is not None:
                self._study.record_end(replace(record.result, notes={**record.result.notes, "not_on_wandb": missing}))

    def _lose(self, reason: str) -> None:
        self.lost = True
        self._notify(Note(text=reason))
        self.ending.ask(reason, 1)

    def _draw_conclusions(self, trial: Trial, result: TrialResult) -> None:
        """Decide whether the agent goes on, and measure the untouched base once, while it is warm."""
        if result.status is Status.PREEMPTED:
            return self.ending.ask(result.reason, INTERRUPTED)
        self._trials_run += 1
        if self._runner.failures.verdict:
            self.ending.ask(self._runner.failures.verdict, 1)
        if self._trials_run == self._count:
            self.ending.ask(f"{how_many(self._count, 'trial')} {'is' if self._count == 1 else 'are'} done, as asked")
        try:
            self._runner.measure_base(trial, result)
        except _OutOfTime:
            self._supervisor.close()


def _config_of(trial: Trial) -> Config | None:
    """Return the config of a trial; none where it cannot be made, which the supervisor says."""
    try:
        return trial.config
    except ConfigError:
        return None
