"""A W&B sweep whose points this process chooses: agents anywhere train them, our search learns from what they log.

The study's directory is the search's memory, and W&B's runs are what is out. So the process may end, or be killed, at
any moment: while it is away agents finish what they have and then wait, and the same command goes on.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.errors import WandbError
from kaggle_runner.events import Note, Notify, SweepStarted
from kaggle_runner.files import json_lines
from kaggle_runner.machine.deadline import in_minutes
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.confirm import open_confirmation, runs_left, why_again
from kaggle_runner.run.fixed_trials import left_of
from kaggle_runner.run.local_sweep import SweepOrder, begin_with
from kaggle_runner.run.one_trial import preempts
from kaggle_runner.run.points.prior import remember
from kaggle_runner.run.rungs import extrapolated
from kaggle_runner.run.search import OptunaSearch
from kaggle_runner.run.shared.order import SEARCHED_HERE
from kaggle_runner.run.signals import end_on_signals
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study
from kaggle_runner.study.trial import Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import OFF, Confirm
from kaggle_runner.wandb.connection import connect, leave
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.here.given_out import GivenOut, HerePatience
from kaggle_runner.wandb.here.runs import SweepRuns, config_of, require_interface
from kaggle_runner.wandb.sweep import OVER_STATES, RemoteSweep, create_sweep, find_sweep
from kaggle_runner.wording import how_many


@dataclass(frozen=True, kw_only=True)
class HereOrder:
    """What a user asked for besides the sweep file."""

    local: SweepOrder
    """Directory, trials, seed, what is known beforehand, deadline."""
    agents: int = 1
    """Trials that are out at a time; with one the points are those of a study on one machine."""
    confirm: Confirm = OFF
    entity: str | None = None
    project: str | None = None
    patience: HerePatience = field(default_factory=HerePatience)


@dataclass(frozen=True, kw_only=True)
class HereSession:
    """What a session came to."""

    snapshot: Snapshot
    sweep: RemoteSweep
    reason: str
    """Why it ended, in a sentence."""
    is_unfinished: bool
    """Whether there is more to do; the same command then goes on."""
    away: str = ""
    """What happens until then, where agents have trials or wait for some."""
    unconfirmed: str = ""
    """Which confirming training the machine ended; empty if it ended none."""


def search_here(spec: SweepSpec, order: HereOrder, environment: Environment, notify: Notify) -> HereSession:
    """Make the sweep on W&B, or go on with it, and give its trials out until it is done or the session must end.

    Raises:
        SweepError: only W&B's scheduler can search it, or nothing says when it ends.
        SecretError: no key, or a malformed one.
        WandbError: W&B cannot be reached or refuses, or lets nobody else choose points.
        StudyError: the directory cannot be used, or is of another sweep file or seed.
    """
    spec.require_search()
    key = connect(environment, lambda text: notify(Note(text=text)))
    try:
        require_interface()
        known = begin_with(spec, order.local, notify)
        with Study.open_for_writing(order.local.directory, name=spec.name, sweep=spec.raw, metric=spec.metric,
                                    goal=spec.goal, seed=order.local.seed) as study, end_on_signals(notify) as ending:
            remember(known, study)
            noted = sweep_of(study.directory)
            here = _Here(spec, order, study, notify, preempts(ending, order.local.deadline))
            total = here.search.total(order.local.count)  # said before anything is made on W&B
            if noted is None:
                sweep = create_sweep(spec, environment, entity=order.entity, project=order.project,
                                     config=config_of(spec, with_seed=order.confirm.runs > 0))
                study.append({"event": SEARCHED_HERE, "sweep": sweep.path, "url": sweep.url})
            else:
                sweep = find_sweep(str(noted["sweep"]), key, may_be_over=True)
            notify(Note(text=f"sweep {sweep.path} ({sweep.url}): its points are chosen here, "
                             f"{how_many(order.agents, 'trial')} at a time; agents: python -m kaggle_runner agent "
                             f"{sweep.path}"))
            if spec.early_terminate:
                notify(Note(text="early_terminate: W&B takes none where others choose the points; each agent ends "
                                 "trials that are clearly worse than its others"))
            study.start_session(environment.as_dict() | {
                "pid": os.getpid(), "trials": total, "deadline": order.local.deadline.at, "sweep": sweep.path,
                "wandb": wandb.__version__})
            return here.run(sweep, SweepRuns(sweep.path, key), total)
    finally:
        leave()


def sweep_of(directory: Path) -> Mapping[str, Any] | None:
    """Return what a study's journal says of its sweep on W&B; none where it has none."""
    if not (directory / JOURNAL).is_file():
        return None
    return next((event for event in json_lines(directory / JOURNAL) if event.get("event") == SEARCHED_HERE), None)


class _Here:
    """One session."""

    def __init__(self, spec: SweepSpec, order: HereOrder, study: Study, notify: Notify,
                 ends: Callable[[], str | None]) -> None:
        self._spec, self._order, self._study, self._notify, self._ends = spec, order, study, notify, ends
        out = {record.trial.id for record in study.snapshot().records if record.run}
        self.search = OptunaSearch(
            study, spec, notify=notify, told_value=lambda result: extrapolated(result, study.snapshot()),
            stops_early=order.local.stops_early, elsewhere=out)
        self._silent_since: float | None = None
        self._is_paused = False

    def run(self, sweep: RemoteSweep, runs: SweepRuns, total: int) -> HereSession:
        study, confirm = self._study, self._order.confirm
        before = study.snapshot()
        finished = len(before.finished)
        self._notify(SweepStarted(total=total, finished=finished, directory=str(study.directory),
                                  workers=self._order.agents, confirming=runs_left(before, confirm, total)))
        given = GivenOut(study, self._spec, sweep, runs, self._order.patience, self._notify)
        is_over = sweep.state in OVER_STATES
        goes_on = not self.search.is_complete(total) or bool(given.open)
        if goes_on and is_over:
            self._resume(sweep, runs)
        why = self._give_out(given, runs, lambda: self._next(total), self.search.tell) if goes_on else ""
        reason, unconfirmed = why or self.search.reason, ""
        if not why and confirm.runs:
            with open_confirmation(study.snapshot(), confirm, self._notify) as opened:
                if opened is not None:
                    beside, trials = opened
                    given = GivenOut(beside, self._spec, sweep, runs, self._order.patience, self._notify)
                    todo = [trial for trial in left_of(beside.snapshot(), trials) if trial.id not in given.trials]
                    twice: list[Trial] = []

                    def tell(trial: Trial, result: TrialResult) -> None:
                        if result.is_of_the_machine and trial not in twice:  # once more, as at home
                            twice.append(trial)
                            todo.append(trial)

                    if is_over and not goes_on and (todo or given.open):
                        self._resume(sweep, runs)
                    why = self._give_out(given, runs, lambda: todo.pop(0) if todo else None, tell)
                    unconfirmed = "" if why else why_again(beside.snapshot(), trials)
        if not why:
            self._end(sweep, runs)
        return HereSession(snapshot=study.snapshot(), sweep=sweep, reason=why or reason, unconfirmed=unconfirmed,
                           is_unfinished=bool(why or unconfirmed), away=_away(given) if why else "")

    def _next(self, total: int) -> Trial | None:
        return None if self.search.is_complete(total) else self.search.ask(total)

    def _give_out(self, given: GivenOut, runs: SweepRuns, choose: Callable[[], Trial | None],
                  tell: Callable[[Trial, TrialResult], object]) -> str:
        """Give trials out and take their ends in until there is none; return why the session ended before, if it did.

        Raises:
            WandbError: the sweep is gone, or W&B did not answer for too long.
        """
        waiting: list[Trial] = []
        while True:
            seen = runs.look(list(given.open))
            if self._is_heard(seen.answer.trouble):
                if seen.sweep == "DELETED":
                    raise WandbError(f"the sweep {runs.path} was deleted on W&B; {self._study.directory} keeps its "
                                     f"trials: begin anew in another directory with --study, and learn from them with "
                                     f"--prior-study {self._study.directory}")
                for trial, result in given.ended(seen) if seen.sweep != "CANCELED" else ():  # which kills what runs
                    tell(trial, result)
                if seen.sweep in OVER_STATES:
                    return f"the sweep {runs.path} was ended on W&B: it is {seen.sweep.lower()}"
                self._tell_paused(seen.sweep == "PAUSED", runs)
                waiting += given.dropped
                given.dropped.clear()
                while len(given.open) < self._order.agents:
                    chosen = waiting[0] if waiting else choose()
                    if chosen is None:
                        break
                    waiting = waiting or [chosen]
                    if not given.give_out(chosen):
                        break
                    waiting.remove(chosen)
                if not given.open and not waiting:
                    return ""
            until = time.monotonic() + self._order.patience.poll_s
            while time.monotonic() < until:
                if why := self._ends():
                    return "interrupted" if why == "preempt" else why
                time.sleep(min(0.1, self._order.patience.poll_s))

    def _is_heard(self, trouble: str) -> bool:
        """Say whether W&B answers; it is said once if it does not.

        Raises:
            WandbError: it has not for too long.
        """
        now = time.monotonic()
        if not trouble:
            if self._silent_since is not None:
                self._notify(Note(text="W&B answers again"))
            self._silent_since = None
            return True
        if self._silent_since is None:
            self._silent_since = now
            self._notify(Note(text=f"{trouble}; agents go on with what they have, waiting for it"))
        if now - self._silent_since > self._order.patience.server_s:
            raise WandbError(f"{trouble}, and has not answered for {in_minutes(self._order.patience.server_s)}; agents "
                             f"go on with what they have, run the same command again later")
        return False

    def _tell_paused(self, is_paused: bool, runs: SweepRuns) -> None:
        if is_paused and not self._is_paused:
            self._notify(Note(text=f"the sweep is paused, so agents get no trial; run: wandb sweep --resume "
                                   f"{runs.path}"))
        self._is_paused = is_paused

    def _resume(self, sweep: RemoteSweep, runs: SweepRuns) -> None:
        """Have W&B give trials of a sweep again that was finished.

        Raises:
            WandbError: it does not.
        """
        said = runs.set_state("--resume")
        if runs.look([]).sweep in OVER_STATES:
            raise WandbError(f"the sweep {sweep.path} is {sweep.state.lower()}, and W&B does not take it up again; "
                             f"begin anew in another directory with --study, and learn from this one with "
                             f"--prior-study {self._study.directory}; W&B's program said: {said or 'nothing'}")

    def _end(self, sweep: RemoteSweep, runs: SweepRuns) -> None:
        """Have W&B send the sweep's agents home."""
        if runs.look([]).sweep in OVER_STATES:
            return
        said = runs.set_state("--stop")
        if runs.look([]).sweep not in OVER_STATES:
            self._notify(Note(text=f"every trial is done, but W&B did not end the sweep, so its agents wait; end it on "
                                   f"its page {sweep.url}; W&B's program said: {said or 'nothing'}"))


def _away(given: GivenOut) -> str:
    """Say what happens while nobody chooses points."""
    out = len(given.open)
    are = "is" if out == 1 else "are"
    finish = f"agents finish the {how_many(out, 'trial')} that {are} out, then" if out else "agents"
    return f"{finish} get no new one; each waits {in_minutes(AgentPatience().no_job_s)} and ends; nothing is lost"
