"""A study as text: the lines about the best trial, the base and the noise."""

from collections.abc import Mapping
from typing import Any

from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import measured_noise
from kaggle_runner.study.trial import TrialRecord


def best_lines(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what there is to say of the best trial, the base and the noise, as labels and texts."""
    lines = []
    best, metric = snapshot.best, snapshot.info.metric
    if best is None or best.result is None or best.result.metric is None:
        lines.append(("best", "no trial has finished"))
    else:
        lines.append(("best", f"trial {best.trial.id}, {metric} {best.result.metric:.4f}{_gain(snapshot, best)}"))
        names = _varied(snapshot) or list(best.trial.params)
        lines.append(("", "  ".join(f"{name} {format_value(best.trial.params[name])}" for name in names)))
    noise, _ = measured_noise(snapshot)
    if noise is not None:
        lines.append(("noise", f"{noise.deviation:.4f} standard deviation of {metric}, from {noise.source}"))
    rows = next((record.result.notes["rows"] for record in snapshot.records
                 if record.result and record.result.notes.get("rows")), None)
    if rows:
        lost = "".join(f", left out {count:,} ({reason})" for reason, count in rows["lost"].items())
        lines.append(("rows", f"{rows['read']:,} read, {rows['train']:,} trained, {rows['validation']:,} held out, "
                              f"{rows['cut']:,} cut, {rows['duplicates']:,} duplicates{lost}"))
    return lines


def format_value(value: Any) -> str:
    """Write a hyperparameter's value short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _varied(snapshot: Snapshot) -> list[str]:
    """Name the parameters that the sweep searches."""
    parameters: Mapping[str, Any] = snapshot.info.sweep.get("parameters", {})
    return [name for name, entry in parameters.items() if "value" not in entry]


def _gain(snapshot: Snapshot, best: TrialRecord) -> str:
    if not snapshot.baseline or best.result is None or best.result.metric is None:
        return ""
    change = best.result.metric / snapshot.baseline - 1
    return f"; the untouched base has {snapshot.baseline:.4f} ({change:+.1%})"
