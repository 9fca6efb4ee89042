"""Trials that are given out as runs of a W&B sweep: which run each one is, and what becomes of it.

Order of writes: the trial's start in `trials.jsonl`, the run on W&B, the run's id in `trials.jsonl`. A kill between the
last two leaves a run that nobody knows: it is found by its configuration when the search goes on, and never made twice.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kaggle_runner.events import Note, Notify, TrialEnded
from kaggle_runner.files import json_lines
from kaggle_runner.machine.deadline import in_minutes
from kaggle_runner.study.journal import JOURNAL, Study
from kaggle_runner.study.ranking import OF_TRIAL
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.distributions import same_value
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.wandb.connection import API_ERRORS
from kaggle_runner.wandb.ends.hand_back import hand_back
from kaggle_runner.wandb.here.runs import Seen, SweepRuns
from kaggle_runner.wandb.run import CONFIRMED_TRIAL, RunLost
from kaggle_runner.wandb.sweep import RemoteSweep
from kaggle_runner.wording import how_many

ALIVE = ("pending", "running", "preempting", "preempted")
"""The states of a run that will go on: W&B gives a preempted one out again by itself."""
CRASHES = 2
"""How often a trial whose machine died is given out anew."""


@dataclass(frozen=True, kw_only=True)
class HerePatience:
    """How long somebody who gives trials out waits, in seconds."""

    poll_s: float = 5.0
    """Between two looks at the runs."""
    crashed_s: float = 120.0
    """After W&B calls a run crashed, which takes five minutes of silence, until it is given to another machine."""
    settle_s: float = 20.0
    """For the summary of a run that has ended."""
    server_s: float = 600.0
    """For a server that does not answer."""
    told_s: float = 600.0
    """Until it is said that nobody has taken a trial."""


class GivenOut:
    """The trials of one study that are runs of a sweep."""

    def __init__(self, study: Study, spec: SweepSpec, sweep: RemoteSweep, runs: SweepRuns, patience: HerePatience,
                 notify: Notify) -> None:
        """Find the trials of the study that are out already.

        Raises:
            WandbError: W&B does not show its runs.
        """
        self._study, self._spec, self._sweep, self._runs = study, spec, sweep, runs
        self._patience, self._notify = patience, notify
        self.open: dict[str, Trial] = {}
        """Run -> trial."""
        self.dropped: list[Trial] = []
        """Trials whose runs are gone, to be given out anew."""
        self._since: dict[str, tuple[str, float]] = {}
        self._told: set[str] = set()
        self._must_look = False
        self._adopt()

    @property
    def trials(self) -> set[str]:
        """The names of the trials that are out."""
        return {trial.id for trial in self.open.values()}

    def give_out(self, trial: Trial) -> bool:
        """Make a trial a run of the sweep; say whether W&B took it, and the next call tries again if not.

        Raises:
            WandbError: W&B does not show its runs.
        """
        if self._must_look:  # an answer was lost, and the run may be there
            self._adopt()
        if trial.id in self.trials:
            return True
        self._study.record_start(trial, trial.params)
        config = self._sent(trial)
        of = f", {trial.origin}" if CONFIRMED_TRIAL in config else ""
        try:
            run = self._runs.give_out(config, f"{trial.id}{of} with seed {config['seed']}" if of else trial.id)
        except API_ERRORS as error:
            self._must_look = True
            self._notify(Note(text=f"W&B did not take trial {trial.id}: {' '.join(str(error).split())[:200]}"))
            return False
        self._note(trial, run)
        shown = {name: config[name] for name in self._spec.searched if name in config}
        self._notify(Note(text=f"trial {trial.id} ({trial.origin}) is given out as run {run}: "
                               + "  ".join(f"{name} {_short(value)}" for name, value in shown.items())))
        return True

    def ended(self, seen: Seen) -> list[tuple[Trial, TrialResult]]:
        """Return those that have ended since the last look, recorded in the study.

        Raises:
            StudyError: the record cannot be written.
        """
        found = []
        for run, trial in list(self.open.items()):
            state = seen.runs.get(run, "gone")
            before, since = self._since.get(run, ("", 0.0))
            if state != before:
                since = time.monotonic()
                self._since[run] = (state, since)
            for_s = time.monotonic() - since
            if state == "gone" and before in ("", "pending", "gone"):
                self._forget(run, trial)
                continue
            if state in ALIVE:
                self._tell_waiting(run, trial, state, for_s)
                continue
            if state == "crashed" and (for_s < self._patience.crashed_s or self._given_back(run, trial)):
                continue
            result = self._result(run, trial, state, for_s)
            if result is None:
                continue
            self._study.record_end(result)
            self._notify(TrialEnded(trial=trial.id, status=result.status.value, metric=result.metric,
                                    reason=result.reason, seconds=result.seconds))
            del self.open[run]
            found.append((trial, result))
        return found

    def _result(self, run: str, trial: Trial, state: str, for_s: float) -> TrialResult | None:
        """Read how a run ended; none while W&B has not all of it."""
        if state == "gone":
            return TrialResult(id=trial.id, status=Status.FAILED, metric=None, reason="its run was deleted on W&B",
                               notes={"run": run, "kind": "lost"})
        try:
            rows, result, is_ours = self._runs.result(run, trial.id, self._spec.judged_by)
        except API_ERRORS as error:
            if for_s > self._patience.settle_s and run not in self._told:
                self._told.add(run)
                self._notify(Note(text=f"W&B does not show run {run}: {' '.join(str(error).split())[:200]}"))
            return None
        if result is None or not (is_ours or for_s > self._patience.settle_s):
            return None
        if result.status is Status.PREEMPTED:  # what an earlier session said; this one ended without a word
            result = replace(result, status=Status.FAILED, reason=f"{state} on W&B")
        if state == "crashed":
            result = replace(result, status=Status.FAILED, notes={"kind": "lost"}, reason=(
                f"its machine died {how_many(self._crashes(trial) + 1, 'time')}"))
        directory = self._study.trial_directory(trial.id) / "history.jsonl"
        directory.unlink(missing_ok=True)
        for row in rows:
            self._study.log(trial.id, row)
        return replace(result, notes={**result.notes, "run": run})

    def _given_back(self, run: str, trial: Trial) -> bool:
        """Give a trial whose machine died to another one; say whether it may go on."""
        if self._crashes(trial) >= CRASHES:
            return False
        began = time.monotonic()
        try:
            hand_back(self._sweep, run, lambda: time.monotonic() - began > self._patience.server_s)
        except RunLost as error:
            self._notify(Note(text=f"run {run}, whose machine died, could not be given to another one: {error}"))
            self._since[run] = ("crashed", time.monotonic())
            return True
        self._study.append({"event": "given_back", "trial": trial.id, "run": run})
        self._notify(Note(text=f"the machine of trial {trial.id} (run {run}) gives no sign of life: it goes to "
                               f"another one"))
        return True

    def _crashes(self, trial: Trial) -> int:
        return sum(event.get("event") == "given_back" and event["trial"] == trial.id
                   for event in json_lines(self._study.directory / JOURNAL))

    def _tell_waiting(self, run: str, trial: Trial, state: str, for_s: float) -> None:
        if state == "pending" and for_s > self._patience.told_s and run not in self._told:
            self._told.add(run)
            self._notify(Note(text=f"nobody has begun trial {trial.id} for {in_minutes(for_s)}; start an agent: "
                                   f"python -m kaggle_runner agent {self._sweep.path}; or, if one took run {run} and "
                                   f"died, delete that run on W&B, and the trial is given out anew"))

    def _forget(self, run: str, trial: Trial) -> None:
        self._study.append({"event": "run", "trial": "", "run": run})
        self._notify(Note(text=f"run {run} was deleted before anybody trained it: trial {trial.id} is given out anew"))
        del self.open[run]
        self.dropped.append(trial)

    def _note(self, trial: Trial, run: str) -> None:
        self._study.append({"event": "run", "trial": trial.id, "run": run})
        self.open[run] = trial

    def _adopt(self) -> None:
        """Take up the runs of trials without an end: those that the journal names, and those found by configuration."""
        snapshot = self._study.snapshot()
        waiting = {record.trial.id: record.trial for record in snapshot.records if record.result is None}
        self.open |= {run: waiting[trial] for run, trial in snapshot.runs.items() if trial in waiting}
        self._must_look = False
        free = [trial for name, trial in waiting.items() if name not in self.trials]
        if not free:
            return
        for run, config in self._runs.everything().items():
            trial = next((one for one in free if run not in snapshot.runs and self._is(one, config)), None)
            if trial is not None:
                free.remove(trial)
                self._note(trial, run)

    def _is(self, trial: Trial, config: Mapping[str, Any]) -> bool:
        """Say whether a run's configuration is a trial's."""
        sent = self._sent(trial)
        return (CONFIRMED_TRIAL in config) == (CONFIRMED_TRIAL in sent) and all(
            name in config and same_value(config[name], value) for name, value in sent.items())

    def _sent(self, trial: Trial) -> dict[str, Any]:
        """Return what a run is made with: what the file names, and nothing that follows from it."""
        names = [name for name in self._spec.parameters if name not in self._spec.held]
        config = {name: trial.params[name] for name in names if name in trial.params}
        if trial.origin.startswith(OF_TRIAL):
            config |= {"seed": trial.params["seed"], CONFIRMED_TRIAL: trial.origin.removeprefix(OF_TRIAL)}
        return config


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
