"""The figures about cost, as plotly.js traces and layouts: best so far by time, rungs, time, memory, predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis, Row
from kaggle_runner.report.figures import (
    MANY,
    OUTLINE,
    Figure,
    axis_layout,
    best_band,
    best_scale,
    dots,
    hour_unit,
    marked,
    marker,
    scale_of,
    short,
    spread,
    text,
    trial_axis,
)
from kaggle_runner.report.style import BASELINE, BEST, FAINT, SERIES


def cost_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures on what it cost: best so far by time, rungs, time, memory, predictions."""
    figures = [_hours(analysis), _rungs(analysis), _time(analysis), _memory(analysis), _predicted(analysis)]
    return tuple(figure for figure in figures if figure is not None)


def _hours(analysis: Analysis) -> Figure | None:
    if not analysis.progress or not analysis.progress[-1].hours:
        return None
    scale, unit = hour_unit(analysis.progress[-1].hours)
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    measured = best_scale(analysis, [step.best for step in analysis.progress])
    trace: dict[str, Any] = {
             "type": "scatter", "mode": "lines+markers", "name": "best so far", "line": {"color": BEST, "shape": "hv"},
             "marker": {"size": 5}, "x": short(step.hours * scale for step in analysis.progress),
             "y": short(step.best for step in analysis.progress), "meta": {"trials": True},
             "customdata": [place[step.trial_id] for step in analysis.progress]}
    return Figure(key="hours", title=f"Best so far, by {analysis.device} time", sentence=say.hours(analysis),
                  traces=(*best_band(analysis, trace["x"]), trace), is_half=True, beyond=measured.beyond, layout={
                      "xaxis": axis_layout(f"{analysis.device} {unit}, all trials added up", rangemode="tozero"),
                      "yaxis": measured.axis, "shapes": measured.shapes})


def _rungs(analysis: Analysis) -> Figure | None:
    if not analysis.rungs:
        return None
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    scale = scale_of(analysis, [value for rung in analysis.rungs for _, value in (*rung.survivors, *rung.cut)])
    traces: list[dict[str, Any]] = []
    for name, status in (("goes on", "complete"), ("cut", "pruned")):
        side = -0.12 if name == "goes on" else 0.12
        points = [(round(i + side + 0.16 * spread(place[trial_id]), 3), scale.at_edge(value), place[trial_id])
                  for i, rung in enumerate(analysis.rungs)
                  for trial_id, value in (rung.survivors if name == "goes on" else rung.cut)]
        traces.append({
            "type": "scatter", "mode": "markers", "name": name, "x": [x for x, _, _ in points],
            "y": short(y for _, y, _ in points), "customdata": [at for _, _, at in points], "meta": {"trials": True},
            "marker": marker(status, 9 if len(points) < MANY else 5)})
    best_id = best.id if (best := marked(analysis)) else None
    own = [(i - 0.12, value) for i, rung in enumerate(analysis.rungs) for trial_id, value in rung.survivors
           if trial_id == best_id]
    if own and best_id is not None:
        traces.append({"type": "scatter", "mode": "lines+markers", "name": "best", "x": [x for x, _ in own],
                       "y": short(y for _, y in own), "customdata": [place[best_id]] * len(own),
                       "meta": {"trials": True}, "line": {"color": BEST},
                       "marker": {"symbol": "star", "size": 15, "line": OUTLINE}})
    return Figure(key="rungs", title="Who survived where", sentence=say.rungs(analysis), traces=tuple(traces),
                  is_half=True, beyond=scale.beyond, layout={
                      "xaxis": axis_layout("rung, optimizer steps", tickvals=list(range(len(analysis.rungs))),
                                           ticktext=[f"{rung.step:,}" for rung in analysis.rungs],
                                           range=[-0.5, len(analysis.rungs) - 0.5]),
                      "yaxis": scale.axis | {"title": {"text": text(f"{analysis.metric} at the rung")}},
                      "shapes": scale.shapes})


def _time(analysis: Analysis) -> Figure | None:
    rows = [row for row in analysis.rows if row.seconds]
    if not rows:
        return None
    group = -(-len(rows) // MANY)
    groups = [rows[start:start + group] for start in range(0, len(rows), group)]
    per_hour, unit = hour_unit(max(row.seconds for row in rows) / 3600)
    phases = sorted({phase for row in rows for phase in row.phases},
                    key=lambda phase: -sum(row.phases.get(phase, 0.0) for row in rows))[:len(SERIES) - 1]
    parts = {phase: [sum(row.phases.get(phase, 0.0) for row in some) / len(some) for some in groups]
             for phase in phases}
    whole = [sum(row.seconds for row in some) / len(some) for some in groups]
    parts["other"] = [max(0.0, whole[i] - sum(parts[phase][i] for phase in phases)) for i in range(len(groups))]
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces = _stack({phase: [seconds * per_hour / 3600 for seconds in spent] for phase, spent in parts.items()},
                    x=[some[0].number + (len(some) - 1) / 2 for some in groups],
                    places=[place[some[0].id] for some in groups], of_trials=group == 1)
    each = "in a trial" if group == 1 else f"in a trial, mean of {group}"
    return Figure(key="time", title="Time by trial, and what it went into", sentence=say.time(analysis),
                  traces=tuple(traces), layout={
                      "xaxis": trial_axis(analysis), "barmode": "stack",
                      "yaxis": axis_layout(f"{unit} {each}", rangemode="tozero"), "bargap": 0.15 if group == 1 else 0,
                      "legend": {"traceorder": "normal"}})


def _stack(parts: Mapping[str, Sequence[float]], *, x: Sequence[float], places: Sequence[int],
           of_trials: bool) -> list[dict[str, Any]]:
    """Return bars that stand on each other; a part called `other` is grey."""
    return [{"type": "bar", "name": text(name), "x": list(x), "y": short(values),
             "marker": {"color": FAINT if name == "other" else color},
             "meta": {"trials": of_trials}, "customdata": list(places)}
            for (name, values), color in zip(parts.items(), SERIES, strict=False)]


def _memory(analysis: Analysis) -> Figure | None:
    """Dots for what was measured, on bars of what the prediction is made of."""
    rows = [row for row in analysis.rows if row.peak_bytes]
    if not rows:
        return None
    scale, unit = _byte_unit(rows)
    traces = dots(analysis, rows, {row.id: row.number for row in rows},
                  {row.id: round((row.peak_bytes or 0) / scale, 3) for row in rows})
    split = [row for row in rows if row.predicted_parts]
    if split:
        place = {row.id: i for i, row in enumerate(analysis.rows)}
        names = sorted({name for row in split for name in row.predicted_parts},
                       key=lambda name: -sum(row.predicted_parts.get(name, 0) for row in split))[:len(SERIES) - 1]
        parts = {name: [row.predicted_parts.get(name, 0) / scale for row in split] for name in names}
        rest = [sum(row.predicted_parts.values()) / scale - sum(parts[name][i] for name in names)
                for i, row in enumerate(split)]
        parts |= {"other": rest} if max(rest) > 0.005 else {}
        traces = [*_stack(parts, x=[row.number for row in split], places=[place[row.id] for row in split],
                          of_trials=True), *traces]
    top = max(max(row.peak_bytes or 0, sum(row.predicted_parts.values())) for row in rows)
    title = "Peak memory by trial" + (", and what it was predicted to go into" if split else "")
    return Figure(key="memory", title=title,
                  sentence=say.memory(analysis), traces=tuple(traces), is_half=True, layout={
                      "xaxis": trial_axis(analysis), "barmode": "stack",
                      "yaxis": axis_layout(f"peak memory, {unit}", range=[0, round(1.12 * top / scale, 3)]),
                      "showlegend": bool(split),
                      "bargap": 0.3, "legend": {"traceorder": "normal"}})


def _predicted(analysis: Analysis) -> Figure | None:
    rows = say.both_peaks(analysis.rows)
    if not rows:
        return None
    scale, unit = _byte_unit(rows)
    predicted = {row.id: round((row.predicted_bytes or 0) / scale, 3) for row in rows}
    measured = {row.id: round((row.peak_bytes or 0) / scale, 3) for row in rows}
    both = [*predicted.values(), *measured.values()]
    ends = [0.97 * min(both), 1.03 * max(both)]
    equal = {"type": "scatter", "mode": "lines", "name": "as predicted", "x": ends, "y": ends, "hoverinfo": "skip",
             "line": {"color": BASELINE, "dash": "dash", "width": 1.5}}
    return Figure(key="predicted", title="Predicted and measured peak memory", sentence=say.predicted(analysis),
                  traces=(equal, *dots(analysis, rows, predicted, measured)), is_half=True, layout={
                      "xaxis": axis_layout(f"predicted peak, {unit}"), "yaxis": axis_layout(f"measured peak, {unit}")})


def _byte_unit(rows: Sequence[Row]) -> tuple[int, str]:
    largest = max(max(row.peak_bytes or 0, row.predicted_bytes or 0) for row in rows)
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
