"""A study as text: the trial table and the lines about the best trial."""

from collections.abc import Mapping
from typing import Any

from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import measured_noise
from kaggle_runner.study.trial import TrialRecord

GIB = 2**30


def trial_table(snapshot: Snapshot) -> str:
    """Return the trials of a study as an aligned table, in their order; only parameters that differ have a column."""
    names = _varied(snapshot)
    header = ["trial", "status", snapshot.info.metric, "steps", "seconds", "peak GiB", *names, "reason"]
    rows = [header, *(_cells(record, names, snapshot) for record in snapshot.records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


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
    lines += [("rows" if i == 0 else "", text) for i, text in enumerate(accounts_of_rows(snapshot))]
    return lines


def accounts_of_rows(snapshot: Snapshot) -> list[str]:
    """Return what became of the rows of each dataset that the trials read, in words, each account once."""
    found = [facts["rows"] for facts in snapshot.rows]
    found += [] if found else [record.result.notes["rows"] for record in snapshot.records
                               if record.result and record.result.notes.get("rows")]  # of studies of earlier versions
    return list(dict.fromkeys(_account(rows) for rows in found))


def _account(rows: Mapping[str, Any]) -> str:
    more = "".join(f", {rows[name]:,} {what}" for name, what in (
        ("not_drawn", "not asked for"), ("unanswered", "without the turns after their last answer")) if rows.get(name))
    lost = "".join(f", left out {count:,} ({reason})" for reason, count in rows["lost"].items())
    return (f"{rows['read']:,} read, {rows['train']:,} trained, {rows['validation']:,} held out, {rows['cut']:,} cut, "
            f"{rows['duplicates']:,} duplicates{more}{lost}")


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


def _cells(record: TrialRecord, names: list[str], snapshot: Snapshot) -> list[str]:
    result = record.result
    parameters = [format_value(record.trial.params.get(name, "")) for name in names]
    if result is None:
        return [record.trial.id, "running", "", "", "", "", *parameters, ""]
    mark = " *" if snapshot.best is record else ""
    return [
        record.trial.id, result.status.value, f"{result.metric:.4f}{mark}" if result.metric is not None else "-",
        str(result.steps), f"{result.seconds:.1f}",
        f"{result.peak_device_bytes / GIB:.2f}" if result.peak_device_bytes else "-", *parameters, result.reason,
    ]
