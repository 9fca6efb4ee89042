"""The study: the trials of one sweep, their journal `trials.jsonl` and their directory.

The journal is append-only, one flushed and fsynced JSON line per event; a torn last line is dropped.
One process writes at a time, or the agents of one sweep together (a lock that dies with its holder); anyone may read
meanwhile.
"""

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import TRAINERS, known_to_0_2
from kaggle_runner.errors import StudyError
from kaggle_runner.files import (
    alone_with,
    append_line,
    drop_torn_line,
    json_lines,
    line_of,
    make_directory,
    sound_lines,
    write_atomically,
)
from kaggle_runner.metrics import Evaluations, Goal, Metric
from kaggle_runner.study.lock import StudyLock, is_held, this_process, typed_command
from kaggle_runner.study.near import JOURNAL as JOURNAL
from kaggle_runner.study.near import confirm_directory as confirm_directory
from kaggle_runner.study.near import has_begun, no_study, refuse_foreign_folder, refuse_trials_without_journal
from kaggle_runner.study.ranking import Ranked, rank
from kaggle_runner.study.scoring import on_other_data
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult, goes_on, result_from_dict
from kaggle_runner.wording import unlike


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """What a study was made with: the first line of its journal."""

    name: str
    metric: str
    goal: Goal
    seed: int
    sweep: Mapping[str, Any]
    """The content of the sweep file, as it was read."""
    created: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A study as it stands: everything a report or a sampler needs, read at one moment."""

    directory: Path
    info: StudyInfo
    baseline: float | None
    """Metric of the untouched base model, none if not measured."""
    records: tuple[TrialRecord, ...]
    """The trials, in the order of their numbers."""
    sessions: tuple[Mapping[str, Any], ...]
    """One for each process that worked on the study: host, time, threads, versions."""
    known: tuple[Mapping[str, Any], ...] = ()
    """What the search was told to start with: trials of other studies, a first configuration."""
    rows: tuple[Mapping[str, Any], ...] = ()
    """What became of the rows of each dataset that was read, if trials share it only once."""
    base_scores: Mapping[str, float] = field(default_factory=dict)
    """Every metric of the untouched base, by name; of a study of an earlier version only the study's own."""
    agents: tuple[Mapping[str, Any], ...] = ()
    """The agents that worked on the study: W&B's `id` of each, and its process as `by`."""
    confirming: tuple[TrialRecord, ...] = ()
    """The trainings of its best configurations with further seeds, of the study beside it."""
    runs: Mapping[str, str] = field(default_factory=dict)
    """The runs on W&B that trials were given out as: the trial of each, empty where that is over."""

    @property
    def metric(self) -> Metric:
        """What the trials are compared by."""
        return Metric(name=self.info.metric, goal=self.info.goal)

    @property
    def has_one_base(self) -> bool:
        """Whether all trials begin with one model: else there is no base that they are compared with."""
        entry = self.info.sweep.get("parameters", {}).get("model", {})
        return len(entry.get("values", ())) < 2

    @property
    def finished(self) -> tuple[TrialRecord, ...]:
        """The trials that have a result and will not be run again."""
        return tuple(r for r in self.records if r.result and r.result.status is not Status.PREEMPTED)

    @property
    def is_blank(self) -> bool:
        """Whether nothing was trained in it, nor taken over from another study."""
        trained = [record for record in self.records if record.result and record.result.steps]
        left = [path for path in self.directory.glob("trials/*/*") if path.name != "config.json"]
        return not (trained or left or self.known)

    @property
    def best(self) -> TrialRecord | None:
        """The best trial of the best configuration; the earlier one of two equals."""
        return self.ranked[0] if self.ranked else None

    @property
    def ranked(self) -> tuple[TrialRecord, ...]:
        """The complete trials: the best configuration first, and in each the best trial first."""
        return tuple(record for one in self.configurations for record in one.records)

    @functools.cached_property
    def configurations(self) -> tuple[Ranked, ...]:
        """The configurations of the complete trials, the best one first."""
        return rank(self.comparable.records, self.comparable.confirming, self.metric)

    @functools.cached_property
    def comparable(self) -> "Snapshot":
        """The study without the trials, and trainings that confirm some, that read other data than most."""
        apart = [one for one in on_other_data((*self.records, *self.confirming)) if one.status_word != Status.FAILED]
        return replace(self, records=tuple(one for one in self.records if one not in apart),
                       confirming=tuple(one for one in self.confirming if one not in apart)) if apart else self

    @property
    def as_swept(self) -> "Snapshot":
        """The study without what confirmed it: what is to be confirmed does not change with that."""
        return replace(self, confirming=())

    def history(self, trial_id: str) -> list[dict[str, Any]]:
        """Read the logged rows of one trial, in order; empty if it logged none."""
        return list(json_lines(self.directory / "trials" / trial_id / "history.jsonl"))

    def as_dict(self) -> dict[str, Any]:
        """Return the study as the JSON that `show --json` prints."""
        first = next(iter(self.configurations), None)
        best = first and _row(first.records[0]) | {"mean": first.mean, "seeds": len(first.judged_by)}
        return {
            "study": str(self.directory), "metric": self.info.metric, "goal": self.info.goal,
            "baseline": self.baseline, "base_scores": dict(self.base_scores), "best": best,
            "rows": list(self.rows), "trials": [_row(record) for record in self.records],
        }


class Study:
    """Write access to a study directory; hold it with `with Study.open_for_writing(...)`."""

    def __init__(self, directory: Path, *, is_alone: bool = True) -> None:
        self.directory = directory
        self.is_alone = is_alone
        """Whether no other process had the study when it was opened."""

    @classmethod
    @contextlib.contextmanager
    def open_for_writing(cls, directory: Path, *, name: str, sweep: Mapping[str, Any], metric: str, goal: Goal,
                         seed: int | None, shared: bool = False) -> Iterator["Study"]:
        """Make the study, or continue it if it is there; only one process at a time, unless all of them share it.

        One of another sweep file in which nothing was trained begins anew: its file was wrong, and is mended.
        A `seed` of none takes the study's own seed, or 0 for a new study.

        Raises:
            StudyError: the directory cannot be written, another process holds it, or it was made from another
                sweep file or seed.
        """
        make_directory(directory)
        refuse_foreign_folder(directory)
        lock = StudyLock(directory, shared=shared)
        try:
            study = cls(directory, is_alone=lock.is_alone)
            journal = directory / JOURNAL
            if lock.is_alone and journal.exists():
                drop_torn_line(journal)
            is_new = not journal.exists() or journal.stat().st_size == 0
            if is_new:
                refuse_trials_without_journal(directory)
            elif refusal := _why_another(found := read_study(directory), sweep, seed):
                if shared or not found.is_blank:
                    raise refusal
                _clear(directory)
                is_new = True
            if is_new:
                study.append({"event": "study", "name": name, "metric": metric, "goal": goal,
                              "seed": seed or 0, "sweep": sweep})
            lock.settle()
            yield study
        finally:
            lock.close()

    def snapshot(self) -> Snapshot:
        """Read the study as it stands.

        Raises:
            StudyError: its journal is gone, or damaged.
        """
        self._require_journal()
        return read_study(self.directory)

    def trial_directory(self, trial_id: str) -> Path:
        """Make and return the directory of one trial."""
        directory = self.directory / "trials" / trial_id
        make_directory(directory)
        return directory

    def start_session(self, facts: Mapping[str, Any]) -> None:
        """Record that a process begins to work on the study, by which command and on what machine."""
        facts = {**facts, "command": typed_command()}
        self.append({"event": "session", **facts})
        write_atomically(self.directory / "environment.json", json.dumps(facts, indent=2) + "\n")

    def record_baseline(self, value: float, scores: Mapping[str, float] | None = None) -> None:
        """Record the metric of the untouched base model, and whatever else was measured of it."""
        self.append({"event": "baseline", "value": value} | ({"scores": dict(scores)} if scores else {}))

    def record_rows(self, facts: Mapping[str, Any]) -> None:
        """Record what became of the rows of a dataset, unless the journal says the same already."""
        if json.loads(json.dumps(facts)) not in self.snapshot().rows:
            self.append({"event": "rows", **facts})

    def claim_number(self, trial_id: str) -> int:
        """Return a trial's number: the one it has, else the next one, which nobody who shares the study gets too."""
        with alone_with(self.directory / JOURNAL):
            numbers: dict[str, int] = {}
            for event in json_lines(self.directory / JOURNAL):
                if event["event"] == "claim":
                    numbers[event["trial"]] = event["number"]
                elif event["event"] == "start":
                    numbers[event["trial"]["id"]] = event["trial"]["number"]
            if trial_id not in numbers:
                numbers[trial_id] = max(numbers.values(), default=-1) + 1
                self.append({"event": "claim", "trial": trial_id, "number": numbers[trial_id]})
            return numbers[trial_id]

    def record_start(self, trial: Trial, config: Mapping[str, Any]) -> None:
        """Record that a trial starts, or starts again."""
        self.record_config(trial.id, config)
        self.append({"event": "start", "trial": asdict(trial), "by": this_process()})

    def record_config(self, trial_id: str, config: Mapping[str, Any]) -> None:
        """Write what a trial is trained with, in place of what was there."""
        write_atomically(self.trial_directory(trial_id) / "config.json", json.dumps(config, indent=2) + "\n")

    def log(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Append one row to a trial's history."""
        append_line(self.trial_directory(trial_id) / "history.jsonl", row)

    def cut_history(self, trial_id: str, step: int) -> list[dict[str, Any]]:
        """Drop the rows of a trial's history after a step, the one it goes on from, and return those that stay."""
        path = self.trial_directory(trial_id) / "history.jsonl"
        kept = [row for row in sound_lines(path) or () if row["step"] <= step]
        write_atomically(path, "".join(map(line_of, kept)))
        return kept

    def cut_off(self, trial_id: str, reason: str, **notes: Any) -> TrialResult:
        """Return the result of a trial that was ended from outside, made from its rows: it goes on later."""
        snapshot = self.snapshot()
        rows = sound_lines(self.trial_directory(trial_id) / "history.jsonl") or []
        record = next(record for record in snapshot.records if record.trial.id == trial_id)
        return TrialResult(
            id=trial_id, status=Status.PREEMPTED, **Evaluations.of_rows(snapshot.metric, rows).facts, reason=reason,
            steps=rows[-1]["step"] if rows else 0, tokens=rows[-1].get("tokens", 0) if rows else 0,
            seconds=round(time.time() - record.started, 3), attempts=record.attempts, notes=notes)

    def record_end(self, result: TrialResult) -> None:
        """Record a trial's result; from here on it counts."""
        self.append({"event": "end", "result": asdict(result)})

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event to the journal with the time, flushed and fsynced."""
        if event["event"] != "study":  # a journal that begins in the middle would be none
            self._require_journal()
        append_line(self.directory / JOURNAL, {**event, "time": round(time.time(), 3)})

    def _require_journal(self) -> None:
        journal = self.directory / JOURNAL
        if not journal.exists():
            raise StudyError(f"{journal} is gone while the study is written; restore the folder from a copy, or choose "
                             f"another directory with --study")


def read_study(directory: Path) -> Snapshot:
    """Read a study that may be in use; changes nothing.

    Raises:
        StudyError: not a study directory, or its journal is damaged before its last line.
    """
    journal = directory / JOURNAL
    if not journal.is_file():
        raise no_study(directory)
    info: StudyInfo | None = None
    baseline: float | None = None
    base_scores: Mapping[str, float] = {}
    listed: dict[str, list[dict[str, Any]]] = {name: [] for name in ("session", "known", "rows", "agent")}
    starts: dict[str, tuple[Trial, int, float, Mapping[str, Any]]] = {}
    runs: dict[str, str] = {}
    results: dict[str, TrialResult] = {}
    for event in json_lines(journal):
        kind, when = event.pop("event", None), event.pop("time", 0.0)
        if kind == "study":
            info = StudyInfo(**event, created=when)
        elif kind == "baseline":
            baseline, base_scores = event["value"], event.get("scores") or {}
        elif kind in listed:
            listed[kind].append(event)
        elif kind == "start":
            trial = Trial(**event["trial"])
            attempts = starts[trial.id][1] if trial.id in starts else 0
            starts[trial.id] = (trial, attempts + 1, when, event.get("by") or {})
            results.pop(trial.id, None)
            runs |= {run: "" for run, given in runs.items() if given == trial.id} if attempts else {}
        elif kind == "run":
            runs[event["run"]] = event["trial"]
        elif kind == "end":
            results[event["result"]["id"]] = result_from_dict(event["result"])
    if info is None:
        raise StudyError(f"{journal} does not begin with a study; it was not written by kaggle_runner")
    run_of = {trial: run for run, trial in runs.items()}
    records = [TrialRecord(
        trial=trial, result=results.get(trial.id), attempts=attempts, started=started, run=run_of.get(trial.id, ""),
        is_held=not goes_on(results.get(trial.id)) or is_held(holder, directory), holder=holder)
        for trial, attempts, started, holder in starts.values()]
    return Snapshot(directory=directory, info=info, baseline=baseline, sessions=tuple(listed["session"]),
                    known=tuple(listed["known"]), rows=tuple(listed["rows"]), agents=tuple(listed["agent"]), runs=runs,
                    base_scores=base_scores or ({} if baseline is None else {info.metric: baseline}),
                    confirming=confirming(directory, info),
                    records=tuple(sorted(records, key=lambda r: r.trial.number)))


def confirming(directory: Path, info: StudyInfo) -> tuple[TrialRecord, ...]:
    """Read the trainings that confirm a study, from the one beside it; none where there is none, or of another metric.

    Raises:
        StudyError: it is damaged.
    """
    beside = confirm_directory(directory)
    found = read_study(beside) if has_begun(beside) else None
    return found.records if found and (found.info.metric, found.info.goal) == (info.metric, info.goal) else ()


def _row(record: TrialRecord) -> dict[str, Any]:
    result = record.result
    return {
        "id": record.trial.id, "status": record.status_word,
        "metric": result.metric if result else None, "metrics": dict(result.metrics) if result else {},
        "params": dict(record.trial.params), "steps": result.steps if result else 0,
        "seconds": result.seconds if result else 0.0, "peak_device_bytes": result.peak_device_bytes if result else None,
        "reason": record.reason, "origin": record.trial.origin,
    }


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name what differs between two sweeps of what decides their trials: `method`, `parameters.learning_rate`."""
    plain = json.loads(json.dumps(new))
    return [*(key for key in ("method", "metric", "early_terminate") if old.get(key) != plain.get(key)),
            *(f"parameters.{name}" for name in changed_parameters(old, plain))]


def changed_parameters(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the parameters that differ between two sweeps; what version 0.2 did not name is at its default there."""
    left, right = (_fixed_as_0_2(sweep.get("parameters", {})) for sweep in (old, new))
    return [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]


def _fixed_as_0_2(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    fixed = {name: entry["value"] for name, entry in parameters.items()
             if isinstance(entry, Mapping) and "value" in entry}
    kept = known_to_0_2(fixed) if fixed.get("trainer", "finetune") in TRAINERS else fixed
    return {name: {**entry, "value": kept[name]} if name in kept else entry for name, entry in parameters.items()
            if name in kept or name not in fixed}


def _why_another(snapshot: Snapshot, sweep: Mapping[str, Any], seed: int | None) -> StudyError | None:
    """Say why a study is not of this sweep and seed; none if it is."""
    if changed := changed_keys(snapshot.info.sweep, sweep):
        if all("value" in entry for entry in sweep.get("parameters", {}).values()):  # one configuration, of `train`
            return StudyError(f"{snapshot.directory} was trained with {unlike(changed, snapshot.info.sweep, sweep)}")
        return StudyError(f"{snapshot.directory} was made from another sweep file: {', '.join(changed)} differ; "
                          f"choose another directory with --study, or restore the file; a sweep takes over with "
                          f"--adopt what still counts")
    return None if seed is None or seed == snapshot.info.seed else other_seed(snapshot, seed)


def other_seed(snapshot: Snapshot, seed: int) -> StudyError:
    """Say that a study has another seed than the one that somebody gave."""
    return StudyError(f"{snapshot.directory} was made with seed {snapshot.info.seed}, not {seed}; choose another "
                      f"directory with --study, or leave --seed out")


def refuse_another(directory: Path, sweep: Mapping[str, Any]) -> None:
    """Raise a StudyError for trials of another sweep file, before anything is made for them elsewhere."""
    begun = (directory / JOURNAL).is_file() and (directory / JOURNAL).stat().st_size
    if begun and not (found := read_study(directory)).is_blank and (refusal := _why_another(found, sweep, None)):
        raise refusal


def _clear(directory: Path) -> None:
    """Make a study that has nothing one that has not begun, its journal at the last."""
    for name in ("optuna.journal", "trials"):
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_atomically(directory / JOURNAL, "")
