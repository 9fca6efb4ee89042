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
import itertools
import json
import lzma
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kaggle_runner.errors import DataError
from kaggle_runner.mounts import kind_of
from kaggle_runner.training.data.splits import HELD_OUT

ROW_KEYS = ("data", "rows", "examples", "instances", "train")
"""Keys of a JSON object whose list is the rows."""
MOST_NAMED = 5
"""Bad lines that are named."""
LONGEST_LINE = 2**20
"""Characters that are read at once; a first line that is longer may be a whole file of rows."""
READ_BYTES = 2**20
"""Bytes of a Parquet column that are read at once."""
LONGEST_WORD = 16
"""Characters from the end of what was read within which an error may only mean that there is more to come."""
BLANKS = re.compile(r"[ \t\r\n]*")
TOO_DEEP = "nested too deeply"


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
                separator = _separator(next((line for line in file if line.strip()), ""))
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
    """Tell a file's encoding: UTF-16 and 32 by marks or zeros, else UTF-8 if all of it is, else that of old Windows.

    Raises:
        ValueError: it is none of them.
    """
    with _open(path) as file:
        head = file.read(4096)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if max(zeros) > 4 * min(zeros) + len(head) / 8:  # every second byte of Latin letters
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
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
    first, blank = file.readline(LONGEST_LINE), ""
    while first and not first.strip():
        first, blank = file.readline(LONGEST_LINE), f"{blank}\n"
    if first.lstrip()[:1] == "[":
        return (yield from _entries(_Values(file, blank + first)))
    if first.endswith("\n") or len(first) < LONGEST_LINE:
        second = file.readline(LONGEST_LINE)
        one = _object_of(first)
        if one is not None and not second.strip() and _rows_key(one):
            return (yield from _rows_of_object(_Values(file, blank + first + second)))
        if one is not None or first.lstrip()[:1] != "{" or _object_of(second) is not None:
            rest = file.readline() if second and not second.endswith("\n") else ""
            return (yield from _json_lines(itertools.chain(blank, [first, second + rest], file)))
        first += second
    yield from _rows_of_object(_Values(file, blank + first))


def _json_lines(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = loads(line.strip())
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


def loads(text: str) -> Any:
    """Read JSON; what is nested deeper than Python can follow is a ValueError like any other that cannot be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _object_of(text: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        value = loads(text)
        return value if isinstance(value, dict) else None
    return None


def _rows_key(values: Mapping[str, Any]) -> str:
    return next((key for key in ROW_KEYS if isinstance(values.get(key), list)
                 and all(isinstance(row, dict) for row in values[key])), "")


class _Values:
    """The JSON values of a text that is read in pieces: only the one at hand is in memory."""

    def __init__(self, file: IO[str], start: str) -> None:
        self._file, self._text, self._at, self._line = file, start, 0, 1
        self._decoder = json.JSONDecoder()

    def next_mark(self) -> str:
        """Return the next character that is no blank, and stay before it; empty at the end."""
        while True:
            match = BLANKS.match(self._text, self._at)
            assert match is not None, "it matches nothing too"
            self._move(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, *marks: str) -> str:
        """Go past the next character, which must be one of these."""
        found = self.next_mark()
        if found not in marks:
            raise self._problem(f"{' or '.join(map(repr, marks))} expected, {repr(found) if found else 'the end'} "
                                f"found")
        self._move(self._at + 1)
        return found

    def value(self) -> Any:
        """Read the next value."""
        self.next_mark()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - LONGEST_WORD
                ahead = error.pos - self._at
                if is_cut and self._more():
                    continue
                raise self._problem(error.msg, ahead) from error
            except ValueError as error:  # such as a number of thousands of digits
                raise self._problem(str(error)) from error
            except RecursionError:
                raise self._problem(TOO_DEEP) from None
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._move(end)
            return value

    def _more(self) -> bool:
        """Read on: as much again as there is of the value at hand, so that a long one is not tried too often."""
        piece = self._file.read(max(LONGEST_LINE, len(self._text) - self._at))
        self._text, self._at = self._text[self._at:] + piece, 0
        return bool(piece)

    def _move(self, place: int) -> None:
        self._line += self._text.count("\n", self._at, place)
        self._at = place

    def _problem(self, what: str, ahead: int = 0) -> ValueError:
        line = self._line + self._text.count("\n", self._at, self._at + ahead)
        return ValueError(f"line {line} cannot be read as JSON ({what})")


def _entries(values: _Values, where: str = "its list") -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list."""
    values.take("[")
    number, mark = 0, "]" if values.next_mark() == "]" else ","
    if mark == "]":
        values.take("]")
    while mark == ",":
        number += 1
        row = values.value()
        if not isinstance(row, dict):
            raise ValueError(f"entry {number} of {where} is a {type(row).__name__}, no object")
        yield row
        mark = values.take(",", "]")
    if where == "its list" and values.next_mark():
        values.take("the end")


def _rows_of_object(values: _Values) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of the list that an object has under one of ROW_KEYS; else each object is a row."""
    while values.next_mark():
        values.take("{")
        others: dict[str, Any] = {}
        listed, mark = "", "," if values.next_mark() != "}" else values.take("}")
        while mark == ",":
            key = str(values.value())
            values.take(":")
            if (key in ROW_KEYS or key in HELD_OUT) and values.next_mark() == "[":
                if listed or key in HELD_OUT:
                    raise ValueError(f"it has rows under {repr(listed) + ' and ' if listed else ''}{key!r}; write each "
                                     f"list into a file of its own, such as {key}.json")
                listed = key
                yield from _entries(values, f"the list {key!r}")
            else:
                others[key] = values.value()
            mark = values.take(",", "}")
        if not listed:
            yield others


def _csv(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # of itself it ends at 131,072 characters
    head = next((line for line in file if line.strip()), "")
    since: list[str] = []

    def lines() -> Iterator[str]:
        for line in itertools.chain([head], file):
            since.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=_separator(head))
    names = _named(next(reader, []))
    since.clear()
    bad: list[str] = []
    last: list[str] = []
    for row in reader:
        last, since[:] = since[:], []
        if not row:
            continue
        if len(row) > len(names):
            bad.append(f"{len(names)} fields expected in line {reader.line_num}, {len(row)} found")
        elif not bad:
            yield dict(zip(names, [*row, *[None] * (len(names) - len(row))], strict=True))
    if _is_open(last, _separator(head)):
        bad.insert(0, f"a quote that opens in line {reader.line_num - len(last) + 1} is never closed")
    if bad:
        more = f" (and {len(bad) - MOST_NAMED} more)" if len(bad) > MOST_NAMED else ""
        raise ValueError("; ".join(bad[:MOST_NAMED]) + more)


def _named(header: list[str]) -> list[str]:
    """Return the names of the columns; those without one are counted."""
    names = [name if name.strip() else f"(no name, {number})" for number, name in enumerate(header, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"its header has {', '.join(map(repr, twice))} twice, and only one of them could be read")
    return names


def _is_open(lines: list[str], separator: str) -> bool:
    """Say whether a row ends inside a quoted field, which csv itself takes for the field's end."""
    try:
        for _ in csv.reader(lines, delimiter=separator, strict=True):
            pass
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def _separator(head: str) -> str:
    return max(",\t;|", key=lambda mark: (head.count(mark), mark == ","))


def _lines(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    for line in file:
        if line.strip():
            yield {"text": line.rstrip("\r\n")}


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    # of itself it reads a whole column of a row group at once, and a file may be a single group
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()
