"""Ends of trials that W&B never got, because their agent was killed before they were sent: told from the journal.

W&B shows such a run as running and then as crashed, and its search never hears of the value. Nobody needs to train it
again, so it does not go through the sweep's queue, from which any machine may take it: its run is opened, what is
missing is sent, and it is ended as its agent would have.
"""

import contextlib
import socket
from collections.abc import Collection
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.study.answers import answers_of_trial
from kaggle_runner.study.journal import JOURNAL, read_study
from kaggle_runner.study.lock import is_held, turn
from kaggle_runner.study.trial import Status, TrialRecord, TrialResult
from kaggle_runner.wandb.checkpoints import free_checkpoint
from kaggle_runner.wandb.connection import GiveUp
from kaggle_runner.wandb.ends.hand_back import opened
from kaggle_runner.wandb.ends.received import what_is_missing
from kaggle_runner.wandb.ends.unheld import OPEN, holder_of, is_of, runs_in
from kaggle_runner.wandb.run import RunLog, RunLost, exit_code
from kaggle_runner.wandb.sweep import RemoteSweep


def tell_missed(sweep: RemoteSweep, directory: Path, notify: Notify, give_up: GiveUp, done: Collection[str] = (), *,
                alone: bool = False) -> list[str]:
    """Tell W&B of the ends that it missed, but of those `done`; return the runs that were tried.

    Where nobody else works on the study, `alone`, also of runs that W&B calls running yet. One agent of a study does
    it at a time. No run of this process may be open.
    """
    tried = []
    with turn(directory) as is_its_turn:
        for record in _missed(sweep, directory, alone=alone) if is_its_turn else ():
            run = record.trial.id
            if run in done or give_up() or not _is_untold(run, sweep, directory, alone=alone):
                continue
            tried.append(run)
            notify(Note(text=f"W&B did not get the end of trial {run}, whose agent is gone: telling it"))
            try:
                _tell(sweep, directory, record, give_up)
            except (RunLost, StudyError) as error:
                notify(Note(text=f"W&B could not be told the end of trial {run} now: {error}"))
    return tried


def missed_ends(sweep: RemoteSweep, directory: Path) -> list[str]:
    """Return the crashed runs of a sweep whose ends the study has, and that no process of this machine may send."""
    return [record.trial.id for record in _missed(sweep, directory)]


def describe_end(log: RunLog, result: TrialResult, metric: str, directory: Path, *, stopped: bool = False) -> None:
    """Write into a run how its trial ended, and what the model of a complete one wrote to held-out rows."""
    log.describe(result, metric, stopped=stopped)
    if result.status is Status.COMPLETE:
        log.show_answers(answers_of_trial(directory / "trials" / str(result.notes.get("repeat_of") or result.id)))


def _missed(sweep: RemoteSweep, directory: Path, *, alone: bool = False) -> list[TrialRecord]:
    runs = runs_in(sweep, "crashed", *(OPEN if alone else ()))
    records = read_study(directory).records if runs and (directory / JOURNAL).is_file() else ()
    return [record for record in records if record.trial.id in runs and record.has_own_end and not (
        record.holder.get("host") == socket.gethostname() and is_held(record.holder, directory))]


def _is_untold(run: str, sweep: RemoteSweep, directory: Path, *, alone: bool) -> bool:
    """Say whether it is still for this study to tell the end of a run: another machine may have it by now."""
    holder = holder_of(sweep, run)
    return holder.state == "crashed" or (alone and holder.state in OPEN and is_of(holder, directory))


def _tell(sweep: RemoteSweep, directory: Path, record: TrialRecord, give_up: GiveUp) -> None:
    result, rows = record.result, read_study(directory).history(record.trial.id)
    assert result is not None
    with opened(sweep, record.trial.id, give_up) as log:
        path, files = log.path, log.files
        log.catch_up(rows)
        if result.notes.get("repeat_of"):
            log.add_tag("duplicate")
        describe_end(log, result, sweep.spec.metric, directory)
        with contextlib.suppress(OSError):  # it only takes space there
            free_checkpoint(log, directory / "trials" / record.trial.id)
        log.finish(exit_code(result, stopped=False), rows, give_up)
        if missing := what_is_missing(path, files, give_up, goes_back=False):
            raise RunLost(missing)
