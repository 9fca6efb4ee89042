"""The trained weights of a study's trials: which are kept, and the digest of an adapter's files."""

import contextlib
import hashlib
from pathlib import Path

from kaggle_runner.config import trainer_of
from kaggle_runner.errors import ConfigError
from kaggle_runner.study.journal import Snapshot, confirm_directory
from kaggle_runner.study.ranking import OF_TRIAL, is_complete, own_rank
from kaggle_runner.study.trial import TrialRecord

WEIGHTS = "model.pt"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What decides an adapter's losses; peft's README beside them does not."""
_PIECE_BYTES = 2**20


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of an adapter's files, one after the other.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        with open(folder / name, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def weights_here(snapshot: Snapshot, record: TrialRecord) -> tuple[Path, TrialRecord] | None:
    """Return the weights of a character model and the training that made them: its own, or one that confirmed it.

    None where neither is there: a sweep keeps those of its best, and a later seed may rank another one first.
    """
    repeated = record.result.notes.get("repeat_of") if record.result else None
    own = snapshot.directory / "trials" / str(repeated or record.trial.id) / WEIGHTS
    found = [(own, record), *(
        (confirm_directory(snapshot.directory) / "trials" / other.trial.id / WEIGHTS, other)
        for other in snapshot.confirming if other.trial.origin == OF_TRIAL + record.trial.id and is_complete(other))]
    return next(((path, made) for path, made in found if path.is_file()), None)


def drop_beaten_weights(snapshot: Snapshot) -> None:
    """Remove the weights of finished trials that are not the best and did not ask for them: each has megabytes.

    The trial with the best value keeps them too, and as many of the best configurations as the session is to confirm:
    further seeds may yet rank one of these first.
    """
    ranked = snapshot.as_swept.ranked
    luckiest = min(ranked, key=lambda record: own_rank(record, snapshot.metric), default=None)
    wanted = snapshot.sessions[-1].get("confirms", 1) if snapshot.sessions else 1
    leading = snapshot.as_swept.configurations[:wanted]
    kept = {record.trial.id for record in (snapshot.best, luckiest, *(one.records[0] for one in leading)) if record}
    for record in snapshot.finished:
        params = record.trial.params
        if record.trial.id in kept:
            continue
        with contextlib.suppress(OSError, ConfigError):
            if trainer_of(params) == "charlm" and not params.get("save_model"):
                (snapshot.directory / "trials" / record.trial.id / WEIGHTS).unlink()
