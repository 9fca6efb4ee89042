"""Read rows from local files, one at a time: only those that a study needs stay in memory.

Nothing is guessed silently: an encoding other than UTF-8, and a CSV that is separated by something else than commas, is
named in the remarks. Whatever is wrong with a file's lines is said at once, by their numbers.
"""

import bz2
import codecs
import contextlib
import csv
import functools
import gzip
import io
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kaggle_runner.errors import DataError

KINDS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
         ".txt": "text"}
"""How a file is read, by the end of its name."""
PACKED = (".gz", ".zst", ".bz2", ".xz")
"""Ends of names of packed files, after the kind's: `rows.jsonl.gz`."""
ROW_KEYS = ("data", "rows", "examples", "instances", "train")
"""Keys of a JSON object whose list is the rows."""
MOST_NAMED = 5
"""Bad lines that are named."""


def kind_of(path: Path) -> str:
    """Tell how a file is read; empty if it is no file of rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return KINDS.get(suffixes[-1], "") if suffixes else ""


def read_file(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a file.

    Raises:
        DataError: it cannot be read; names the lines where there are any.
    """
    kind = kind_of(path)
    try:
        if kind == "parquet":
            yield from _parquet(path)
        else:
            with _text(path) as file:
                yield from {"json": _json, "csv": _csv, "text": _lines}[kind](file)
    except (OSError, ValueError, EOFError, lzma.LZMAError, csv.Error) as error:
        problem = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot read the dataset {path}: {problem[0]}; repair it, or give another") from error


def remarks_of(path: Path) -> list[str]:
    """Return what a person should know about how a file is read."""
    remarks = []
    with contextlib.suppress(OSError, ValueError, EOFError, lzma.LZMAError):
        if kind_of(path) != "parquet":
            encoding = _encoding(path, path.stat().st_mtime_ns)
            if encoding != "utf-8-sig":
                remarks.append(f"{path.name} is no UTF-8 and read as {encoding}")
        if kind_of(path) == "csv":
            with _text(path) as file:
                separator = _separator(file.readline())
            if separator not in (",", "\t"):
                remarks.append(f"{path.name} is separated by {separator!r}")
    return remarks


@contextlib.contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with _open(path) as raw, io.TextIOWrapper(raw, encoding=_encoding(path, path.stat().st_mtime_ns),
                                              newline="") as text:
        yield text


def _open(path: Path) -> IO[bytes]:
    """Open a file, unpacked."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return open(path, "rb")


@functools.lru_cache(maxsize=64)
def _encoding(path: Path, changed_ns: int) -> str:
    """Tell a file's encoding: UTF-16 by its mark, else UTF-8 if all of it is, else the one of old Windows programs.

    Raises:
        ValueError: it is none of them.
    """
    with _open(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        with _open(path) as file, contextlib.suppress(UnicodeDecodeError):
            while chunk := file.read(2**20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
            return encoding
    raise ValueError("it is neither UTF-8 nor UTF-16 nor cp1252 text")


def _json(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of JSON lines, of a list, or of the list in an object."""
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    if not first:
        return
    if first.lstrip()[0] == "[" or not _is_object(first):
        whole = first + file.read()
        if first.lstrip()[0] == "[" or _is_object(whole):
            yield from _objects(json.loads(whole))
            return
        file = io.StringIO(whole)
    else:
        one = json.loads(first)
        lists = [one[key] for key in ROW_KEYS if isinstance(one.get(key), list)]
        rest = file.readline()
        if lists and not rest.strip() and all(isinstance(row, dict) for row in lists[0]):
            yield from lists[0]
            return
        yield one
        yield from _json_lines(_chained(rest, file), first_number=2)
        return
    yield from _json_lines(file, first_number=1)


def _json_lines(lines: Any, first_number: int) -> Iterator[Mapping[str, Any]]:
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=first_number):
        if not line.strip():
            continue
        try:
            value = json.loads(line.strip())
            if not isinstance(value, dict):
                raise ValueError(f"it holds a {type(value).__name__}, no object")
        except ValueError as error:
            bad.append((number, error.msg if isinstance(error, json.JSONDecodeError) else str(error)))
            continue
        if not bad:
            yield value
    if bad:
        numbers = ", ".join(str(number) for number, _ in bad[:MOST_NAMED])
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise ValueError(f"line{'s' if len(bad) > 1 else ''} {numbers}{more} cannot be read as JSON ({bad[0][1]})")


def _chained(first: str, rest: IO[str]) -> Iterator[str]:
    yield first
    yield from rest


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _objects(whole: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(whole, dict):
        lists = [whole[key] for key in ROW_KEYS if isinstance(whole.get(key), list)]
        whole = lists[0] if lists else [whole]
    for number, row in enumerate(whole, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"entry {number} of its list is a {type(row).__name__}, no object")
        yield row


def _csv(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # of itself it ends at 131,072 characters
    head = file.readline()
    reader = csv.reader(_chained(head, file), delimiter=_separator(head))
    names = next(reader, [])
    bad: list[str] = []
    for row in reader:
        if not row:
            continue
        if len(row) > len(names):
            bad.append(f"{len(names)} fields expected in line {reader.line_num}, {len(row)} found")
        elif not bad:
            yield dict(zip(names, [*row, *[None] * (len(names) - len(row))], strict=True))
    if bad:
        more = f" (and {len(bad) - MOST_NAMED} more)" if len(bad) > MOST_NAMED else ""
        raise ValueError("; ".join(bad[:MOST_NAMED]) + more)


def _separator(head: str) -> str:
    return max(",\t;|", key=lambda mark: (head.count(mark), mark == ","))


def _lines(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    for line in file:
        if line.strip():
            yield {"text": line.rstrip("\r\n")}


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()
