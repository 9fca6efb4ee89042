"""The trials of a W&B sweep as a study on this machine, read through W&B's public API, for `show` and `report`.

Whoever ran the agents elsewhere has no journal here. What W&B does not keep is not made up: seconds by phase, the
untouched base, the trials' adapters.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.errors import StudyError, WandbError
from kaggle_runner.files import NOT_HERE, line_of, write_atomically
from kaggle_runner.machine.environment import Environment
from kaggle_runner.metrics import Metric
from kaggle_runner.study.journal import JOURNAL, read_study
from kaggle_runner.study.lock import ELSEWHERE
from kaggle_runner.study.trial import Trial
from kaggle_runner.wandb.connection import API_ERRORS, connect, leave, refused
from kaggle_runner.wandb.read_back import own_folder, result_of, rows_of
from kaggle_runner.wandb.run import CONFIRMED_TRIAL
from kaggle_runner.wandb.sweep import look_up

_SAY_EVERY = 10
_HOST = "wandb"


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
        metric = _metric(found.config, path)
        directory = directory or environment.writable_directory / "studies" / f"{found.id}-from-wandb"
        _refuse_own(directory)
        with own_folder():
            runs = [run for run in api.runs("/".join(path.split("/")[:2]), filters={"sweep": found.id},
                                            order="+created_at") if CONFIRMED_TRIAL not in run.config]
            histories = []
            for number, run in enumerate(runs):
                if number % _SAY_EVERY == 0:
                    notify(f"reading {path} from W&B: {number} of {len(runs)} runs")
                histories.append(rows_of(run, metric.name))
            device = _device(runs)
            events = [event for number, (run, rows) in enumerate(zip(runs, histories, strict=True))
                      for event in _events(run, number, rows, metric)]
    except API_ERRORS as error:
        raise refused(f"W&B does not show us the sweep {address}; copy its id or URL from its page, and see that the "
                      f"key belongs to a member of its team; W&B says", error, key) from error
    finally:
        leave()
    study = {"event": "study", "name": found.config.get("name") or found.id, "metric": metric.name,
             "goal": metric.goal, "seed": 0, "sweep": found.config, "time": 0.0}
    session = {"event": "session", "host": _HOST, "sweep": path, **device, "time": 0.0}
    for run, rows in zip(runs, histories, strict=True):
        write_atomically(directory / "trials" / run.id / "history.jsonl", _lines(rows), way_out=NOT_HERE)
    write_atomically(directory / JOURNAL, _lines([study, session, *events]), way_out=NOT_HERE)
    return directory


def _metric(config: Mapping[str, Any], path: str) -> Metric:
    metric = config.get("metric") or {}
    if not metric.get("name"):
        raise WandbError(f"the sweep {path} has no metric in its configuration, so its trials cannot be compared")
    return Metric(name=metric["name"], goal="maximize" if metric.get("goal") == "maximize" else "minimize")


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


def _events(run: Any, number: int, rows: list[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    """Return what the journal says of one run: that it started and, if it has ended, how."""
    params = {name: value for name, value in run.config.items() if not name.startswith("_")}
    started = datetime.fromisoformat(run.created_at).timestamp() if run.created_at else 0.0
    trial = Trial(id=run.id, number=number, params=params, origin=_HOST)
    start = {"event": "start", "trial": asdict(trial), "by": ELSEWHERE, "time": started}
    result = result_of(run, rows, metric)
    return [start, {"event": "end", "result": asdict(result), "time": started + result.seconds}] if result else [start]


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(line_of(json.loads(json.dumps(row, default=str))) for row in rows)
