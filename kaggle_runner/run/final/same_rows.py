"""Whether the rows of a final training that has ended are still those that it was trained on."""

import shlex
from pathlib import Path

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError, StudyError
from kaggle_runner.study.best_file import place_for
from kaggle_runner.study.journal import Snapshot


def other_rows(study: Snapshot, cache_directory: Path) -> str:
    """Say that a final training was trained on other rows than those of now; empty where it was not.

    Rows of the hub are not fetched for it, and those that cannot be read any more are no other rows.
    """
    record = study.best
    known = record.result.hashes.get("data") if record and record.result else None  # none in a study of 0.2
    if record is None or known is None or record.trial.origin != "final":
        return ""
    from kaggle_runner.training.data.instructions import load_rows
    from kaggle_runner.training.data.sources import is_here

    config = FinetuneConfig.from_params(record.trial.params)
    try:
        found = load_rows(config, cache_directory=cache_directory).sha256 if is_here(config) else known
    except DataError:
        return ""
    if found == known:
        return ""
    return (f"{study.directory} was trained to its end on other rows: those of {config.dataset} have changed since "
            f"(SHA-256 {known[:12]} then, {found[:12]} now)")


def require_same_rows(study: Snapshot, cache_directory: Path) -> None:
    """See that a final training that has ended is one of the rows of now.

    Raises:
        StudyError: they have changed.
    """
    if why := other_rows(study, cache_directory):
        elsewhere = shlex.quote(str(place_for(study.directory, None)))
        raise StudyError(f"{why}; to train on those of now, give the same command with --study {elsewhere}; to keep "
                         f"this training, put the rows of then back")
