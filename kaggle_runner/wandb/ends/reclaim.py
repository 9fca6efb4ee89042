"""Trials that a killed agent left behind: found by an agent that starts or is between two, and given back to resume.

Nothing can be said by a process that was killed, or whose power went: W&B shows its run as running, then as crashed,
and hands a crashed run to nobody. Two kinds are found: those of this study without an end, and those of the sweep,
from whatever machine, that are crashed and hold a checkpoint.
"""

import socket
from collections.abc import Iterator
from dataclasses import replace

import wandb

from kaggle_runner.events import Note, Notify
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.wandb.answers import ask_run
from kaggle_runner.wandb.checkpoints import CHECKPOINT, ENDED, FOLDER
from kaggle_runner.wandb.connection import API_ERRORS, GiveUp
from kaggle_runner.wandb.ends.hand_back import hand_back
from kaggle_runner.wandb.run import RunLost
from kaggle_runner.wandb.sweep import RemoteSweep

_HELD = ("running", "preempting", "pending")
_KILLED = "its agent was killed"


def reclaim(sweep: RemoteSweep, study: Study, notify: Notify, give_up: GiveUp, *, alone: bool) -> None:
    """Give back what killed agents left of a sweep, and record the ends of this study's trials.

    Beside other agents of the study, not `alone`, those of its trials count that nobody runs as far as can be seen
    from here, and the sweep's others are left to the one that was there first. No run of this process may be open.
    """
    own = [record.trial.id for record in study.snapshot().records
           if record.result is None and (alone or not record.is_held)]
    for trial in own:
        _end(sweep, study, trial, notify, give_up)
    for run in list(_crashed_with_checkpoint(sweep, notify)) if alone else ():
        if run not in own:
            _give_back(sweep, run, notify, give_up, f"its agent is gone, and its checkpoint is on W&B; run {run}")


def _end(sweep: RemoteSweep, study: Study, trial: str, notify: Notify, give_up: GiveUp) -> None:
    """Record the end of a trial of this study that nobody runs, and give it back where W&B does not have it back."""
    _, holder = ask_run(f"{sweep.path.rsplit('/', 1)[0]}/{trial}")
    if holder.state in _HELD and holder.host not in ("", socket.gethostname()):
        return study.record_end(study.cut_off(trial, f"{_KILLED}; it goes on on {holder.host}"))
    if holder.state == "preempted":
        return study.record_end(study.cut_off(trial, f"{_KILLED}; W&B gives it out again"))
    if holder.state in ("finished", "failed", "killed", "gone"):
        return study.record_end(_lost(study, trial, f"{_KILLED}, and on W&B its run is {holder.state}"))
    # before its run goes back: an agent beside this one may have it a moment later
    study.record_end(study.cut_off(trial, f"{_KILLED}; it goes on from its last checkpoint, or from the start"))
    refusal = _give_back(sweep, trial, notify, give_up, f"{_KILLED}; run {trial}")
    if refusal:
        study.record_end(_lost(study, trial, f"{_KILLED}, and W&B did not take its run back: {refusal}"))


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


def _crashed_with_checkpoint(sweep: RemoteSweep, notify: Notify) -> Iterator[str]:
    """Find the crashed runs of a sweep that hold a checkpoint."""
    entity, project, name = sweep.path.split("/")
    try:
        for run in wandb.Api().runs(f"{entity}/{project}", filters={"sweep": name, "state": "crashed"}):
            sizes = [file.size for file in run.files([f"{FOLDER}/{CHECKPOINT}"])]
            if sizes and sizes[0] > len(ENDED):
                yield str(run.id)
    except API_ERRORS as error:
        notify(Note(text=f"W&B does not say which runs have crashed: {' '.join(str(error).split())[:200]}"))
