"""The study: the trials of one sweep, their journal `trials.jsonl` and their directory.

The journal is append-only, one flushed and fsynced JSON line per event; a torn last line is dropped.
One process writes at a time (a lock that dies with its holder); anyone may read meanwhile.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError

JOURNAL = "trials.jsonl"


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    PREEMPTED = "preempted"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the search space, to be trained once."""

    id: str
    """Name of the trial in its study and of its directory: `0003`, or a W&B run id."""
    number: int
    """Position in the study, from 0."""
    params: Mapping[str, Any]
    """What the sweep chose, fixed settings included: fields of the trial's config."""
    origin: str = ""
    """Where the point came from: `defaults`, `sobol`, `gp`, `tpe`, `random`, `grid`, `wandb`."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What became of one trial; holds only losses that were measured."""

    id: str
    status: Status
    metric: float | None
    """The best value of the sweep's metric that was measured, none if none was."""
    reason: str = ""
    """Why it ended as it did, in a sentence; empty for a complete trial."""
    steps: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Wall time from the request to the result."""
    peak_device_bytes: int | None = None
    """Most device bytes allocated at once; the process's resident bytes on a CPU."""
    evaluations: tuple[tuple[int, float], ...] = ()
    """Every (step, eval loss) in order."""
    tokens: int = 0
    """Training tokens seen, padding not counted."""
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: load, data, attach, train, eval, save."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that took part."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the config, the rows, the base and the trained adapter."""
    attempts: int = 1
    """How often it was started, this time included."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Facts of this run under their own names, such as an effective micro-batch."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as the journal knows it."""

    trial: Trial
    result: TrialResult | None
    """None while it runs, or after the process that ran it was killed."""
    attempts: int
    started: float
    """Unix time of the last start."""


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """What a study was made with: the first line of its journal."""

    name: str
    metric: str
    goal: str
    seed: int
    sweep: Mapping[str, Any]
    """The sweep file as read."""
    created: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A study as it stands: everything a report or a sampler needs, read at one moment."""

    directory: Path
    info: StudyInfo
    baseline: float | None
    """Metric of the untouched base model, none if not measured."""
    records: tuple[TrialRecord, ...]
    """In the order of their numbers."""
    sessions: tuple[Mapping[str, Any], ...]
    """One for each process that worked on the study: host, time, threads, versions."""

    @property
    def finished(self) -> tuple[TrialRecord, ...]:
        """The trials that have a result and will not be run again."""
        return tuple(r for r in self.records if r.result and r.result.status is not Status.PREEMPTED)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the best measured metric; the earlier one of two equals."""
        sign = -1.0 if self.info.goal == "maximize" else 1.0
        values = {r.trial.number: (sign * r.result.metric, r) for r in self.records
                  if r.result and r.result.status is Status.COMPLETE and r.result.metric is not None}
        return values[min(values, key=lambda number: (values[number][0], number))][1] if values else None

    def history(self, trial_id: str) -> list[dict[str, Any]]:
        """Read the logged rows of one trial, in order; empty if it logged none."""
        return list(_json_lines(self.directory / "trials" / trial_id / "history.jsonl"))

    def as_dict(self) -> dict[str, Any]:
        """Return the study as the JSON that `show --json` prints."""
        best = self.best
        return {
            "study": str(self.directory), "metric": self.info.metric, "goal": self.info.goal,
            "baseline": self.baseline, "best": _row(best) if best else None,
            "trials": [_row(record) for record in self.records],
        }


class Study:
    """Write access to a study directory; hold it with `with Study.open_for_writing(...)`."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self.directory = directory
        self._lock_fd = lock_fd

    @classmethod
    @contextlib.contextmanager
    def open_for_writing(cls, directory: Path, *, name: str, sweep: Mapping[str, Any], metric: str, goal: str,
                         seed: int | None) -> Iterator["Study"]:
        """Make the study, or continue it if it is there; only one process at a time.

        A `seed` of none takes the study's own seed, or 0 for a new study.

        Raises:
            StudyError: the directory cannot be written, another process holds it, or it was made from another
                sweep file or seed.
        """
        _make_directory(directory)
        lock_fd = _lock(directory)
        try:
            study = cls(directory, lock_fd)
            journal = directory / JOURNAL
            if journal.exists():
                _drop_torn_line(journal)
            if not journal.exists() or journal.stat().st_size == 0:
                study.append({"event": "study", "name": name, "metric": metric, "goal": goal,
                              "seed": seed or 0, "sweep": sweep})
            else:
                _refuse_other_sweep(read_study(directory), sweep, seed)
            yield study
        finally:
            os.close(lock_fd)

    def snapshot(self) -> Snapshot:
        """Read the study as it stands."""
        return read_study(self.directory)

    def trial_directory(self, trial_id: str) -> Path:
        """Make and return the directory of one trial."""
        directory = self.directory / "trials" / trial_id
        _make_directory(directory)
        return directory

    def start_session(self, facts: Mapping[str, Any]) -> None:
        """Record that a process begins to work on the study, and on what machine."""
        self.append({"event": "session", **facts})
        write_atomically(self.directory / "environment.json", json.dumps(facts, indent=2) + "\n")

    def record_baseline(self, value: float) -> None:
        """Record the metric of the untouched base model."""
        self.append({"event": "baseline", "value": value})

    def record_start(self, trial: Trial, config: Mapping[str, Any]) -> None:
        """Record that a trial starts, or starts again."""
        write_atomically(self.trial_directory(trial.id) / "config.json", json.dumps(config, indent=2) + "\n")
        self.append({"event": "start", "trial": asdict(trial)})

    def log(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Append one row to a trial's history."""
        _append_line(self.trial_directory(trial_id) / "history.jsonl", row)

    def cut_history(self, trial_id: str, step: int) -> list[dict[str, Any]]:
        """Drop the rows of a trial's history after a step, the one it goes on from, and return those that stay."""
        path = self.trial_directory(trial_id) / "history.jsonl"
        kept = [row for row in _json_lines(path) if row["step"] <= step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def record_end(self, result: TrialResult) -> None:
        """Record a trial's result; from here on it counts."""
        self.append({"event": "end", "result": asdict(result)})

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event to the journal with the time, flushed and fsynced."""
        _append_line(self.directory / JOURNAL, {**event, "time": round(time.time(), 3)})


def read_study(directory: Path) -> Snapshot:
    """Read a study that may be in use; changes nothing.

    Raises:
        StudyError: not a study directory, or its journal is damaged before its last line.
    """
    journal = directory / JOURNAL
    if not journal.is_file():
        raise StudyError(f"{directory} is not a study: it has no {JOURNAL}; give the directory a sweep was run in")
    info: StudyInfo | None = None
    baseline: float | None = None
    sessions: list[dict[str, Any]] = []
    starts: dict[str, tuple[Trial, int, float]] = {}
    results: dict[str, TrialResult] = {}
    for event in _json_lines(journal):
        kind = event.pop("event", None)
        when = event.pop("time", 0.0)
        if kind == "study":
            info = StudyInfo(**event, created=when)
        elif kind == "baseline":
            baseline = event["value"]
        elif kind == "session":
            sessions.append(event)
        elif kind == "start":
            trial = Trial(**event["trial"])
            attempts = starts[trial.id][1] if trial.id in starts else 0
            starts[trial.id] = (trial, attempts + 1, when)
            results.pop(trial.id, None)
        elif kind == "end":
            results[event["result"]["id"]] = _result(event["result"])
    if info is None:
        raise StudyError(f"{journal} does not begin with a study; it was not written by kaggle_runner")
    records = [TrialRecord(trial=trial, result=results.get(trial.id), attempts=attempts, started=started)
               for trial, attempts, started in starts.values()]
    return Snapshot(directory=directory, info=info, baseline=baseline, sessions=tuple(sessions),
                    records=tuple(sorted(records, key=lambda r: r.trial.number)))


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


def _row(record: TrialRecord) -> dict[str, Any]:
    result = record.result
    return {
        "id": record.trial.id, "status": result.status.value if result else "running",
        "metric": result.metric if result else None, "params": dict(record.trial.params),
        "steps": result.steps if result else 0, "seconds": result.seconds if result else 0.0,
        "peak_device_bytes": result.peak_device_bytes if result else None,
        "reason": result.reason if result else "", "origin": record.trial.origin,
    }


def _result(values: dict[str, Any]) -> TrialResult:
    known = {f.name for f in fields(TrialResult)}
    kept = {name: value for name, value in values.items() if name in known}
    kept["status"] = Status(kept["status"])
    kept["evaluations"] = tuple((int(step), float(loss)) for step, loss in kept.get("evaluations", ()))
    return TrialResult(**kept)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StudyError(f"cannot use {directory} as a study: it is a file; choose another with --study") from error
    except OSError as error:
        raise cannot_write(directory, error) from error


def _lock(directory: Path) -> int:
    """Take the study's lock; the kernel releases it when the holder ends, however it ends."""
    path = directory / "study.lock"
    try:
        # Not inherited by the worker, so a worker never keeps a dead supervisor's lock.
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock_fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock_fd)
        raise StudyError(f"{directory} is in use by process {holder}; wait for it, stop it, or choose another "
                         f"directory with --study") from error
    with contextlib.suppress(OSError):  # the number is for the message only
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
    return lock_fd


def _drop_torn_line(journal: Path) -> None:
    """Cut what follows the last newline: a line that was being written when the power or the process went."""
    try:
        with open(journal, "r+b") as file:
            content = file.read()
            keep = content.rfind(b"\n") + 1
            if keep < len(content):
                file.truncate(keep)
    except OSError as error:
        raise cannot_write(journal, error) from error


def _refuse_other_sweep(snapshot: Snapshot, sweep: Mapping[str, Any], seed: int | None) -> None:
    old, new = snapshot.info.sweep, json.loads(json.dumps(sweep))
    changed = [key for key in ("method", "metric", "early_terminate") if old.get(key) != new.get(key)]
    old_parameters, new_parameters = old.get("parameters", {}), new.get("parameters", {})
    changed += [f"parameters.{name}" for name in sorted(old_parameters.keys() | new_parameters.keys())
                if old_parameters.get(name) != new_parameters.get(name)]
    if changed:
        raise StudyError(f"{snapshot.directory} was made from another sweep file: {', '.join(changed)} differ; "
                         f"choose another directory with --study, or restore the file")
    if seed is not None and seed != snapshot.info.seed:
        raise StudyError(f"{snapshot.directory} was made with seed {snapshot.info.seed}, not {seed}; "
                         f"choose another directory with --study, or leave --seed out")


def _append_line(path: Path, row: Mapping[str, Any]) -> None:
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


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
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
