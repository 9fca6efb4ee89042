"""A study's trials as offline W&B runs: no account and no network now, `wandb sync` uploads them later.

Written from the study's own record after a trial has ended, so a kill at any moment leaves nothing half-written that
counts, and an older study can be written too.
"""

import hashlib
import os
from pathlib import Path

import wandb

from kaggle_runner.study.answers import answers_of_trial
from kaggle_runner.study.journal import JOURNAL, Snapshot, confirm_directory, read_study
from kaggle_runner.study.trial import TrialRecord
from kaggle_runner.wandb.connection import leave
from kaggle_runner.wandb.run import RunLog, exit_code
from kaggle_runner.wandb.sweep import DEFAULT_PROJECT

CONFIRMS = "confirmation"
"""Tag of a run that confirms the winner, beside the name of the trial that it repeats."""


class OfflineRuns:
    """The offline runs of one study; each trial is written once."""

    def __init__(self, project: str | None = None) -> None:
        """Prepare for writing into a W&B project, by default the one of W&B's own settings, else `kaggle_runner`."""
        self._project = project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT

    def write(self, snapshot: Snapshot) -> int:
        """Write the finished trials that were not written yet; return how many runs there are.

        The runs that confirmed the winner are among them, with a tag. A run's id is made from the study and the trial,
        so writing a trial again gives the same run of W&B.
        """
        confirmation = confirm_directory(snapshot.directory)
        studies = [snapshot, *([read_study(confirmation)] if (confirmation / JOURNAL).is_file() else [])]
        for study in studies:
            for record in study.finished:
                run_id = run_id_of(study, record)
                if not list(snapshot.directory.glob(f"wandb/offline-run-*-{run_id}")):
                    self._write(study, record, run_id, snapshot)
        leave()
        return len(list(snapshot.directory.glob("wandb/offline-run-*")))

    def _write(self, snapshot: Snapshot, record: TrialRecord, run_id: str, sweep: Snapshot) -> None:
        assert record.result is not None
        settings = wandb.Settings(console="off", mode="offline", silent=True)
        run = wandb.init(dir=str(sweep.directory), project=self._project, id=run_id, group=sweep.info.name,
                         name=f"{snapshot.info.name} {record.trial.id}", config=dict(record.trial.params),
                         tags=None if snapshot is sweep else (CONFIRMS, record.trial.origin), settings=settings)
        log = RunLog(run)
        for row in snapshot.history(record.trial.id):
            log.log(row)
        log.describe(record.result, snapshot.info.metric, stopped=False)
        log.show_answers(answers_of_trial(snapshot.directory / "trials" / record.trial.id))
        run.finish(exit_code=exit_code(record.result, stopped=False))


def run_id_of(snapshot: Snapshot, record: TrialRecord) -> str:
    """Return the id of a trial's offline run: eight characters, as W&B's own."""
    name = f"{snapshot.info.name}/{snapshot.info.created}/{record.trial.id}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def sync_command(directory: Path) -> str:
    """Write the command that uploads a study's offline runs."""
    return f"wandb sync {directory}/wandb/offline-run-*"
