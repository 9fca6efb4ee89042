"""Faults of the machine, which are no trial's: a full disk, a folder that is gone, no more file handles."""

import contextlib
import errno
import os
import resource
import sys
import threading
import warnings

from kaggle_runner.errors import KaggleRunnerError, MachineFault, StudyError

ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO, errno.ESTALE)
"""What the system calls its disk being full, over a quota or a limit, without handles, read-only, broken, gone."""
WORDS = ("no space left on device", "disk quota exceeded", "too many open files", "read-only file system",
         "input/output error", "stale file handle", "file too large", "no usable temporary directory")
"""The same in the words of the C library, as libraries that have their own errors repeat them."""

_NEEDED = 16
"""File handles with which W&B's client, and a worker that starts anew, get by."""


def fault_of_machine(error: BaseException) -> str:
    """Say in a line which fault of the machine an error comes from; empty for any other error.

    A study that cannot be written is one, whatever the reason.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StudyError | MachineFault):
            return str(seen)
        if isinstance(seen, OSError) and seen.errno in ERRNOS:
            return machine_failed(str(seen))
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    return machine_failed(text.splitlines()[0]) if speaks_of_the_machine(text) and not isinstance(
        error, KaggleRunnerError) else ""


def speaks_of_the_machine(text: str) -> bool:
    """Say whether an error message is about a fault of the machine."""
    return any(words in text.lower() for words in WORDS)


def fault(error: BaseException) -> MachineFault:
    """Turn what this process met into the fault that ends a session."""
    return MachineFault(fault_of_machine(error) or machine_failed(str(error)))


def machine_failed(text: str) -> str:
    """Word a fault of the machine, with what to do."""
    return f"this machine failed, and not the trial: {text}; mend that and run the same command again"


def lacks_handles() -> str:
    """Say what the system says when what a trial begins with cannot be opened; empty where it can be."""
    opened = list[int]()
    try:
        opened += (os.dup(2) for _ in range(_NEEDED))
    except OSError as error:
        return machine_failed(f"{error.strerror}; raise that limit, as with ulimit -n")
    finally:
        for handle in opened:
            os.close(handle)
    return ""


def end_in_peace() -> None:
    """Let a process end that met a fault of its machine and says so: with all the file handles that it may have.

    And without the tracebacks that threads and leftovers of libraries raise over the same.
    """
    with contextlib.suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.excepthook, sys.unraisablehook = (lambda said: None), (lambda said: None)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
