"""The right to write into a study: one process has it, or the agents of one sweep together."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write

_SETTLE_S = 5.0
_POLL_S = 0.05


def is_in_use(directory: Path) -> bool:
    """Say whether a process writes into a study now."""
    try:
        fd = os.open(directory / "study.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(fd)
    return False


class StudyLock:
    """The right to write into a study, until `close` or the end of the process, however that ends.

    One process has it, or any number of processes that share it.

    Raises:
        StudyError: somebody else has it, or the lock cannot be written.
    """

    def __init__(self, directory: Path, *, shared: bool) -> None:
        path = directory / "study.lock"
        self._shared, self.is_alone = shared, True
        try:
            # Not inherited by the worker, so a worker never keeps a dead supervisor's lock.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self._take(fcntl.LOCK_EX)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            self.is_alone = False
            if not shared or not self._join():
                os.close(self._fd)
                raise StudyError(f"{directory} is in use by process {holder}; wait for it, stop it, or choose another "
                                 f"directory with --study") from error
        except OSError as error:  # a file system without locks
            os.close(self._fd)
            raise cannot_write(path, error) from error
        with contextlib.suppress(OSError):  # the number is for the message only
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def settle(self) -> None:
        """Let in the other processes that share the study; call this when the journal has its first line."""
        if self._shared:
            self._join()  # the step from the one lock to the other is not atomic

    def close(self) -> None:
        """Give the right to write back."""
        os.close(self._fd)

    def _join(self) -> bool:
        """Share the lock with those who hold it; the first of them needs a moment for the journal's first line."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                self._take(fcntl.LOCK_SH)
                return True
            time.sleep(_POLL_S)
        return False

    def _take(self, kind: int) -> None:
        fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
