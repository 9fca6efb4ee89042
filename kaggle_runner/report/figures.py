"""The figures about trials, as plotly.js traces and layouts: ranking, values, curves; and what all figures share.

Plain dictionaries: plotly.js draws them in the page, so its Python side is not needed to build them. A point of a trial
carries the trial's position among the rows in `customdata`; the page makes its hover text and its filter from that.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.metrics import digits_of
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis, Row
from kaggle_runner.report.analysis.curves import Curve
from kaggle_runner.report.scale import MetricScale, band, metric_scale
from kaggle_runner.report.style import BAND, BEST, LOOKS, SERIES, shortened, visible_range

OUTLINE = {"width": 1, "color": "rgba(128,128,128,0.9)"}
MANY = 200
"""Trials from which on marks are smaller, lines thinner, and bars stand for several trials."""
_TITLE = 34
"""Letters of an axis's title."""
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
    fold: str = ""
    """What it and its like are, after their count, under a line that can be opened; empty: it is always there."""
    beyond: tuple[str, ...] = ()
    """What is off its scale, in words that stand above it."""
    turns: bool = False
    """Whether it lies on its side where it is narrow, and its axes, at whole numbers, can be brushed."""


def trial_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures on what won: ranking, best so far by trial, learning curves."""
    figures = [_ranking(analysis), _values(analysis), _curves(analysis)]
    return tuple(figure for figure in figures if figure is not None)


def text(value: object) -> str:
    """Escape what plotly.js would read as markup."""
    return html.escape(str(value), quote=False)


def short(values: Iterable[float | None]) -> list[float | None]:
    """Round to six significant digits, or more where they lie close: what a screen can show, in half the bytes."""
    given = list(values)
    digits = digits_of((value for value in given if value is not None), 6)
    return [None if value is None else float(f"{value:.{digits}g}") for value in given]


def axis_layout(title: str, **settings: Any) -> dict[str, Any]:
    """Return an axis with its title escaped, and shortened to what fits beside a small picture."""
    return {"title": {"text": text(shortened(title, _TITLE)), "standoff": 10}, "automargin": True, **settings}


def scale_of(analysis: Analysis, values: Iterable[float] | None = None) -> MetricScale:
    """Return the metric's scale for these values, by default those of all trials."""
    if values is None:
        values = [row.compared_by for row in analysis.rows if row.compared_by is not None]
    return metric_scale(analysis, values, text(shortened(analysis.metric, _TITLE)))


def curve_scale(analysis: Analysis) -> MetricScale:
    """Return the metric's scale for learning curves: of a line that begins far off, the near part."""
    values = [value for curve in analysis.curves for value in curve.values]
    low, high = visible_range(values, analysis.goal)
    return scale_of(analysis, [value for value in values if low <= value <= high])


def compared(rows: Iterable[Row]) -> dict[str, float]:
    """Return what each of some trials is compared by, rounded to what a screen can show, by its id."""
    shown = [row for row in rows if row.compared_by is not None]
    return {row.id: value for row, value in zip(shown, short(row.compared_by for row in shown), strict=True)
            if value is not None}


def dots(analysis: Analysis, rows: Sequence[Row], x: Mapping[str, Any], y: Mapping[str, Any], *,
         size: int = 9, scale: MetricScale | None = None) -> list[dict[str, Any]]:
    """Return a trace of marks for each status among the rows and a star for the best; `x` and `y` are by trial id.

    What is off the `scale` stands at its edge.
    """
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    traces = []
    off = [row for row in rows if scale and row.id in x and row.id in y and not scale.holds(y[row.id])]
    if scale and off:
        traces.append({
            "type": "scatter", "mode": "markers", "name": "off the scale", "x": [x[row.id] for row in off],
            "y": [scale.at_edge(y[row.id]) for row in off], "customdata": [place[row.id] for row in off],
            "marker": {"symbol": "triangle-up" if y[off[0].id] > scale.high else "triangle-down",
                       "color": LOOKS["failed"].color, "size": size}, "meta": {"trials": True}})
        y = {trial_id: at for trial_id, at in y.items() if scale.holds(at)}
    for status in reversed(LOOKS):  # the complete ones are drawn last, over the others
        chosen = [row for row in rows if row.status == status and row.id in x and row.id in y]
        if chosen:
            traces.append({
                "type": "scatter", "mode": "markers", "name": status, "x": [x[row.id] for row in chosen],
                "y": [y[row.id] for row in chosen], "customdata": [place[row.id] for row in chosen],
                "marker": marker(status, size if len(rows) < MANY else size - 4), "meta": {"trials": True}})
    best = marked(analysis)
    if best is not None and best.id in x and best.id in y and any(row.id == best.id for row in rows):
        traces.append({
            "type": "scatter", "mode": "markers", "name": "best", "x": [x[best.id]], "y": [y[best.id]],
            "customdata": [place[best.id]], "meta": {"trials": True},
            "marker": {"symbol": "star", "color": BEST, "size": 17, "line": OUTLINE}})
    return traces


def marked(analysis: Analysis) -> Row | None:
    """Return the trial that is marked as the best; none where all are equal and no loss puts one first."""
    return None if analysis.first.is_level and not say.tie_text(analysis) else analysis.best


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
                "marker": marker(status, 9), "meta": {"trials": True}, "cliponaxis": False})
    return traces


def with_edge(traces: Sequence[Mapping[str, Any]], y_axis: Mapping[str, Any]) -> dict[str, Any]:
    """Return the y axes of a layout: with a strip along the upper edge where a trace stands in it."""
    if not any(trace.get("yaxis") == "y2" for trace in traces):
        return {"yaxis": dict(y_axis)}
    strip = {"domain": [0.93, 1], "type": "category", "range": [-0.5, 0.5], "fixedrange": True, "showgrid": False,
             "tickfont": {"size": 10}, "automargin": True, "zeroline": False}
    if all(trace.get("yaxis") == "y2" for trace in traces if trace["x"]):
        strip["domain"] = [0, 1]  # nothing has a value: the strip is the plot
        return {"yaxis": {"visible": False, "range": [0, 1], "domain": [0, 1]}, "yaxis2": strip}
    return {"yaxis": {**y_axis, "domain": [0, 0.9]}, "yaxis2": strip}


def marker(status: str, size: int) -> dict[str, Any]:
    """Return the mark of a status."""
    look = LOOKS[status]
    return {"symbol": look.plotly, "color": look.color, "size": size,
            "line": {"width": 2 if look.plotly.endswith("-open") else 0}}


def _ranking(analysis: Analysis) -> Figure | None:
    ranked, first = analysis.places, analysis.first
    if len(ranked) < 2:
        return None
    scale = scale_of(analysis, [one.mean for one in first.ranked])
    shapes = list(scale.shapes)
    pad = 0.6 + 0.02 * len(ranked)
    limit = first.limit(min(one.seeds for one in first.shared))
    if limit is not None:
        sign = -1 if analysis.goal == "maximize" else 1
        best, worse = sign * min(sign * one.mean for one in first.shared), first.ranked[0].mean + sign * limit
        alike = len({one.seeds for one in first.ranked}) == 1  # else more seeds are told apart within less of it
        across = {"xref": "paper", "x0": 0, "x1": 1} if alike else {"x0": 0.5, "x1": len(first.shared) + 0.5}
        shapes.append({"type": "rect", **across, "y0": best, "y1": worse, "layer": "below",
                       "fillcolor": BAND, "line": {"width": 1, "color": BEST, "dash": "dot"},
                       "name": "may be as good as the best", "showlegend": True})
    traces = dots(analysis, ranked, {row.id: i for i, row in enumerate(ranked, start=1)},
                  compared(ranked), scale=scale)
    title = f"{'Configurations' if first.has_means else 'Trials'} from best to worst"
    return Figure(key="ranking", title=title, sentence=say.ranking(analysis),
                  traces=tuple(traces), is_half=True, beyond=scale.beyond, layout={
                      "xaxis": axis_layout("rank of the configuration", **whole_ticks(len(ranked)),
                                           range=[1 - pad, len(ranked) + pad]),
                      "yaxis": scale.axis, "shapes": shapes})


def _values(analysis: Analysis) -> Figure:
    number = {row.id: row.number for row in analysis.rows}
    value = compared(analysis.rows)
    steps: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": "best so far",
             "line": {"color": BEST, "width": 2, "shape": "hv"},
             "x": [step.number for step in analysis.progress], "y": short(step.best for step in analysis.progress),
             "hoverinfo": "skip"}
    scale = best_scale(analysis)
    traces = [*best_band(analysis, steps["x"]), steps, *dots(analysis, analysis.rows, number, value, scale=scale),
              *without_value(analysis, analysis.rows, number)]
    return Figure(key="values", title="Best so far, by trial", sentence=say.progress(analysis), traces=tuple(traces),
                  is_half=True, beyond=scale.beyond, layout={
                      "xaxis": trial_axis(analysis),
                      "shapes": scale.shapes if value else [], **with_edge(traces, scale.axis)})


def best_scale(analysis: Analysis, values: Iterable[float] | None = None) -> MetricScale:
    """Return the scale of a picture of the best so far, with room for its band."""
    return scale_of(analysis, values).with_room((step.best for step in analysis.progress),
                                                analysis.noise.deviation if analysis.noise else 0.0)


def best_band(analysis: Analysis, x: list[Any]) -> list[dict[str, Any]]:
    """Return the noise of one trial around the best so far; nothing where it is not known."""
    if analysis.noise is None or not x:
        return []
    values, noise = [step.best for step in analysis.progress], analysis.noise.deviation
    return [dict(trace) for trace in band(
        x, short(value - noise for value in values), short(value + noise for value in values), "± noise of one")]


def _curves(analysis: Analysis) -> Figure | None:
    drawn = [curve for curve in analysis.curves if curve.steps]
    if not drawn:
        return None
    place = {row.id: i for i, row in enumerate(analysis.rows)}
    best_id = best.id if (best := marked(analysis)) else None
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
    scale = curve_scale(analysis)
    return Figure(key="curves", title="Learning curves", sentence=say.curves(analysis), traces=tuple(traces),
                  beyond=(*scale.beyond, *scale.beyond_of([curve.values for curve in drawn])), height=420,
                  layout={"xaxis": axis_layout("optimizer steps", range=shown), "yaxis": scale.axis,
                          "shapes": scale.shapes})


def layered(series: Sequence[tuple[int, Sequence[Any], Sequence[float | None]]], *, name: str, color: str,
            show_legend: bool = True) -> list[dict[str, Any]]:
    """Return lines of many trials, in several traces if they are too many to be told apart."""
    layers = _LAYERS if len(series) > 60 else 1
    opacity = max(0.15, min(1.0, 30 / len(series))) if len(series) else 1.0
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
            "marker": marker(status, 9), "meta": {"trials": True}}


def spread(number: int) -> float:
    """Return an even scatter from -0.5 to 0.5: multiples of the golden ratio, the same at every drawing."""
    return number * 0.6180339887 % 1 - 0.5


def trial_axis(analysis: Analysis) -> dict[str, Any]:
    """Return the axis of trials: of a few a tick at each, and so none beside one that is alone."""
    numbers = [row.number for row in analysis.rows]
    few = {"tickvals": numbers, "ticktext": [str(number) for number in numbers]} if len(numbers) <= 12 else {}
    return axis_layout("trial", tickformat=",d", **few)


def whole_ticks(count: int) -> dict[str, Any]:
    """Return settings for an axis that counts: no ticks between whole numbers."""
    return {"dtick": 1} if count <= 12 else {"tickformat": ",d"}


def hour_unit(hours: float) -> tuple[float, str]:
    """Return the unit to show hours in, with what to multiply them by."""
    return (3600.0, "seconds") if hours < 0.05 else (60.0, "minutes") if hours < 3 else (1.0, "hours")
