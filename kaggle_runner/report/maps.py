"""The figures about hyperparameters, as plotly.js traces: importance, slices, contours, parallel coordinates."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis, Contour, Row
from kaggle_runner.report.figures import (
    Figure,
    axis_layout,
    compared,
    dots,
    highlight,
    layered,
    lines,
    marked,
    scale_of,
    short,
    spread,
    text,
    with_edge,
    without_value,
)
from kaggle_runner.report.style import (
    BEST,
    FAINT,
    LINES,
    LOOKS,
    SCALE,
    SERIES,
    log_ticks,
    number_text,
    short_names,
    shortened,
    value_names,
    value_text,
)
from kaggle_runner.study.axes import Axis

_ACROSS, _LETTERS = 8, 10
"""Axes of parallel coordinates in one picture, and letters of a line of their names: what stands upright on paper."""
_BELOW, _MOST_BESIDE = 22, 36
"""Letters of a name below a picture, and of all of them, from which on they stand upright."""
_MOST_OPEN = 6
"""Hyperparameters whose pictures are open where none of all stands out."""
IDLE = "without an effect that stands out from chance"


def map_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures on what mattered: importance, slices, contours, parallel coordinates."""
    figures = [_importance(analysis), *(_slice(analysis, i, axis) for i, axis in enumerate(by_importance(analysis))),
               *(_contour(analysis, i, one) for i, one in enumerate(analysis.contours)), *_parallel(analysis)]
    return tuple(figure for figure in figures if figure is not None)


def by_importance(analysis: Analysis) -> list[Axis]:
    """Return the axes, the most important first; without importances in the sweep's order."""
    order = {share.name: i for i, share in enumerate(analysis.shares)}
    return sorted(analysis.axes, key=lambda axis: order.get(axis.name, len(order)))


def _importance(analysis: Analysis) -> Figure | None:
    if not analysis.shares:
        return None
    shares = analysis.shares[::-1]
    names = [text(share.name) for share in shares]
    per_cent = [round(100 * max(0.0, share.share), 2) for share in shares]
    bars = {"type": "bar", "orientation": "h", "name": "90 % interval", "y": names, "x": per_cent,
            "marker": {"color": [SERIES[0] if share.resolved else FAINT for share in shares]}, "showlegend": False,
            "error_x": {"type": "data", "symmetric": False, "color": "#808080", "thickness": 1.6,
                        "array": [round(max(0.0, 100 * min(1.0, share.high) - shown), 2)
                                  for share, shown in zip(shares, per_cent, strict=True)],
                        "arrayminus": [round(max(0.0, shown - 100 * max(0.0, share.low)), 2)
                                       for share, shown in zip(shares, per_cent, strict=True)]},
            "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>"}
    floor = {"type": "scatter", "mode": "markers", "name": "stands out from here", "y": names,
             "x": [round(100 * share.floor, 2) for share in shares],
             "marker": {"symbol": "line-ns-open", "size": 16, "color": LOOKS["failed"].color, "line": {"width": 2.5}},
             "hovertemplate": "%{y}: stands out from chance from %{x:.0f} % on<extra></extra>"}
    return Figure(key="importance", title="Importance", sentence=say.importance(analysis), traces=(bars, floor),
                  height=150 + 34 * len(shares), layout={
                      "xaxis": axis_layout("variance explained, %", rangemode="tozero"),
                      "yaxis": {"automargin": True, "type": "category", "tickvals": names,
                                "ticktext": list(map(text, short_names([share.name for share in shares], 22)))}})


def _slice(analysis: Analysis, place: int, axis: Axis) -> Figure:
    rows = [row for row in analysis.rows if axis.of(row.params) is not None]
    x = {row.id: _place(axis, row.params[axis.name], row.number) for row in rows}
    y = compared(rows)
    scale = scale_of(analysis)
    traces = (*dots(analysis, rows, x, y, size=8, scale=scale), *without_value(analysis, rows, x))
    idle = axis.name not in analysis.resolved and (bool(analysis.resolved) or (bool(analysis.shares)
                                                                               and place >= _MOST_OPEN))
    return Figure(key=f"slice-{axis.name}", title=axis.name, fold=IDLE if idle else "",
                  sentence=say.axis(analysis, axis), height=(300 if y else 120) + _upright(axis), is_small=True,
                  traces=traces, beyond=scale.beyond, layout={
                      "xaxis": value_axis(axis), "showlegend": False,
                      **with_edge(traces, scale.axis)})


def _upright(axis: Axis) -> int:
    """Return the height that names take which stand upright, as many or long ones do: they must not press a plot."""
    names = [len(name) for name in value_names(axis.values, _BELOW)]
    return 7 * max(names) if sum(names) > _MOST_BESIDE else 0


def _contour(analysis: Analysis, position: int, one: Contour) -> Figure:
    smooth = one.x.is_range and one.y.is_range
    scale = [[i / (len(SCALE) - 1), color] for i, color in enumerate(SCALE)]
    surface: dict[str, Any] = {
        "type": "contour" if smooth else "heatmap", "x": [grid_value(one.x, at) for at in one.x_positions],
        "y": [grid_value(one.y, at) for at in one.y_positions], "z": [short(line) for line in one.values],
        "colorscale": scale, "reversescale": analysis.goal != "maximize", "name": "surface",
        "colorbar": {"title": {"text": text(analysis.metric), "side": "right"}, "thickness": 12, "tickformat": ".4~g"},
        "hovertemplate": f"{text(one.x.name)} %{{x}}<br>{text(one.y.name)} %{{y}}<br>expected %{{z}}<extra></extra>"}
    if analysis.noise is not None:  # noise alone must not fill the scale of colours
        values = [value for line in one.values for value in line]
        low, high = min(values), max(values)
        grow = max(0.0, 4 * analysis.noise.upper - (high - low)) / 2
        surface |= {"zmin": low - grow, "zmax": high + grow, "zauto": False}
    if smooth:
        surface |= {"ncontours": 14, "line": {"width": 0.6, "color": "rgba(128,128,128,0.6)"}}
    rows = [row for row in analysis.rows if row.status != "infeasible"
            and all(axis.of(row.params) is not None for axis in (one.x, one.y))]
    marks = dots(analysis, rows, {row.id: _place(one.x, row.params[one.x.name], row.number) for row in rows},
                 {row.id: _place(one.y, row.params[one.y.name], row.number) for row in rows}, size=8)
    for mark in marks:
        if mark["name"] != "best":
            mark["marker"] = mark["marker"] | {"color": "#FFFFFF", "line": {
                "width": mark["marker"]["line"]["width"] or 1, "color": "#222222"}}
    return Figure(key=f"contour-{position}", title=f"{one.x.name} and {one.y.name}", is_half=True,
                  height=400 + _upright(one.x), sentence=say.contour(analysis, one), traces=(surface, *marks), layout={
                      "xaxis": value_axis(one.x), "yaxis": value_axis(one.y, beside=True), "showlegend": False})


def _parallel(analysis: Analysis) -> list[Figure]:
    """Return all hyperparameters as parallel coordinates, the most important first, in as many pictures as it takes."""
    axes = by_importance(analysis)
    if len(axes) < 2 or len(analysis.ranked) < 2 or marked(analysis) is None:
        return []
    pictures = -(-len(axes) // _ACROSS)
    each = -(-len(axes) // pictures)
    return [_parallel_of(analysis, axes[start:start + each], start) for start in range(0, len(axes), each)]


def _parallel_of(analysis: Analysis, axes: Sequence[Axis], start: int) -> Figure:
    ranked, every = analysis.ranked, len(analysis.axes)
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    height = _metric_heights(ranked)
    traces: list[dict[str, Any]] = []
    for i, color in enumerate(LINES):
        # Fifths of the ranking, worst first, so that the good trials are drawn on top.
        fifth = [row for rank, row in enumerate(ranked) if rank * len(LINES) // len(ranked) == len(LINES) - 1 - i]
        series = [(place[row.id], range(len(axes) + 1), [*_heights(axes, row, place[row.id]), height[row.id]])
                  for row in fifth]
        if series:
            traces += layered(series, name="best fifth" if i else "worst fifth", color=color,
                              show_legend=i in (0, len(LINES) - 1))
    best = ranked[0]
    own = [*_heights(axes, best, place[best.id]), height[best.id]]
    traces.append(lines([(place[best.id], range(len(own)), own)], name="best", color=BEST, width=3.2))
    traces.append(highlight())
    ticks = [*map(_in_lines, short_names([axis.name for axis in axes], 3 * _LETTERS)),
             _in_lines(f"{shortened(analysis.metric, 2 * _LETTERS)}, by rank")]
    which = "" if len(axes) == every else f", hyperparameters {start + 1} to {start + len(axes)} of {every}"
    return Figure(key=f"parallel-{start}" if start else "parallel", title=f"Parallel coordinates{which}",
                  traces=tuple(traces), sentence=say.parallel(analysis), height=460, turns=True,
                  fold="with further hyperparameters, by parallel coordinates" if start else "", layout={
                      "xaxis": {"tickvals": list(range(len(ticks))), "ticktext": ticks, "automargin": True,
                                "tickangle": 0, "range": [-0.3, len(axes) + 0.3], "showgrid": True, "zeroline": False,
                                "fixedrange": True},
                      "yaxis": {"visible": False, "range": [-0.1, 1.1], "fixedrange": True},
                      "annotations": _parallel_labels(axes, analysis, ranked)})


def _in_lines(name: str) -> str:
    """Break a name into lines for plotly.js, which drops one that it had to turn and cannot place."""
    lines = [""]
    for part in re.findall(r"[^_/, …-]*[_/, …-]*", name):
        if len(lines[-1]) + len(part) > _LETTERS and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "<br>".join(map(text, lines))


def _heights(axes: Sequence[Axis], row: Row, position: int) -> list[float | None]:
    """Place a trial on each axis; on a list of values slightly spread, so that lines do not hide each other."""
    return [at if at is None or axis.is_range else at + 0.4 * spread(position) / len(axis.values)
            for axis in axes for at in [axis.of(row.params)]]


def _metric_heights(ranked: Sequence[Row]) -> Mapping[str, float]:
    """Place each trial on the metric's own axis by rank, the best at the top: values would crowd at one end."""
    return {row.id: 1 - i / (len(ranked) - 1) for i, row in enumerate(ranked)}


def _parallel_labels(axes: Sequence[Axis], analysis: Analysis, ranked: Sequence[Row]) -> list[dict[str, Any]]:
    labels: list[tuple[int, float, str]] = []
    for i, axis in enumerate(axes):
        if axis.is_range:
            labels += [(i, -0.045, value_text(axis.low)), (i, 1.045, value_text(axis.high))]
        elif len(axis.values) <= 8:
            names = value_names(axis.values, 14)
            labels += [(i, axis.position(value) or 0.0, name)
                       for value, name in zip(axis.values, names, strict=True)]
    labels += [(len(axes), 1.045, analysis.text(ranked[0].compared_by)),
               (len(axes), -0.045, analysis.text(ranked[-1].compared_by))]
    return [{"x": x, "y": y, "text": text(shown), "showarrow": False,
             "font": {"size": 11}, "xanchor": "center", "borderpad": 1} for x, y, shown in labels]


def value_axis(axis: Axis, *, beside: bool = False) -> dict[str, Any]:
    """Return the axis of a hyperparameter: logarithmic where its range is, its values where it has a list.

    `beside` the plot names lie, and are short; below it long ones stand upright.
    """
    if axis.values:
        angle = 0 if beside else -90 if _upright(axis) else None
        names = value_names(axis.values, 14 if beside else _BELOW)
        return axis_layout(axis.name, tickvals=list(range(len(axis.values))), range=[-0.5, len(axis.values) - 0.5],
                           **({} if angle is None else {"tickangle": angle}), ticktext=list(map(text, names)))
    if not axis.is_log:
        margin = 0.03 * (axis.high - axis.low)
        return axis_layout(axis.name, range=short([axis.low - margin, axis.high + margin]))
    ticks = log_ticks(axis.low, axis.high)
    pad = (axis.high / axis.low) ** 0.03
    return axis_layout(f"{axis.name} (log)", type="log", range=short([_log10(axis.low / pad), _log10(axis.high * pad)]),
                       tickvals=ticks, ticktext=[number_text(tick) for tick in ticks])


def _place(axis: Axis, value: Any, number: int) -> float:
    """Return the coordinate of a value; on a list of values its index, spread so that marks do not hide each other."""
    if axis.values:
        return round((axis.position(value) or 0.0) * len(axis.values) - 0.5 + 0.36 * spread(number), 3)
    return float(f"{value:.6g}")


def grid_value(axis: Axis, position: float) -> float:
    """Return the coordinate of a position: the value, or the place in a list of values."""
    return round(position * len(axis.values) - 0.5, 3) if axis.values else float(f"{axis.value(position):.6g}")


def _log10(value: float) -> float:
    return math.log10(value)
