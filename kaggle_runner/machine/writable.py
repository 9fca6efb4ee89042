"""Try what will be written, before anything is taken that could be lost: a mode says less than a written file."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kaggle_runner.errors import HostError

ROOM_BYTES = 16 * 2**20
"""Free bytes without which nothing is begun: a log, a journal and a checkpoint of the smallest adapter."""
_TRIED = bytes(2**20)


def require_writable(places: Mapping[str, Path]) -> None:
    """Write a megabyte into each folder, and take it away again; a folder that is missing is made.

    Raises:
        HostError: names each place that cannot be written, or has no room, and why.
    """
    problems = [f"{name} {path}: {problem}" for name, path in places.items() if (problem := problem_with(path))]
    if problems:
        raise HostError(f"cannot write {'; '.join(problems)}; nothing was begun, so free space or name another folder, "
                        f"and run the same command again")


def problem_with(folder: Path) -> str | None:
    """Say why a folder cannot be written, or has hardly any room; none if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".kaggle_runner-", dir=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_TRIED)
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return f"{free / 2**20:.0f} MiB are free" if free < ROOM_BYTES else None
