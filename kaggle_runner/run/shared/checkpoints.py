"""Checkpoints that travel: a trial's folder on a disk that every machine sees, one for each attempt.

One for each, because a machine that lost its trial may go on writing until it learns of it.
"""

import contextlib
import shutil
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write, make_directory


def bring(shelf: Path, local: Path, trial_id: str, attempt: int) -> None:
    """Make the trial's local folder a link to the one of this attempt, with what the newest earlier one left.

    Raises:
        StudyError: the shared directory cannot be written.
    """
    folder = shelf / f"{trial_id}-{attempt}"
    if local.is_symlink():
        local.unlink()
    if local.exists():  # this machine ran it before there was a shared directory
        return
    make_directory(folder)
    make_directory(local.parent)
    for before in range(attempt - 1, 0, -1):
        source = shelf / f"{trial_id}-{before}"
        if any((source / "checkpoint").glob("*.pt")):
            with contextlib.suppress(OSError, shutil.Error):  # its machine may write to it still: begin anew
                shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tmp"))
            break
    try:
        local.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError as error:
        raise cannot_write(local, error) from error


def require_shelf(shelf: Path) -> None:
    """See that the shared directory is there: made here, it would be shared with nobody.

    Raises:
        StudyError: it is not.
    """
    if not shelf.is_dir():
        raise StudyError(f"{shelf} is no directory; --checkpoints is one that every machine sees, and must be there")
