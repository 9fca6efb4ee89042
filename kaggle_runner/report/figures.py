"""The figures about trials, as plotly.js traces and layouts: values, curves, time, memory, rungs.

Plain dictionaries: plotly.js draws them in the page, so its Python side is not needed to build them. A point of a trial
carries the trial's position among the rows in `customdata`; the page makes its hover text and its filter from that.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis, Row
from kaggle_runner.report.analysis.curves import Curve
from kaggle_runner.report.style import BASELINE, BEST, FAINT, LOOKS, SERIES, visible_range

OUTLINE = {"width": 1, "color": "rgba(128,128,128,0.9)"}
_MANY = 200
"""Trials from which on marks are smaller, lines thinner, and bars stand for several trials."""
_FAR = 3.0
"""The untouched base is left out of the progress over time where it is so many times further than the progress."""
_LAYERS = 8
"""Traces that many lines are spread over: only lines of different traces look denser where they overlap."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing, with a sentence on what there is to see in it."""

    key: str
    """Name of its place in the page, unique in a study."""
    title: str
    sentence: str
    traces: tuple[dict[str, Any], ...]
    layout: Mapping[str, Any]
    height: int = 360
    """In CSS pixels."""
    is_small: bool = False
    """Whether it stands beside two others where there is room."""
    is_half: bool = False
    """Whether it stands beside one other where there is room."""


def trial_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures on what won: ranking, best so far by trial, learning curves."""
    figures = [_ranking(analysis), _values(analysis), _curves(analysis)]
    return tuple(figure for figure in figures if figure is not None)


def cost_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures on what it cost: best so far by time, rungs, time, memory, predictions."""
    figures = [_hours(analysis), _rungs(analysis), _time(analysis), _memory(analysis), _predicted(analysis)]
    return tuple(figure for figure in figures if figure is not None)


def text(value: object) -> str:
    """Escape what plotly.js would read as markup."""
    return html.escape(str(value), quote=False)


def short(values: Iterable[float | None]) -> list[float | None]:
    """Round to six significant digits: what a screen can show, in half the bytes."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def axis_layout(title: str, **settings: Any) -> dict[str, Any]:
    """Return an axis with its title escaped."""
    return {"title": {"text": text(title)}, "automargin": True, **settings}


def metric_axis(analysis: Analysis, values: Iterable[float] | None = None, *, with_base: bool = True) -> dict[str, Any]:
    """Return the metric's axis, cut where a diverged trial would press the others flat."""
    if values is None:
        values = [row.value for row in analysis.rows if row.value is not None]
    low, high = visible_range(values, analysis.goal, analysis.baseline if with_base else None)
    return axis_layout(analysis.metric, range=short([low, high]))


def dots(analysis: Analysis, rows: Sequence[Row], x: Mapping[str, Any], y: Mapping[str, Any], *,
         size: int = 9) -> list[dict[str, Any]]:
    """Return a trace of marks for each status among the rows and a star for the best; `x` and `y` are by trial id."""
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces = []
    for status in reversed(LOOKS):  # the complete ones are drawn last, over the others
        chosen = [row for row in rows if row.status == status and row.id in x and row.id in y]
        if chosen:
            traces.append({
                "type": "scatter", "mode": "markers", "name": status, "x": [x[row.id] for row in chosen],
                "y": [y[row.id] for row in chosen], "customdata": [place[row.id] for row in chosen],
                "marker": _marker(status, size if len(rows) < _MANY else size - 4), "meta": {"trials": True}})
    best = analysis.best
    if best is not None and best.id in x and best.id in y and any(row.id == best.id for row in rows):
        traces.append({
            "type": "scatter", "mode": "markers", "name": "best", "x": [x[best.id]], "y": [y[best.id]],
            "customdata": [place[best.id]], "meta": {"trials": True},
            "marker": {"symbol": "star", "color": BEST, "size": 17, "line": OUTLINE}})
    return traces


def without_value(analysis: Analysis, rows: Sequence[Row], x: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return marks along the upper edge for the trials that have no value."""
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces = []
    for status in LOOKS:
        chosen = [row for row in rows if row.value is None and row.status == status and row.id in x]
        if chosen:
            traces.append({
                "type": "scatter", "mode": "markers", "name": status, "x": [x[row.id] for row in chosen],
                "y": ["no value"] * len(chosen), "yaxis": "y2", "customdata": [place[row.id] for row in chosen],
                "marker": _marker(status, 9), "meta": {"trials": True}, "cliponaxis": False})
    return traces


def with_edge(traces: Iterable[Mapping[str, Any]], y_axis: Mapping[str, Any]) -> dict[str, Any]:
    """Return the y axes of a layout: with a strip along the upper edge where a trace stands in it."""
    if not any(trace.get("yaxis") == "y2" for trace in traces):
        return {"yaxis": dict(y_axis)}
    strip = {"domain": [0.93, 1], "type": "category", "range": [-0.5, 0.5], "fixedrange": True, "showgrid": False,
             "tickfont": {"size": 10}, "automargin": True, "zeroline": False}
    return {"yaxis": {**y_axis, "domain": [0, 0.9]}, "yaxis2": strip}


def _marker(status: str, size: int) -> dict[str, Any]:
    look = LOOKS[status]
    return {"symbol": look.plotly, "color": look.color, "size": size,
            "line": {"width": 2 if look.plotly.endswith("-open") else 0}}


def level(value: float, name: str, color: str = BASELINE, dash: str = "dash") -> dict[str, Any]:
    """Return a horizontal line with its name, as a shape of a layout."""
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "between",
            "line": {"color": color, "width": 1.5, "dash": dash},
            "label": {"text": text(name), "textposition": "end", "yanchor": "top", "font": {"size": 11}}}


def _baseline_shapes(analysis: Analysis) -> list[dict[str, Any]]:
    return [] if analysis.baseline is None else [level(analysis.baseline, "untouched base")]


def _ranking(analysis: Analysis) -> Figure | None:
    ranked = analysis.ranked
    if len(ranked) < 2:
        return None
    shapes = _baseline_shapes(analysis)
    pad = 0.6 + 0.02 * len(ranked)
    if analysis.first.distance is not None:
        best = analysis.first.ranked[0].mean
        worse = best + (-1 if analysis.goal == "maximize" else 1) * analysis.first.distance
        shapes.append({"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": best, "y1": worse, "layer": "below",
                       "fillcolor": "rgba(230,159,0,0.2)", "line": {"width": 0},
                       "label": {"text": "may be as good as the best", "textposition": "top right",
                                 "font": {"size": 11}}})
    traces = dots(analysis, ranked, {row.id: i for i, row in enumerate(ranked, start=1)},
                  dict(zip([row.id for row in ranked], short(row.value for row in ranked), strict=True)))
    return Figure(key="ranking", title="Trials from best to worst", sentence=say.ranking(analysis),
                  traces=tuple(traces), is_half=True, layout={
                      "xaxis": axis_layout("rank among the complete trials", **whole_ticks(len(ranked)),
                                           range=[1 - pad, len(ranked) + pad]),
                      "yaxis": metric_axis(analysis, [row.value for row in ranked if row.value is not None]),
                      "shapes": shapes, "showlegend": False})


def _values(analysis: Analysis) -> Figure:
    number = {row.id: row.number for row in analysis.rows}
    value = {row.id: float(f"{row.value:.6g}") for row in analysis.rows if row.value is not None}
    steps = {"type": "scatter", "mode": "lines", "name": "best so far",
             "line": {"color": BEST, "width": 2, "shape": "hv"},
             "x": [step.number for step in analysis.progress], "y": short(step.best for step in analysis.progress),
             "hoverinfo": "skip"}
    traces = [steps, *dots(analysis, analysis.rows, number, value), *without_value(analysis, analysis.rows, number)]
    return Figure(key="values", title="Best so far, by trial", sentence=say.progress(analysis), traces=tuple(traces),
                  is_half=True, layout={"xaxis": axis_layout("trial", **whole_ticks(len(analysis.rows))),
                          "shapes": _baseline_shapes(analysis), **with_edge(traces, metric_axis(analysis))})


def _hours(analysis: Analysis) -> Figure | None:
    if not analysis.progress or not analysis.progress[-1].hours:
        return None
    scale, unit = hour_unit(analysis.progress[-1].hours)
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    values = [step.best for step in analysis.progress]
    with_base = analysis.baseline is not None and (
        abs(analysis.baseline - values[0]) <= _FAR * abs(values[-1] - values[0]) or values[0] == values[-1])
    trace = {"type": "scatter", "mode": "lines+markers", "name": "best so far", "line": {"color": BEST, "shape": "hv"},
             "marker": {"size": 5}, "x": short(step.hours * scale for step in analysis.progress),
             "y": short(step.best for step in analysis.progress), "meta": {"trials": True},
             "customdata": [place[step.trial_id] for step in analysis.progress]}
    return Figure(key="hours", title=f"Best so far, by {analysis.device} time", sentence=say.hours(analysis),
                  traces=(trace,), is_half=True, layout={
                      "xaxis": axis_layout(f"{analysis.device} {unit}, all trials added up", rangemode="tozero"),
                      "yaxis": metric_axis(analysis, values, with_base=with_base),
                      "shapes": _baseline_shapes(analysis) if with_base else [], "showlegend": False})


def _curves(analysis: Analysis) -> Figure | None:
    drawn = [curve for curve in analysis.curves if curve.steps]
    if not drawn:
        return None
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    best_id = analysis.best.id if analysis.best else None
    traces: list[dict[str, Any]] = []
    for status, look in LOOKS.items():
        chosen = [curve for curve in drawn if curve.status == status and curve.trial_id != best_id]
        if chosen:
            traces += layered([(place[curve.trial_id], curve.steps, curve.values) for curve in chosen], name=status,
                              color=look.color)
            if status != "complete":
                traces.append(_ends(chosen, place, status))
    for curve in drawn:
        if curve.trial_id == best_id:
            own = [(place[curve.trial_id], curve.steps, curve.values)]
            traces.append(lines(own, color=BEST, width=3.2, name="best"))
    traces.append(highlight())
    first, last = min(curve.steps[0] for curve in drawn), max(curve.steps[-1] for curve in drawn)
    begin = 0.0 if first <= 0.25 * last else first - 0.1 * (last - first or first)
    shown = short([begin, last + 0.03 * (last - begin)])
    return Figure(key="curves", title="Learning curves", sentence=say.curves(analysis), traces=tuple(traces),
                  height=420, layout={"xaxis": axis_layout("optimizer steps", range=shown),
                          "yaxis": metric_axis(analysis, [value for curve in drawn for value in curve.values]),
                          "shapes": _baseline_shapes(analysis)})


def layered(series: Sequence[tuple[int, Sequence[Any], Sequence[float | None]]], *, name: str, color: str,
            show_legend: bool = True) -> list[dict[str, Any]]:
    """Return lines of many trials, in several traces if they are too many to be told apart."""
    layers = _LAYERS if len(series) > 60 else 1
    opacity = max(0.15, min(0.85, 20 / len(series))) if len(series) else 1.0
    drawn = [lines(series[i::layers], name=name, color=color, opacity=opacity, width=1.4 if layers == 1 else 0.8)
             | {"showlegend": False, "legendgroup": name} for i in range(layers)]
    # The legend's own line has the full colour: plotly.js would draw it as faint as the others.
    legend = {"type": "scatter", "mode": "lines", "name": text(name), "x": [None], "y": [None], "legendgroup": name,
              "line": {"color": color, "width": 2}}
    return [*drawn, legend] if show_legend else drawn


def lines(series: Iterable[tuple[int, Sequence[Any], Sequence[float | None]]], *, name: str, color: str,
          width: float = 1.4, opacity: float = 1.0) -> dict[str, Any]:
    """Join many lines, each of one trial, in one trace with gaps: plotly.js is slow with a thousand traces."""
    x: list[Any] = []
    y: list[float | None] = []
    of_trial: list[int | None] = []
    for position, xs, ys in series:
        x.extend([*xs, None])
        y.extend([*short(ys), None])
        of_trial.extend([*([position] * len(xs)), None])
    return {"type": "scatter", "mode": "lines", "name": text(name), "x": x, "y": y, "customdata": of_trial,
            "line": {"color": color, "width": width}, "opacity": opacity, "connectgaps": False,
            "meta": {"trials": True, "lines": True, "opacity": opacity}}


def highlight() -> dict[str, Any]:
    """Return the empty trace that the page fills with the lines of the chosen trials."""
    return {"type": "scatter", "mode": "lines+markers", "name": "chosen", "x": [], "y": [], "customdata": [],
            "line": {"color": SERIES[2], "width": 3}, "marker": {"size": 5}, "showlegend": False, "connectgaps": False,
            "meta": {"trials": True, "highlight": True}}


def _ends(curves: Sequence[Curve], place: Mapping[str, int], status: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "markers", "name": f"{status} here", "showlegend": status == "pruned",
            "x": [curve.steps[-1] for curve in curves],
            "y": short(curve.values[-1] for curve in curves), "customdata": [place[curve.trial_id] for curve in curves],
            "marker": _marker(status, 9), "meta": {"trials": True}}


def _time(analysis: Analysis) -> Figure | None:
    rows = [row for row in analysis.rows if row.seconds]
    if not rows:
        return None
    group = -(-len(rows) // _MANY)
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
                      "xaxis": axis_layout("trial", **whole_ticks(len(analysis.rows))), "barmode": "stack",
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
                      "xaxis": axis_layout("trial", **whole_ticks(len(analysis.rows))), "barmode": "stack",
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


def _rungs(analysis: Analysis) -> Figure | None:
    if not analysis.rungs:
        return None
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces: list[dict[str, Any]] = []
    for name, status in (("goes on", "complete"), ("cut", "pruned")):
        side = -0.12 if name == "goes on" else 0.12
        points = [(round(i + side + 0.16 * spread(place[trial_id]), 3), value, place[trial_id])
                  for i, rung in enumerate(analysis.rungs)
                  for trial_id, value in (rung.survivors if name == "goes on" else rung.cut)]
        traces.append({
            "type": "scatter", "mode": "markers", "name": name, "x": [x for x, _, _ in points],
            "y": short(y for _, y, _ in points), "customdata": [at for _, _, at in points], "meta": {"trials": True},
            "marker": _marker(status, 9 if len(points) < _MANY else 5)})
    best_id = analysis.best.id if analysis.best else None
    own = [(i - 0.12, value) for i, rung in enumerate(analysis.rungs) for trial_id, value in rung.survivors
           if trial_id == best_id]
    if own and best_id is not None:
        traces.append({"type": "scatter", "mode": "lines+markers", "name": "best", "x": [x for x, _ in own],
                       "y": short(y for _, y in own), "customdata": [place[best_id]] * len(own),
                       "meta": {"trials": True}, "line": {"color": BEST},
                       "marker": {"symbol": "star", "size": 15, "line": OUTLINE}})
    values = [value for rung in analysis.rungs for _, value in (*rung.survivors, *rung.cut)]
    low, high = visible_range(values, analysis.goal)
    return Figure(key="rungs", title="Who survived where", sentence=say.rungs(analysis), traces=tuple(traces),
                  is_half=True, layout={
                      "xaxis": axis_layout("rung, optimizer steps", tickvals=list(range(len(analysis.rungs))),
                                           ticktext=[f"{rung.step:,}" for rung in analysis.rungs],
                                           range=[-0.5, len(analysis.rungs) - 0.5]),
                      "yaxis": axis_layout(f"{analysis.metric} at the rung", range=short([low, high]))})


def spread(number: int) -> float:
    """Return an even scatter from -0.5 to 0.5: multiples of the golden ratio, the same at every drawing."""
    return number * 0.6180339887 % 1 - 0.5


def whole_ticks(count: int) -> dict[str, Any]:
    """Return settings for an axis that counts: no ticks between whole numbers."""
    return {"dtick": 1} if count <= 12 else {"tickformat": ",d"}


def hour_unit(hours: float) -> tuple[float, str]:
    """Return the unit to show hours in, with what to multiply them by."""
    return (3600.0, "seconds") if hours < 0.05 else (60.0, "minutes") if hours < 3 else (1.0, "hours")


def _byte_unit(rows: Sequence[Row]) -> tuple[int, str]:
    largest = max(max(row.peak_bytes or 0, row.predicted_bytes or 0) for row in rows)
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")


