"""A study as text: the lines about the best trial, the base and the noise."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kaggle_runner.config import TRAINERS, FinetuneConfig
from kaggle_runner.metrics import format_metric, format_number, metric_writer
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import (
    Configuration,
    Noise,
    configurations_of,
    confirmed,
    is_level,
    measured_noise,
    stated_of_best,
)
from kaggle_runner.study.ranking import own_rank
from kaggle_runner.study.trial import Status, TrialRecord
from kaggle_runner.wording import how_many, plain_value

MOST_CHANGE = 100
"""How many times the base's value a change may be and still be said in per cent."""
NAMED = 3
"""Trials of one configuration that are named at most."""


def best_lines(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what there is to say of the best trial, the base and the noise, as labels and texts."""
    lines = []
    best, metric = snapshot.best, snapshot.info.metric
    noise, _ = measured_noise(snapshot)
    if best is None or best.result is None or best.result.metric is None:
        lines.append(("best", _no_best(snapshot)))
    else:
        found, told = configurations_of(snapshot), confirmed(snapshot)
        level = none_is_better(snapshot, found)
        one = next(one for one in found if best.trial.id in one.all_ids)
        value = _value(snapshot, found, one, noise, told.stated_of_best if told else None)
        who = f"none is better: all {len(found)} configurations have" if level else f"{_who(one)},"
        lines.append(("best", f"{who} {metric} {value}{'' if level else _beside(snapshot, best)}"))
        names = [] if level else _varied(snapshot) or _chosen(best.trial.params) or list(best.trial.params)
        if names:
            lines.append(("", "  ".join(f"{name} {format_value(best.trial.params[name])}"
                                        for name in names if name in best.trial.params)))
        lines += told.as_lines(metric) if told else []
    if noise is not None:
        lines.append(("noise", f"{format_number(noise.deviation)} standard deviation of one trial's {metric}, from "
                               f"{noise.source}"))
    if apart := [record.trial.id for record in snapshot.records if record not in snapshot.comparable.records]:
        lines.append(("data", f"{_named(apart)} read other rows, another text or another model than most, so losses "
                              f"do not compare and these are not ranked"))
    lines += [("rows" if i == 0 else "", text) for i, text in enumerate(accounts_of_rows(snapshot))]
    return lines


def best_value(snapshot: Snapshot) -> str:
    """Write what the best of a study with one came to, beside the base."""
    found, best = configurations_of(snapshot), snapshot.configurations[0].records[0].trial.id
    return _value(snapshot, found, next(one for one in found if best in one.all_ids), measured_noise(snapshot)[0],
                  stated_of_best(snapshot))


def _value(snapshot: Snapshot, found: Sequence[Configuration], one: Configuration, noise: Noise | None,
           expected: float | None) -> str:
    """Write the mean of the best of all that were found.

    The mean of the seeds that chose a confirmed winner is too good on average, so what seeds say that did not choose
    stands with it: that is no number of this winner alone, because without one of its seeds another may have won.
    """
    write = metric_writer(snapshot.info.metric, (one.mean for one in found))
    error = "" if noise is None else f" +- {noise.deviation / math.sqrt(one.seeds):.2g} standard error"
    chosen = "" if expected is None else f" that chose it; what is chosen so comes to {write(expected)}"
    of = f" ({one.made_of}{chosen})" if one.runs > 1 else ""
    return f"{write(one.mean)}{error}{of}{_gain(snapshot, one.mean, write)}"


def none_is_better(snapshot: Snapshot, found: Sequence[Configuration]) -> bool:
    """Say whether all of several configurations have the same value, and nothing that breaks a tie."""
    return is_level(found) and len({own_rank(one.records[0], snapshot.metric)[0]
                                    for one in snapshot.configurations}) == 1


def accounts_of_rows(snapshot: Snapshot) -> list[str]:
    """Return what became of the rows of each dataset that the trials read, in words, each account once.

    Of rows that changed before a trial was trained on them the account is left out.
    """
    used = {record.result.hashes.get("rows") for record in snapshot.records if record.result}
    last = {facts.get("dataset"): facts["rows"]["read"] for facts in snapshot.rows}
    found = [facts["rows"] for facts in snapshot.rows
             if facts.get("sha256") in used or facts["rows"]["read"] == last[facts.get("dataset")]]
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
    return f"{value:.4g}" if isinstance(value, float) else plain_value(value)


def _varied(snapshot: Snapshot) -> list[str]:
    """Name the parameters that the sweep searches."""
    parameters: Mapping[str, Any] = snapshot.info.sweep.get("parameters", {})
    return [name for name, entry in parameters.items() if "value" not in entry]


def _chosen(params: Mapping[str, Any]) -> list[str]:
    """Name what is not at its default: a winner's file names every hyperparameter."""
    usual = TRAINERS.get(str(params.get("trainer", "finetune")), FinetuneConfig)().as_dict()
    return [name for name, value in params.items() if name not in usual or value != usual[name]]


def _no_best(snapshot: Snapshot) -> str:
    """Say why there is no best trial."""
    ended = sum(record.result is not None and record.result.status is Status.COMPLETE for record in snapshot.records)
    if ended:
        return f"none: {how_many(ended, 'trial')} ended without a number for {snapshot.info.metric}"
    return "none: no trial is complete" if snapshot.records else "none: no trial has begun"


def _who(one: Configuration) -> str:
    """Name the trials of a configuration, the first few of many."""
    return _named(one.runs_ids)


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"trial{'s' if len(ids) > 1 else ''} {', '.join(ids[:NAMED])}{more}"


def _gain(snapshot: Snapshot, value: float, write: Callable[[float], str]) -> str:
    if snapshot.baseline is None:
        return ""
    change = (value - snapshot.baseline) / abs(snapshot.baseline) if snapshot.baseline else math.inf
    share = f" ({change:+.1%})" if 0.0005 <= abs(change) < MOST_CHANGE else ""
    return f"; the untouched base has {write(snapshot.baseline)}{share}"


def _beside(snapshot: Snapshot, best: TrialRecord) -> str:
    """Say the metric that belongs beside the study's own, of the best trial and of the base."""
    name = snapshot.metric.beside
    if best.result is None or name not in best.result.metrics:
        return ""
    base = f" (base {format_metric(name, snapshot.base_scores[name])})" if name in snapshot.base_scores else ""
    return f"; {name.removeprefix('eval/')} {format_metric(name, best.result.metrics[name])}{base}"
