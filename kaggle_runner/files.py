"""Files that are appended line by line, written whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name and move it into place.

    Raises:
        StudyError: the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> StudyError:
    """Say in one line why a file cannot be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudyError(f"cannot write {path}: no space left on the disk; free some and run the same command "
                          f"again, finished trials are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StudyError(f"cannot write {path}: {error.strerror}; choose another directory with --study")
    return StudyError(f"cannot write {path}: {error.strerror or error}; finished trials are kept")


def make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StudyError(f"cannot use {directory} as a study: it is a file; choose another with --study") from error
    except OSError as error:
        raise cannot_write(directory, error) from error


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep everybody else who asks for this out of the block.

    Raises:
        StudyError: the file cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def drop_torn_line(journal: Path) -> None:
    """Cut what follows the last newline: a line that was being written when the power or the process went."""
    try:
        with open(journal, "r+b") as file:
            content = file.read()
            keep = content.rfind(b"\n") + 1
            if keep < len(content):
                file.truncate(keep)
    except OSError as error:
        raise cannot_write(journal, error) from error


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(fd, line)
            if written < len(line):  # a full disk takes a part; the torn line is cut at the next start
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise cannot_write(path, error) from error


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file, leaving out a last line that is not ended."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise StudyError(f"{path}, line {number}, is damaged; restore the file from a copy, or delete that line "
                             f"to lose only that event") from error


def write_cache_file(path: Path, content: bytes) -> None:
    """Write a cache file so that no other process, writing the same one or reading it, sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
