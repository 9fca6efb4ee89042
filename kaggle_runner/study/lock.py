"""Who works on a study: the right to write into it, which one process has or the agents of one sweep together, and who
runs a trial of it, by what dies with a process however that ends."""

import contextlib
import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError
from kaggle_runner.files import FACTS_VARIABLE, IN_PLACE, OF_A_STUDY, cannot_write
from kaggle_runner.wording import without_password

_SETTLE_S = 5.0
"""Seconds that the first of several who share a study gets for the journal's first line."""
_POLL_S = 0.05
_LOOK_S = 0.3
"""Seconds in which those who only look, each for microseconds, are told from those who write."""

ELSEWHERE: Mapping[str, Any] = {"host": "*"}
"""Holder of a trial of which others have said that it runs: W&B, or a database's lease."""


def is_in_use(directory: Path) -> bool:
    """Say whether a process writes into a study now, or several that share it."""
    try:
        fd = os.open(directory / "study.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _take(fd, fcntl.LOCK_SH, 0.0) or not _take(fd, fcntl.LOCK_EX, _LOOK_S)
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(fd)


def this_process() -> Mapping[str, Any]:
    """Return what tells this process from any other: no later one has its number and its beginning."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def typed_command() -> str:
    """Return the command line of this process, as a person would type it; empty where a program of theirs runs us."""
    program, facts = Path(sys.argv[0]), os.environ.get(FACTS_VARIABLE)
    if program.name == "kaggle-runner" or program.parts[-2:] == ("kaggle_runner", "__main__.py"):
        given = [without_password(argument) for argument in sys.argv[1:]]
        if facts:  # a launcher's own files, which are gone when it ends
            given = [argument.removeprefix(f"{Path(facts).parent}{os.sep}") for argument in given]
        return shlex.join(["python", "-m", "kaggle_runner", *given])
    return ""


def is_held(holder: Mapping[str, Any], directory: Path) -> bool:
    """Say whether somebody runs a trial: the process that `this_process` told of, else any that has the study."""
    if holder.get("host") == socket.gethostname() and holder["began"]:
        return bool(_began(holder["pid"]) == holder["began"])
    return holder == ELSEWHERE or is_in_use(directory)


def _began(pid: int) -> int | None:
    """Return when a living process began, in clock ticks since the boot. Source: proc(5), fields 3 and 22 of `stat`."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if facts[0] in "ZX" else int(facts[19])
    except (OSError, ValueError, LookupError):
        return None


def _take(fd: int, kind: int, patience_s: float) -> bool:
    """Take a lock; say whether it was to be had within the patience."""
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        else:
            return True


@contextlib.contextmanager
def turn(directory: Path) -> Iterator[bool]:
    """Say whether it is this process's turn to do what one at a time does of those who share a study.

    Until the end of the block, or of the process. In a folder that is not there, or on a disk that locks no folders,
    as over NFS, it is everybody's.
    """
    with contextlib.ExitStack() as stack:
        is_ours = True
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            is_ours = _take(fd, fcntl.LOCK_EX, 0.0)
        yield is_ours


class StudyLock:
    """The right to write into a study, until `close` or the end of the process, however that ends.

    One process has it, or any number of processes that share it.

    Raises:
        StudyError: somebody else has it, or the lock cannot be written; `way_out` names another study, if one can be.
    """

    def __init__(self, directory: Path, *, shared: bool, way_out: str = OF_A_STUDY) -> None:
        path = directory / "study.lock"
        self._shared, self.is_alone = shared, True
        try:
            # Not inherited by the worker, so a worker never keeps a dead supervisor's lock.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot_write(path, error, way_out=way_out or IN_PLACE) from error
        try:
            self.is_alone = _take(self._fd, fcntl.LOCK_EX, _LOOK_S)
            if not self.is_alone and not (shared and _take(self._fd, fcntl.LOCK_SH, _SETTLE_S)):
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(self._fd)
                raise StudyError(f"{directory} is in use by process {holder}; wait for it, stop it"
                                 f"{', or ' * bool(way_out)}{way_out}")
        except OSError as error:  # a file system without locks
            os.close(self._fd)
            raise cannot_write(path, error, way_out=way_out or IN_PLACE) from error
        with contextlib.suppress(OSError):  # the number is for the message only
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def settle(self) -> None:
        """Let in the other processes that share the study; call this when the journal has its first line."""
        if self._shared:
            _take(self._fd, fcntl.LOCK_SH, _SETTLE_S)  # the step from the one lock to the other is not atomic

    def close(self) -> None:
        """Give the right to write back."""
        os.close(self._fd)
