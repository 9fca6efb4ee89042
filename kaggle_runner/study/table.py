"""A study as text: the lines about the best trial, the base and the noise."""

from collections.abc import Mapping, Sequence
from typing import Any

from kaggle_runner.metrics import format_metric
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import Configuration, Noise, measured_noise
from kaggle_runner.study.trial import TrialRecord


def best_lines(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what there is to say of the best trial, the base and the noise, as labels and texts."""
    lines = []
    best, metric = snapshot.best, snapshot.info.metric
    noise, repeats = measured_noise(snapshot)
    if best is None or best.result is None or best.result.metric is None:
        lines.append(("best", "no trial has finished"))
    else:
        value = snapshot.metric.text(best.result.metric)
        lines.append(("best", f"trial {best.trial.id}, {metric} {value}{_doubt(snapshot, best, noise, repeats)}"
                              f"{_gain(snapshot, best)}{_beside(snapshot, best)}"))
        names = _varied(snapshot) or list(best.trial.params)
        lines.append(("", "  ".join(f"{name} {format_value(best.trial.params[name])}" for name in names)))
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


def _doubt(snapshot: Snapshot, best: TrialRecord, noise: Noise | None, repeats: Sequence[Configuration]) -> str:
    """Say how far another seed may lead from the trial's metric, and how many seeds it has; nothing if unknown."""
    if noise is None:
        return ""
    of_it = {name for repeat in repeats for name in repeat.trial_ids
             if best.trial.id in repeat.trial_ids or name.startswith(f"trial {best.trial.id} with seed ")}
    seeds = len(of_it | {best.trial.id})
    return f" +- {noise.deviation:.2g}" + (f" ({seeds} seeds)" if seeds > 1 else "")


def _gain(snapshot: Snapshot, best: TrialRecord) -> str:
    if snapshot.baseline is None or best.result is None or best.result.metric is None:
        return ""
    change = f" ({best.result.metric / snapshot.baseline - 1:+.1%})" if snapshot.baseline else ""
    return f"; the untouched base has {snapshot.metric.text(snapshot.baseline)}{change}"


def _beside(snapshot: Snapshot, best: TrialRecord) -> str:
    """Say the metric that belongs beside the study's own, of the best trial and of the base."""
    name = snapshot.metric.beside
    if best.result is None or name not in best.result.metrics:
        return ""
    base = f" (base {format_metric(name, snapshot.base_scores[name])})" if name in snapshot.base_scores else ""
    return f"; {name.removeprefix('eval/')} {format_metric(name, best.result.metrics[name])}{base}"
