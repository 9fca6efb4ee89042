"""The trials of a W&B sweep as a study on this machine, read through W&B's public API, for `show` and `report`.

Whoever ran the agents elsewhere has no journal here. What W&B does not keep is not made up: seconds by phase, the
untouched base, the trials' adapters.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.errors import StudyError, WandbError
from kaggle_runner.files import line_of, make_directory, write_atomically
from kaggle_runner.machine.environment import Environment
from kaggle_runner.metrics import GOALS, Evaluations, Metric
from kaggle_runner.study.axes import is_number
from kaggle_runner.study.journal import JOURNAL, read_study
from kaggle_runner.study.lock import ELSEWHERE
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.wandb.connection import API_ERRORS, connect, leave, refused
from kaggle_runner.wandb.run import NOTES
from kaggle_runner.wandb.sweep import look_up

STEP = "train/global_step"
POINTS = 500
"""Number of rows that are asked for of a run; W&B samples longer ones."""
_SAY_EVERY = 10
_HOST = "wandb"
_ENDED = {"finished": Status.COMPLETE, "preempted": Status.PREEMPTED, "preempting": Status.PREEMPTED,
          "failed": Status.FAILED, "crashed": Status.FAILED, "killed": Status.FAILED}
"""What W&B's states say of a run whose summary does not say how it ended; any other state: it has not ended."""
_OUTCOMES = {**{status.value: status for status in Status}, "stopped": Status.PRUNED}


def fetch_study(address: str, environment: Environment, directory: Path | None = None,
                notify: Callable[[str], None] = lambda message: None) -> Path:
    """Read a sweep's runs from W&B and write them as a study, over what was fetched before; return its directory.

    By default `studies/ID-from-wandb`. `notify` takes what is being read.

    Raises:
        SecretError: no key, or a malformed one.
        WandbError: W&B cannot be reached or refuses, there is no such sweep, or it has no metric.
        StudyError: the directory cannot be written, or is a study that was not fetched.
    """
    key = connect(environment, notify)
    try:
        api = wandb.Api()
        path, found = look_up(api, address)
        goal, metric = _metric(found.config, path)
        directory = directory or environment.writable_directory / "studies" / f"{found.id}-from-wandb"
        _refuse_own(directory)
        with _own_folder():
            runs = list(api.runs("/".join(path.split("/")[:2]), filters={"sweep": found.id}, order="+created_at"))
            histories = []
            for number, run in enumerate(runs):
                if number % _SAY_EVERY == 0:
                    notify(f"reading {path} from W&B: {number} of {len(runs)} runs")
                histories.append(_rows(run, metric))
            device = _device(runs)
            events = [event for number, (run, rows) in enumerate(zip(runs, histories, strict=True))
                      for event in _events(run, number, rows, metric, goal)]
    except API_ERRORS as error:
        raise refused(f"W&B does not show us the sweep {address}; copy its id or URL from its page, and see that the "
                      f"key belongs to a member of its team; W&B says", error, key) from error
    finally:
        leave()
    study = {"event": "study", "name": found.config.get("name") or found.id, "metric": metric, "goal": goal, "seed": 0,
             "sweep": found.config, "time": 0.0}
    session = {"event": "session", "host": _HOST, "sweep": path, **device, "time": 0.0}
    for run, rows in zip(runs, histories, strict=True):
        make_directory(directory / "trials" / run.id)
        write_atomically(directory / "trials" / run.id / "history.jsonl", _lines(rows))
    make_directory(directory)
    write_atomically(directory / JOURNAL, _lines([study, session, *events]))
    return directory


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Let the client make the empty folder that it makes for each run it reads in a place that is gone afterwards."""
    before = os.environ.get("WANDB_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WANDB_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["WANDB_DIR"]
            if before is not None:
                os.environ["WANDB_DIR"] = before


def _metric(config: Mapping[str, Any], path: str) -> tuple[str, str]:
    metric = config.get("metric") or {}
    if not metric.get("name"):
        raise WandbError(f"the sweep {path} has no metric in its configuration, so its trials cannot be compared")
    return metric.get("goal", "minimize"), metric["name"]


def _refuse_own(directory: Path) -> None:
    """Refuse a directory with a study that was not fetched: its journal is the only record of its trials."""
    if (directory / JOURNAL).exists() and not any(session.get("host") == _HOST
                                                  for session in read_study(directory).sessions):
        raise StudyError(f"{directory} is a study of this machine and is not written over; move it, or report it by "
                         f"its path")


def _device(runs: Iterable[Any]) -> dict[str, Any]:
    """Return the GPUs that W&B saw in the first run that tells; nothing if none does."""
    for run in runs:
        with contextlib.suppress(*API_ERRORS, OSError):
            seen = run.metadata
            if seen:
                return {"gpus": [seen["gpu"]] if seen.get("gpu") else []}
    return {}


def _rows(run: Any, metric: str) -> list[dict[str, Any]]:
    """Read a run's measurements, by optimizer step where the run has logged it, else by W&B's own count of rows.

    What is measured beside the metric stands in the same rows, so that one question brings all of it.
    """
    rows: dict[int, dict[str, Any]] = {}
    beside = [name for name in GOALS if name != metric and is_number(run.summary.get(name))]
    for names in ((metric, *beside), *(((metric,),) if beside else ()), ("train/loss",)):
        if names == (metric,) and rows:
            continue
        found = run.history(keys=[STEP, *names], samples=POINTS, pandas=False)
        step = STEP if found else "_step"
        for row in found or run.history(keys=list(names), samples=POINTS, pandas=False):
            if is_number(row.get(names[0])) and is_number(row.get(step)):
                rows.setdefault(int(row[step]), {"step": int(row[step])}).update(
                    {name: row[name] for name in names if is_number(row.get(name))})
    return [rows[step] for step in sorted(rows)]


def _events(run: Any, number: int, rows: list[dict[str, Any]], metric: str, goal: str) -> list[dict[str, Any]]:
    """Return what the journal says of one run: that it started and, if it has ended, how."""
    params = {name: value for name, value in run.config.items() if not name.startswith("_")}
    started = datetime.fromisoformat(run.created_at).timestamp() if run.created_at else 0.0
    trial = Trial(id=run.id, number=number, params=params, origin=_HOST)
    events: list[dict[str, Any]] = [{"event": "start", "trial": asdict(trial), "by": ELSEWHERE, "time": started}]
    summary = {name: run.summary.get(name) for name in ("outcome", "reason", "seconds", "tokens", "peak_device_bytes",
                                                        "_runtime", metric, *NOTES)}
    outcome = summary["outcome"]
    status = _OUTCOMES.get(outcome, Status.FAILED) if outcome and run.state in _ENDED else _ENDED.get(run.state)
    if status is None:
        return events
    seen = Evaluations.of_rows(Metric(name=metric, goal="maximize" if goal == "maximize" else "minimize"), rows)
    value = summary[metric] if status is Status.COMPLETE and is_number(summary[metric]) else seen.best
    facts = {**seen.facts, "metric": value}
    reason = summary["reason"] or ("" if status is Status.COMPLETE else f"{outcome or run.state} on W&B")
    result = TrialResult(
        id=run.id, status=status, reason=reason, steps=max((row["step"] for row in rows), default=0), **facts,
        seconds=float(summary["seconds"] or summary["_runtime"] or 0.0),
        peak_device_bytes=summary["peak_device_bytes"], tokens=int(summary["tokens"] or 0),
        notes={name: summary[name] for name in NOTES if summary[name] is not None})
    return [*events, {"event": "end", "result": asdict(result), "time": started + result.seconds}]


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(line_of(json.loads(json.dumps(row, default=str))) for row in rows)
