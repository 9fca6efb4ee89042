"""How a study was run, as far as its journal knows: model, data, steps, search, machine, versions, dates, command."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kaggle_runner.report.style import value_text
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.table import accounts_of_rows

_HASH = 12


def how_it_was_run(snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """Return what the journal knows of the circumstances, as names and texts; what it does not know is left out."""
    records = snapshot.records
    results = [record.result for record in records if record.result]
    sweep, sessions = snapshot.info.sweep, snapshot.sessions
    params = [record.trial.params for record in records]
    stop = sweep.get("early_terminate")
    method = str(sweep.get("method", "")) + (f", pruned by {stop['type']}" if isinstance(stop, Mapping)
                                             and "type" in stop else "")
    steps = sorted({result.steps for result in results if result.steps})
    versions = {name: _listed(result.versions[name] for result in results if name in result.versions)
                for name in dict.fromkeys(name for result in results for name in result.versions)}
    facts = [
        ("model", _with_hash(_listed(_given(params, "model")), results, "base")),
        ("data", _with_hash(_listed(_given(params, "dataset", "text")), results, "rows", "text")),
        ("rows", "; ".join(accounts_of_rows(snapshot))),
        ("training rows", _listed(_given(params, "samples"))),
        ("evaluation rows", _listed(_given(params, "max_eval_samples"))),
        ("optimizer steps", f"{steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else _listed(steps)),
        ("search", method), ("seed of the search", str(snapshot.info.seed)),
        ("seeds of trials", _listed(_given(params, "seed"))),
        ("host", _listed(str(session["host"]) for session in sessions if "host" in session)),
        ("GPU", _listed(_gpu(gpu) for session in sessions for gpu in session.get("gpus") or ())),
        ("versions", ", ".join(f"{name} {text}" for name, text in versions.items())),
        ("from", _date(min((record.started for record in records if record.started), default=0.0))),
        ("to", _date(max((record.started + (record.result.seconds if record.result else 0.0) for record in records
                          if record.started), default=0.0))),
        ("command", _listed(str(session["command"]) for session in sessions if session.get("command"))),
        ("fixed settings", ", ".join(f"{name} {value_text(entry['value'])}" for name, entry in entries_of(sweep)
                                     if "value" in entry and name not in ("model", "dataset", "text")))]
    return tuple((name, text) for name, text in facts if text)


def entries_of(sweep: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the entries of a sweep's parameters that are readable."""
    parameters = sweep.get("parameters")
    return [(str(name), entry) for name, entry in (parameters if isinstance(parameters, Mapping) else {}).items()
            if isinstance(entry, Mapping)]


def is_searched(sweep: Mapping[str, Any]) -> bool:
    """Say whether a sweep leaves a value open: one configuration alone is no search. Without entries nobody knows."""
    entries = entries_of(sweep)
    return not entries or any("value" not in entry for _, entry in entries)


def _given(params: Iterable[Mapping[str, Any]], *names: str) -> list[Any]:
    return [own[name] for own in params for name in names if own.get(name) is not None]


def _listed(values: Iterable[Any], most: int = 4) -> str:
    distinct = list(dict.fromkeys(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
                                  for value in values))
    return ", ".join(distinct[:most]) + (f" and {len(distinct) - most} more" if len(distinct) > most else "")


def _with_hash(text: str, results: Sequence[Any], *names: str) -> str:
    found = _listed(result.hashes[name][:_HASH] for result in results for name in names if name in result.hashes)
    return f"{text} (SHA-256 {found})" if text and found else text


def _gpu(gpu: Any) -> str:
    return str(gpu.get("name", gpu)) if isinstance(gpu, Mapping) else str(gpu)


def _date(seconds: float) -> str:
    if not seconds:
        return ""
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def device_of(snapshot: Snapshot) -> str:
    """Name what the trials were trained on, to stand before `time`."""
    if any(session.get("gpus") for session in snapshot.sessions):
        return "GPU"
    return "CPU" if any("gpus" in session for session in snapshot.sessions) else "machine"
