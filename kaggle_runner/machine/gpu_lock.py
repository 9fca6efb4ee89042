"""One agent for each GPU of a machine: a file lock that dies with its holder, however that ends."""

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kaggle_runner.errors import HostError
from kaggle_runner.machine.gpu import Gpu


@contextlib.contextmanager
def hold_gpu(gpus: Sequence[Gpu], directory: Path | None = None) -> Iterator[Gpu | None]:
    """Hold the first of these GPUs that no other agent of this machine holds; none on a machine without GPUs.

    The locks are in `directory`, by default the system's for temporary files: the same for every agent.

    Raises:
        HostError: every GPU has its agent, or the locks cannot be written.
    """
    if not gpus:
        yield None
        return
    holders = []
    for gpu in gpus:
        lock_fd, holder = _take(gpu, directory)
        if lock_fd is None:
            holders.append(f"gpu {gpu.index} ({gpu.name}) by process {holder}")
            continue
        try:
            yield gpu
        finally:
            os.close(lock_fd)
        return
    raise HostError(f"held by another agent: {', '.join(holders)}; two trials on one GPU run out of memory, so wait "
                    f"for that agent or stop it")


def free_gpus(gpus: Sequence[Gpu], directory: Path | None = None) -> tuple[Gpu, ...]:
    """Return those of these GPUs that no agent holds now.

    Raises:
        HostError: every GPU has its agent, or the locks cannot be written.
    """
    free = []
    for gpu in gpus:
        lock_fd, _ = _take(gpu, directory)
        if lock_fd is not None:
            os.close(lock_fd)
            free.append(gpu)
    if not free:
        with hold_gpu(gpus, directory):  # which says who has them
            pass
    return tuple(free)


def _take(gpu: Gpu, directory: Path | None) -> tuple[int | None, str]:
    """Return the lock of a GPU as an open file, or none and who has it."""
    path = (directory or Path(tempfile.gettempdir())) / f"kaggle_runner-{gpu.uuid}.lock"
    try:
        # Not inherited by the worker, so a worker never keeps a dead agent's lock.
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}; set TMPDIR to a directory of your own") from error
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock_fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock_fd)
        if error.errno != errno.EWOULDBLOCK:
            raise HostError(f"cannot lock {path}: {error.strerror}; set TMPDIR to a local directory") from error
        return None, holder
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
    return lock_fd, str(os.getpid())
