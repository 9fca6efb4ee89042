"""Files that are appended line by line, written whole or not at all, with a digest of what was written.

What is read back is what was written: each line of JSON ends with the digest of its own text, and what a version
before wrote has none.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError

OF_A_STUDY = "choose another directory with --study"
"""What to do where a study cannot be written."""
IN_PLACE = "see that it can be written there"
"""What to do where a command can write to no other place."""
OTHER_CACHE = "set KAGGLE_RUNNER_CACHE to another folder"
"""What to do where the cache cannot be written."""
NOT_HERE = "run this in another directory"
"""What to do where a command writes below the directory that it runs in."""
DIGEST = ', "digest": "'
"""What comes before the digest at the end of a line."""
_DIGITS = 16
_LIKE = 3
"""In so many letters a damaged mark may differ from the mark, and is still taken for one."""
RESULT = "result.json"
"""What a launcher leaves on a kernel: the verdict on its session."""
FACTS_VARIABLE = "KAGGLE_RUNNER_FACTS"
"""Names the file in which a launcher is told why its command ended; the launcher's own files lie beside it."""
MOST = 1e150
"""Numbers from here on are no measurement: the square of a greater one is beyond what a double can hold, 1.8e308."""


def folder_name(label: str) -> str:
    """Turn a name that a person gave into one folder's name: what could be a path, or is no text, becomes a hyphen.

    A name of letters, digits, blanks, `_`, `-` and `.` stays as it is.
    """
    safe = re.sub(r"[^\w .-]+", "-", label)[:100].strip(" .-")
    return safe if safe and set(label) - set("./") else "unnamed"


def write_atomically(path: Path, text: str, *, way_out: str = OF_A_STUDY) -> None:
    """Write a file under a temporary name and move it into place; `way_out` says what to do where it cannot be written.

    Raises:
        StudyError: the disk is full or the directory cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error, way_out=way_out) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there when the block ends is synced and takes the place of `path`, all at once.

    The folder is made. After an error nothing is left of it, and `path` is as it was.
    """
    if not path.name or (path.exists() and not path.is_file()):  # a folder, or a device such as /dev/null
        raise OSError(errno.EINVAL, "it is no file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield temporary
        fd = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_cache_file(path: Path, content: bytes) -> None:
    """Write a cache file so that no other process, writing the same one or reading it, sees half of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def cannot_write(path: Path, error: OSError, *, way_out: str = OF_A_STUDY) -> StudyError:
    """Say in one line why a file cannot be written and what to do; `way_out` names where else it could be written."""
    kept = "; finished trials are kept" if way_out == OF_A_STUDY else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudyError(f"cannot write {path}: no space left on the disk; free some and run the same command "
                          f"again{kept.replace(';', ',')}")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StudyError(f"cannot write {path}: {error.strerror}; raise that limit, as with ulimit -n, and run the "
                          f"same command again{kept.replace(';', ',')}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StudyError(f"cannot write {path}: {error.strerror}; {way_out}")
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return StudyError(f"cannot write {path}: there is no folder {path.parent}; make it, or {way_out}")
    return StudyError(f"cannot write {path}: {error.strerror or error}; {way_out}{kept}")


def make_directory(directory: Path, *, way_out: str = OF_A_STUDY) -> None:
    """Make a directory of a study, and those above it, where it is missing; `way_out` says how another one is named.

    Raises:
        StudyError: there is a file of this name, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StudyError(f"cannot use {directory} as a study: it is a file; {way_out}") from error
    except OSError as error:
        raise cannot_write(directory, error, way_out=way_out) from error


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Hold the lock of a file during the block, so that only one process at a time is in it.

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
    """Append one row of JSON to a file and return when it is on the disk.

    Raises:
        StudyError: the disk is full, or the file cannot be written.
    """
    line = line_of(row).encode()
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


def line_of(row: Mapping[str, Any]) -> str:
    """Write a row, which has a field, as a line of JSON that ends with the digest of its own text as its last field."""
    text = json.dumps(row, allow_nan=False)
    return f"{text[:-1]}{DIGEST}{digest_of(text.encode())}\"}}\n"


def digest_of(content: bytes) -> str:
    """Return the first 16 digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file, leaving out a last line that is not ended.

    NaN and Infinity, which other programs write and JSON does not have, are read as null: they are no measurement. So
    is what nobody can compute with, `MOST` and beyond.

    Raises:
        StudyError: a line is not as it was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        try:
            row = json.loads(_as_written(line), parse_constant=lambda _: None, parse_float=_computable,
                             parse_int=_computable_whole)
            if not isinstance(row, dict) or "digest" in row:
                raise ValueError("not an object, or a digest in another place than we write it")
            yield row
        except ValueError as error:
            raise StudyError(f"{path}, line {number}, is damaged; restore the file from a copy, or delete that line "
                             f"to lose only that event") from error


def sound_lines(path: Path) -> list[dict[str, Any]] | None:
    """Return the rows of a JSON-lines file; nothing of one with a line that is not as it was written."""
    try:
        return list(json_lines(path))
    except StudyError:
        return None


def write_checked(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as one line with its digest, so that no other process sees half of it.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    write_cache_file(path, line_of(values).encode())


def read_checked(path: Path) -> dict[str, Any] | None:
    """Return what `write_checked` wrote, or what a version before it did; none without the file.

    Raises:
        ValueError: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(_as_written(path.read_bytes().removesuffix(b"\n")))
    except FileNotFoundError:
        return None
    if not isinstance(values, dict):
        raise ValueError("not an object")
    return values


def _as_written(line: bytes) -> bytes:
    """Return a line without its digest, which must be right; a line of a version before has none.

    Raises:
        ValueError: the digest is of another line, or is damaged itself.
    """
    line = line.rstrip(b"\r")
    tail = line[-(len(DIGEST) + _DIGITS + 2):]
    if sum(left == right for left, right in zip(tail, DIGEST.encode(), strict=False)) < len(DIGEST) - _LIKE:
        return line
    text = line[:-len(tail)] + b"}"
    if line != text[:-1] + f'{DIGEST}{digest_of(text)}"}}'.encode():
        raise ValueError("another digest")
    return text


def _computable(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < MOST else None


def _computable_whole(text: str) -> int | None:
    return int(text) if len(text) <= 150 else None
