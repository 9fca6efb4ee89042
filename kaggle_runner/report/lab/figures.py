"""The pictures of a study of the lab: losses by value and seed, gains with their intervals, and curves by value."""

import html
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kaggle_runner.lab.contest import Contest
from kaggle_runner.lab.decision import Comparison, Decision, same
from kaggle_runner.lab.summary import sentence
from kaggle_runner.metrics import metric_writer
from kaggle_runner.report.analysis.analysis import Analysis
from kaggle_runner.report.analysis.curves import Curve
from kaggle_runner.report.figures import Figure, axis_layout, curve_scale, highlight, lines, short, text
from kaggle_runner.report.scale import level
from kaggle_runner.report.style import (
    BASELINE,
    BEST,
    LEGEND,
    LOOKS,
    SERIES,
    count_text,
    names_text,
    short_names,
    shortened,
)
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.table import format_value

_COLORS = [color for color in SERIES if color != BEST]


def losses_figure(contest: Contest, snapshot: Snapshot, decision: Decision | None, *, is_pages: bool = True) -> Figure:
    """Return every loss over the values, one line for each seed: lines that run alike are pairs worth comparing.

    `is_pages` says whether these are the trials of the page's own table, which a mark then chooses.
    """
    lines_of: dict[int, dict[str, tuple[float, int]]] = {}
    for place, record in enumerate(snapshot.records):
        if record.result is not None and record.result.metric is not None and record.result.status == "complete":
            name = _name(contest.value_of(record.trial))
            lines_of.setdefault(record.trial.params["seed"], {})[name] = (record.result.metric, place)
    names, traces = [_name(value) for value in contest.values], []
    for (seed, losses), color in zip(sorted(lines_of.items()), itertools.cycle(_COLORS), strict=False):
        there = [name for name in names if name in losses]
        traces.append({"type": "scatter", "mode": "lines+markers", "name": f"seed {seed}", "x": there,
                       "y": [losses[name][0] for name in there], "line": {"color": color, "width": 1.5},
                       "marker": {"color": color, "size": 7}, "meta": {"trials": is_pages},
                       "customdata": [losses[name][1] for name in there]})
    means = {name: statistics.fmean(losses[name][0] for losses in lines_of.values() if name in losses)
             for name in names if any(name in losses for losses in lines_of.values())}
    traces.append({"type": "scatter", "mode": "markers", "name": "mean", "x": list(means), "y": list(means.values()),
                   "marker": {"color": BEST, "size": 13, "symbol": "star"}})
    return Figure(key="by_value", title=f"{snapshot.info.metric} by {_studied(contest)}",
                  is_half=decision is not None, traces=tuple(traces),
                  sentence=_means_text(means, snapshot.info.metric) if means else "No trial is complete.",
                  layout={"xaxis": _values_axis(contest), "yaxis": axis_layout(snapshot.info.metric)})


def gains_figure(contest: Contest, decision: Decision) -> Figure:
    """Return each value's gain over the default with its 95 % interval."""
    rows = [row for row in decision.comparisons if row.gain is not None]
    traces = [_default_mark(contest) if same(row.value, contest.default) else _interval(row)
              for row in decision.comparisons if row in rows or same(row.value, contest.default)]
    won = [row for row in rows if same(row.value, decision.winner)]
    for chosen, color, name in (([row for row in rows if row not in won], LOOKS["complete"].color, "gain"),
                                (won, BEST, "adopted")):
        if chosen:
            traces.append({"type": "scatter", "mode": "markers", "name": name, "y": [row.gain for row in chosen],
                           "x": [_name(row.value) for row in chosen], "marker": {"color": color, "size": 10}})
    for trace in [trace for trace in traces if trace["name"] == "95 % interval"][1:]:
        trace["showlegend"] = False
    line = level(0.0, f"the default, {text(shortened(format_value(contest.default), LEGEND - 13))}")
    return Figure(key="gains", title="Gain over the default, with 95 % intervals", sentence=sentence(decision.reason),
                  is_half=True, traces=tuple(traces), layout={
                      "xaxis": _values_axis(contest), "yaxis": axis_layout(f"gain in {contest.judged_by.name}"),
                      "shapes": [line]})


def curves_figure(contest: Contest, analysis: Analysis, snapshot: Snapshot) -> Figure | None:
    """Return the learning curves in a colour for each value: thin for each seed, thick for their mean."""
    of_value: dict[str, list[Curve]] = {_name(value): [] for value in contest.values}
    for record, curve in zip(snapshot.records, analysis.curves, strict=True):
        if curve.steps:
            of_value[_name(contest.value_of(record.trial))].append(curve)
    drawn = [curve for curves in of_value.values() for curve in curves]
    if not drawn:
        return None
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces: list[dict[str, Any]] = []
    shown = dict(zip(of_value, map(text, short_names(list(map(format_value, contest.values)), LEGEND)), strict=True))
    for name, color, dash in zip(of_value, itertools.cycle(SERIES), _dashes(), strict=False):
        curves = of_value[name]
        if curves:
            traces.append(lines([(place[one.trial_id], one.steps, one.values) for one in curves], name=name,
                                color=color, width=1.0) | {"showlegend": False})
            steps, means = _mean_curve(curves)
            hover = f"{name}, mean of {len(curves)}<br>step %{{x}}, %{{y}}<extra></extra>"
            traces.append({"type": "scatter", "mode": "lines", "name": shown[name], "x": steps, "y": short(means),
                           "line": {"color": color, "width": 3, "dash": dash}, "hovertemplate": hover})
    traces.append(highlight())
    scale = curve_scale(analysis)
    last = max(curve.steps[-1] for curve in drawn)
    return Figure(key="curves", title="Learning curves by value", traces=tuple(traces), height=420,
                  sentence=f"{count_text(len(drawn), 'trial')} of {count_text(len(of_value), 'value')}; thin lines are "
                           f"single seeds, thick ones their means.",
                  beyond=(*scale.beyond, *scale.beyond_of([curve.values for curve in drawn])),
                  layout={"xaxis": axis_layout("optimizer steps", range=[0, 1.03 * last]), "yaxis": scale.axis,
                          "shapes": scale.shapes})


def _mean_curve(curves: Sequence[Curve]) -> tuple[list[int], list[float]]:
    """Average curves at the steps that all of them have."""
    at = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(own) for own in at)))
    return steps, [statistics.fmean(own[step] for own in at) for step in steps]


def _means_text(means: Mapping[str, float], metric: str) -> str:
    write = metric_writer(metric, means.values())
    ordered = sorted(means, key=lambda name: means[name])
    listed = names_text((f"{html.unescape(name)}: {write(means[name])}" for name in ordered), 8)
    return f"Means over the seeds, lowest first: {listed}."


def _default_mark(contest: Contest) -> dict[str, Any]:
    """Keep the default's place among the values: its gain over itself is nothing."""
    return {"type": "scatter", "mode": "markers", "name": "default", "x": [_name(contest.default)], "y": [0.0],
            "showlegend": False, "marker": {"color": BASELINE, "size": 10}}


def _interval(row: Comparison) -> dict[str, Any]:
    """Return the interval of a gain; a point where there is none, as with one seed."""
    gain, half = row.gain or 0.0, row.half_width or 0.0
    name = _name(row.value)
    return {"type": "scatter", "mode": "lines", "name": "95 % interval", "x": [name, name],
            "y": [gain - half, gain + half], "line": {"color": BASELINE, "width": 3}}


def _values_axis(contest: Contest) -> dict[str, Any]:
    """Return the axis of all values in the study's order, also of those that no trace has."""
    names = [_name(value) for value in contest.values]
    return axis_layout(_studied(contest), type="category", categoryorder="array", categoryarray=names, tickvals=names,
                       ticktext=[text(name) for name in short_names(list(map(format_value, contest.values)), 22)],
                       range=[-0.5, len(names) - 0.5])


def _name(value: object) -> str:
    return text(format_value(value))


def _dashes() -> "itertools.chain[str]":
    return itertools.chain(["solid"] * len(SERIES), ["dash"] * len(SERIES), itertools.repeat("dot"))


def _studied(contest: Contest) -> str:
    return contest.varied[0] if len(contest.varied) == 1 else "setting"
