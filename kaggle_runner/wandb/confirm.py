"""Confirm the winner of a sweep that W&B ran: its best configurations once more, as runs of the sweep's project.

W&B gives each configuration out with one seed. Its agents may have run anywhere, so the trials are read from W&B. The
trainings are a study of their own beside the agent's, and each becomes a run with a tag: its id is made from the sweep,
the trial and the seed, so a run that is there is neither made nor doubled by another agent.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.errors import ConfigError
from kaggle_runner.events import Note, Notify
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.confirm import run_confirmation, why_unconfirmed
from kaggle_runner.study.journal import Snapshot, confirm_directory, confirming, read_study
from kaggle_runner.study.near import has_begun
from kaggle_runner.study.noise import Confirmed, confirmed
from kaggle_runner.study.trial import TrialRecord
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import Confirm
from kaggle_runner.wandb.connection import API_ERRORS, connect, leave
from kaggle_runner.wandb.fetch import fetch_study
from kaggle_runner.wandb.offline import CONFIRMS
from kaggle_runner.wandb.order import study_directory
from kaggle_runner.wandb.run import RunLog, RunLost, exit_code
from kaggle_runner.wandb.sweep import OVER_STATES, RemoteSweep, find_sweep

OF_SWEEP = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What W&B's agent leaves in the environment, and what would make these runs trials of the sweep."""
UPLOAD_S = 600.0
"""Seconds for one run to be uploaded."""


@dataclass(frozen=True, kw_only=True)
class RemoteConfirmation:
    """What confirming a sweep of W&B's came to."""

    sweep: RemoteSweep
    metric: str
    found: Confirmed | None
    """None while too little of it is complete."""
    not_done: str
    """Why it is not whole, in a sentence; empty if it is."""


def confirm_sweep(address: str, confirm: Confirm, environment: Environment, notify: Notify, *, study: Path | None,
                  cpu_only: bool, deadline: Deadline) -> RemoteConfirmation:
    """Confirm a sweep that is over, or go on with that, and log what W&B does not have yet.

    Raises:
        SecretError: no key, or a malformed one.
        WandbError: W&B cannot be reached or refuses.
        SweepError: the sweep is not one of ours.
        StudyError: a directory cannot be used.
        WorkerError: trials failed alike again and again; says why.
    """
    sweep = find_sweep(address, connect(environment), may_be_over=True)
    if sweep.state not in OVER_STATES:
        leave()
        return RemoteConfirmation(sweep=sweep, metric=sweep.spec.metric, found=None, not_done=(
            f"the sweep is {sweep.state.lower()}; the same command confirms its winner when all its trials are done"))
    with tempfile.TemporaryDirectory() as folder:
        fetched = read_study(fetch_study(sweep.path, environment, Path(folder) / "sweep",
                                         lambda text: notify(Note(text=text))))
    snapshot = replace(fetched, directory=study or study_directory(sweep, environment), records=tuple(
        replace(record, trial=replace(record.trial, params=_params(sweep.spec, record.trial.params)))
        for record in fetched.records))
    ended = run_confirmation(snapshot, confirm, environment, notify, cpu_only=cpu_only, deadline=deadline)
    lost = _log_runs(snapshot, sweep, environment)
    snapshot = replace(snapshot, confirming=confirming(snapshot.directory, snapshot.info))
    return RemoteConfirmation(sweep=sweep, metric=snapshot.info.metric, found=confirmed(snapshot),
                              not_done=ended or lost or why_unconfirmed(snapshot, confirm))


def _params(spec: SweepSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was trained with: what the sweep chose and held, and what follows from it."""
    with contextlib.suppress(ConfigError, ValueError):
        return spec.with_tied(spec.given_by_wandb(config) | dict(spec.held))
    return dict(config)


def _log_runs(snapshot: Snapshot, sweep: RemoteSweep, environment: Environment) -> str:
    """Log the finished trainings that W&B does not have; return why one could not be, if so."""
    directory = confirm_directory(snapshot.directory)
    if not has_begun(directory):
        return ""
    study = read_study(directory)
    connect(environment)
    try:
        api = wandb.Api()
        for record in study.finished:
            if record.result and record.result.is_of_the_machine:  # it is trained again, and sent then
                continue
            if not _is_there(api, f"{sweep.path.rsplit('/', 1)[0]}/{run_id_of(sweep, record)}"):
                _log_run(study, record, sweep)
    except RunLost as error:
        return f"W&B did not take a run that confirms the winner: {error}; the same command sends it again"
    finally:
        leave()
    return ""


def run_id_of(sweep: RemoteSweep, record: TrialRecord) -> str:
    """Return the id of the run of a training: eight characters, as W&B's own, the same for every agent."""
    name = f"{sweep.path}/{record.trial.origin}/{record.trial.params.get('seed')}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_there(api: Any, path: str) -> bool:
    try:
        return bool(api.run(path).state in ("finished", "failed"))
    except API_ERRORS:
        return False


def _log_run(study: Snapshot, record: TrialRecord, sweep: RemoteSweep) -> None:
    assert record.result is not None
    entity, project, name = sweep.path.split("/")
    for key in OF_SWEEP:
        os.environ.pop(key, None)
    run = wandb.init(dir=str(study.directory), entity=entity, project=project, id=run_id_of(sweep, record),
                     resume="allow", group=f"{name} confirmed", tags=(CONFIRMS, record.trial.origin),
                     name=f"{record.trial.origin}, seed {record.trial.params.get('seed')}",
                     config=dict(record.trial.params), settings=wandb.Settings(console="off", silent=True))
    log, rows = RunLog(run), study.history(record.trial.id)
    log.catch_up(rows)
    log.describe(record.result, study.info.metric, stopped=False)
    began = time.monotonic()
    log.finish(exit_code(record.result, stopped=False), rows, lambda: time.monotonic() - began > UPLOAD_S)
