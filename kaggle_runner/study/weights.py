"""The weights of character models: kept for the best trial, and for those that ask for it."""

import contextlib

from kaggle_runner.config import trainer_of
from kaggle_runner.errors import ConfigError
from kaggle_runner.study.journal import Snapshot

WEIGHTS = "model.pt"


def drop_beaten_weights(snapshot: Snapshot) -> None:
    """Remove the weights of finished trials that are not the best and did not ask for them: each has megabytes."""
    best = snapshot.best
    for record in snapshot.finished:
        params = record.trial.params
        if best is not None and record.trial.id == best.trial.id:
            continue
        with contextlib.suppress(OSError, ConfigError):
            if trainer_of(params) == "charlm" and not params.get("save_model"):
                (snapshot.directory / "trials" / record.trial.id / WEIGHTS).unlink()
