"""How a trial ended, from what W&B keeps of its run: its state, its summary and its rows."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaggle_runner.metrics import GOALS, Evaluations, Metric
from kaggle_runner.study.axes import is_number
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.wandb.connection import in_environment
from kaggle_runner.wandb.run import HASHES, NOTES

STEP = "train/global_step"
POINTS = 500
"""Number of rows that are asked for of a run; W&B samples longer ones."""
ENDED = {"finished": Status.COMPLETE, "preempted": Status.PREEMPTED, "preempting": Status.PREEMPTED,
         "failed": Status.FAILED, "crashed": Status.FAILED, "killed": Status.FAILED}
"""What W&B's states say of a run whose summary does not say how it ended; any other state: it has not ended."""
_OUTCOMES = {**{status.value: status for status in Status}, "stopped": Status.PRUNED}
_SUMMARY = ("outcome", "reason", "seconds", "tokens", "peak_device_bytes", "_runtime", *NOTES, *HASHES.values())


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """Let the client make the empty folder that it makes for each run it reads in a place that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, in_environment({"WANDB_DIR": folder}):
        yield


def rows_of(run: Any, metric: str) -> list[dict[str, Any]]:
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


def result_of(run: Any, rows: Sequence[Mapping[str, Any]], metric: Metric, *, trial: str = "") -> TrialResult | None:
    """Return how the trial of a run ended, under the run's id or as `trial`; none while it has not."""
    summary = {name: run.summary.get(name) for name in (*_SUMMARY, metric.name)}
    outcome = summary["outcome"]
    status = _OUTCOMES.get(outcome, Status.FAILED) if outcome and run.state in ENDED else ENDED.get(run.state)
    if status is None:
        return None
    seen = Evaluations.of_rows(metric, rows)
    value = summary[metric.name] if status is Status.COMPLETE and is_number(summary[metric.name]) else seen.best
    notes = {name: summary[name] for name in NOTES if summary[name] is not None}
    if status is Status.FAILED and outcome not in (None, *_OUTCOMES):
        notes["kind"] = outcome
    return TrialResult(
        id=trial or run.id, status=status, steps=max((row["step"] for row in rows), default=0),
        **{**seen.facts, "metric": value},
        reason=summary["reason"] or ("" if status is Status.COMPLETE else f"{outcome or run.state} on W&B"),
        seconds=float(summary["seconds"] or summary["_runtime"] or 0.0),
        peak_device_bytes=summary["peak_device_bytes"], tokens=int(summary["tokens"] or 0), notes=notes,
        hashes={name: str(summary[key]) for name, key in HASHES.items() if summary[key] is not None})
