"""Trials that a killed agent left behind: found by an agent that starts or is between two, and given back to resume.

Nothing can be said by a process that was killed, or whose power went: W&B shows its run as running, then as crashed,
and hands a crashed run to nobody. Found are the trials of this study without an end, or that go on later, which W&B
did not get, the jobs that its earlier agents were given and never began, and those of the sweep, from whatever machine,
that are crashed and hold a checkpoint. An end that W&B did not get is told, and its trial not given back.
"""

import contextlib
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from kaggle_runner.events import Note, Notify
from kaggle_runner.run.signals import handling
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.lock import is_held, turn
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.wandb.connection import GiveUp
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.ends.hand_back import hand_back
from kaggle_runner.wandb.ends.missed import tell_missed
from kaggle_runner.wandb.ends.unheld import OPEN, crashed_that_go_on, holder_of, is_of, pending_of
from kaggle_runner.wandb.run import RunLost
from kaggle_runner.wandb.sweep import RemoteSweep

_HELD = (*OPEN, "pending")
_KILLED = "its agent was killed"
_POLL_S = 0.1
_OPENED_S = 10.0
"""Seconds in which an agent opens the run of a job that it was given: one may have the job that another had before."""


@contextlib.contextmanager
def seen_through(patience: AgentPatience) -> Iterator[GiveUp]:
    """Let what is given back in the block come to its end: a signal hurries it, and is raised when it is over.

    Raises:
        KeyboardInterrupt: a signal came; a second one leaves no time.
    """
    began, came = time.monotonic(), list[float]()

    def give_up() -> bool:
        since, patience_s = (came[0], patience.hurry_s) if came else (began, patience.upload_s)
        return len(came) > 1 or time.monotonic() - since > patience_s

    with handling(lambda number, frame: came.append(time.monotonic())):
        yield give_up
    if came:
        raise KeyboardInterrupt


def reclaim(sweep: RemoteSweep, study: Study, notify: Notify, give_up: GiveUp, *, alone: bool) -> None:
    """Give back what killed agents left of a sweep, and record the ends of this study's trials.

    Beside other agents of the study, not `alone`, those of its trials and jobs count whose process is gone; a run that
    ended without W&B's knowledge may be another's by now, so it is given back when W&B calls it crashed. No run of this
    process may be open.
    """
    snapshot = study.snapshot()
    own = [record.trial.id for record in snapshot.records
           if record.result is None and (alone or not record.is_held)]
    for trial in own:
        if give_up():
            return
        _end(sweep, study, trial, notify, give_up)
    agents = [agent["id"] for agent in snapshot.agents
              if alone or not is_held(agent.get("by") or {}, study.directory)]
    for run, why in (*(_not_preempted(sweep, study, snapshot, give_up) if alone else ()),
                     *_never_opened(sweep, agents, give_up)):
        if not give_up():
            _give_back(sweep, run, notify, give_up, f"{why}; run {run}")
    tell_missed(sweep, study.directory, notify, give_up, alone=alone)
    reclaim_crashed(sweep, study.directory, notify, give_up, own)


def reclaim_crashed(sweep: RemoteSweep, directory: Path, notify: Notify, give_up: GiveUp,
                    done: Collection[str]) -> list[str]:
    """Give back what crashed and goes on, but what is `done`; return what W&B took.

    One agent of the study in `directory` does it at a time; another machine's may do it as well, so each run is looked
    at once more.
    """
    with turn(directory) as is_ours:
        crashed, trouble = crashed_that_go_on(sweep, directory) if is_ours else ({}, "")
        if trouble:
            notify(Note(text=f"W&B does not say which runs have crashed: {trouble[:200]}"))
        return [run for run, why in crashed.items() if run not in done and not give_up()
                and holder_of(sweep, run).state == "crashed"
                and not _give_back(sweep, run, notify, give_up, f"{why}; run {run}")]


def _not_preempted(sweep: RemoteSweep, study: Study, snapshot: Snapshot, give_up: GiveUp) -> Iterator[tuple[str, str]]:
    """Find the trials that go on later by the journal, and of which W&B never got that."""
    for record in snapshot.records:
        if record.result is not None and record.result.status is Status.PREEMPTED and not give_up():
            holder = holder_of(sweep, record.trial.id)
            if holder.state == "crashed" or (holder.state in OPEN and is_of(holder, study.directory)):
                yield record.trial.id, "W&B did not get the end of its last session"


def _never_opened(sweep: RemoteSweep, agents: Collection[str], give_up: GiveUp) -> Iterator[tuple[str, str]]:
    """Find the runs that agents which are gone were given, and never opened."""
    waiting, until = set(pending_of(sweep, agents)), time.monotonic() + _OPENED_S
    while waiting and time.monotonic() < until and not give_up():
        time.sleep(_POLL_S)
    for run in sorted(waiting & set(pending_of(sweep, agents)) if waiting else ()):
        yield run, "it was handed to an agent that is gone, and its trial never began"


def _end(sweep: RemoteSweep, study: Study, trial: str, notify: Notify, give_up: GiveUp) -> None:
    """Record the end of a trial of this study that nobody runs, and give it back where W&B does not have it back."""
    holder = holder_of(sweep, trial)
    if holder.state in _HELD and not is_of(holder, study.directory):
        where = holder.host if holder.host != socket.gethostname() else holder.study
        return study.record_end(study.cut_off(trial, f"{_KILLED}; it goes on on {where}"))
    if holder.state == "preempted":
        return study.record_end(study.cut_off(trial, f"{_KILLED}; W&B gives it out again"))
    if holder.state in ("finished", "failed", "killed", "gone"):
        return study.record_end(_lost(study, trial, f"{_KILLED}, and on W&B its run is {holder.state}"))
    # before its run goes back: an agent beside this one may have it a moment later
    study.record_end(study.cut_off(trial, f"{_KILLED}; it goes on from its last checkpoint, or from the start"))
    refusal = _give_back(sweep, trial, notify, give_up, f"{_KILLED}; run {trial}")
    if refusal and not give_up():  # else the next start tries again
        study.record_end(_lost(study, trial, f"{_KILLED}, and W&B did not take its run back: {refusal}"))


def still_waiting(sweep: RemoteSweep, runs: Collection[str]) -> list[str]:
    """Return those of some runs that went back to the queue and that no agent has taken since, as far as W&B says."""
    return [run for run in runs if holder_of(sweep, run).state not in ("pending", "running", "finished")]


def _lost(study: Study, trial: str, reason: str) -> TrialResult:
    return replace(study.cut_off(trial, reason), status=Status.FAILED, notes={"kind": "lost"})


def _give_back(sweep: RemoteSweep, run: str, notify: Notify, give_up: GiveUp, why: str) -> str:
    """Give a run back and say so; return why W&B did not take it, empty if it did."""
    try:
        hand_back(sweep, run, give_up)
    except RunLost as error:
        notify(Note(text=f"{why} could not be given back to the sweep: {error}"))
        return str(error)
    notify(Note(text=f"{why} goes back to the sweep's queue, and resumes"))
    return ""
