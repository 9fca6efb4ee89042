"""Pictures of a study as PNG files, by Matplotlib's Agg canvas: no display, no global state."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kaggle_runner.curves import Curve, read_curves, status_word
from kaggle_runner.report_style import BASELINE, BEST, LOOKS, number_text
from kaggle_runner.study import Snapshot, TrialRecord

_WITHOUT_VALUE = ("failed", "infeasible", "preempted", "running")
_INK, _GRID = "#333333", "#E4E4E4"


def draw_overview(snapshot: Snapshot, path: Path) -> None:
    """Draw a study in one picture: the metric of every trial over its steps, and the best so far by trial.

    Also works for a study without any measured value: it then shows which trials failed.
    """
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold dollar signs
        _overview(snapshot).savefig(path, format="png")


def _overview(snapshot: Snapshot) -> Figure:
    figure = Figure(figsize=(12, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    curves_axes, values_axes = figure.subplots(1, 2)
    curves = read_curves(snapshot)
    _draw_curves(curves_axes, snapshot, curves)
    _draw_values(values_axes, snapshot)
    low, high = _limits(snapshot, curves)
    for axes in (curves_axes, values_axes):
        axes.set_ylim(low, high)
        axes.set_ylabel(snapshot.info.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        _dress(axes)
    _mark_without_value(values_axes, snapshot)
    figure.suptitle(_headline(snapshot), fontsize=12, color=_INK, x=0.01, ha="left")
    handles = {label: handle for axes in (curves_axes, values_axes)
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def _draw_curves(axes: Axes, snapshot: Snapshot, curves: tuple[Curve, ...]) -> None:
    best_id = snapshot.best.trial.id if snapshot.best else None
    faint = max(0.15, min(0.75, 8 / max(1, len(curves))))
    for curve in curves:
        look, is_best = LOOKS[curve.status], curve.trial_id == best_id
        if not curve.steps:
            continue
        axes.plot(curve.steps, curve.values, color=BEST if is_best else look.color, alpha=1 if is_best else faint,
                  linewidth=2.6 if is_best else 1.3, zorder=4 if is_best else 2, marker="o" if is_best else None,
                  markersize=4, label=f"best: trial {curve.trial_id}" if is_best else "")
        if curve.status != "complete":
            axes.plot(curve.steps[-1:], curve.values[-1:], look.matplotlib, color=look.color, zorder=3,
                      fillstyle="none" if curve.status != "failed" else "full", markersize=7)
    if not any(curve.steps for curve in curves):
        axes.text(0.5, 0.5, f"no {snapshot.info.metric} was measured", ha="center", color=_INK,
                  transform=axes.transAxes)
    _draw_baseline(axes, snapshot)
    axes.set_xlabel("optimizer steps")
    axes.set_title("every trial over its steps", loc="left", fontsize=10, color=_INK)


def _draw_values(axes: Axes, snapshot: Snapshot) -> None:
    valued = _valued(snapshot)
    for status, look in LOOKS.items():
        chosen = [(number, value) for number, word, value in valued if word == status]
        if chosen:
            axes.plot([number for number, _ in chosen], [value for _, value in chosen], look.matplotlib,
                      color=look.color, fillstyle="full" if status in ("complete", "failed") else "none",
                      markersize=6 if len(valued) < 100 else 3, label=status, zorder=3)
    best = snapshot.best
    if best and best.result and best.result.metric is not None:
        axes.step(*_best_so_far(snapshot), where="post", color=BEST, linewidth=2, label="best so far", zorder=2)
        axes.plot([best.trial.number], [best.result.metric], "*", color=BEST, markeredgecolor=_INK, markersize=15,
                  zorder=5)
    _draw_baseline(axes, snapshot)
    numbers = [r.trial.number for r in snapshot.records] or [0]
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    axes.set_xlabel("trial")
    axes.set_title("value of every trial, and the best so far", loc="left", fontsize=10, color=_INK)


def _draw_baseline(axes: Axes, snapshot: Snapshot) -> None:
    if snapshot.baseline is not None:
        axes.axhline(snapshot.baseline, color=BASELINE, linestyle="--", linewidth=1.4, zorder=1, label="untouched base")


def _mark_without_value(axes: Axes, snapshot: Snapshot) -> None:
    """Mark trials that have no value along the upper edge, at their number."""
    for status in _WITHOUT_VALUE:
        numbers = [r.trial.number for r in snapshot.records if _has_no_value(r) and status_word(r) == status]
        if numbers:
            look = LOOKS[status]
            axes.plot(numbers, [0.975] * len(numbers), look.matplotlib, color=look.color, markersize=8, clip_on=False,
                      fillstyle="full" if status == "failed" else "none", label=f"{status}, no value", zorder=6,
                      transform=axes.get_xaxis_transform())


def _best_so_far(snapshot: Snapshot) -> tuple[list[int], list[float]]:
    sign = -1.0 if snapshot.info.goal == "maximize" else 1.0
    numbers, values = [], []
    best: float | None = None
    for number, status, value in _valued(snapshot):
        if status == "complete" and (best is None or sign * value < sign * best):
            best = value
        if best is not None:
            numbers.append(number)
            values.append(best)
    return numbers, values


def _limits(snapshot: Snapshot, curves: tuple[Curve, ...]) -> tuple[float, float]:
    """Choose the y range so that one diverged trial does not press all others flat."""
    values = sorted(value for curve in curves for value in curve.values)
    values += [value for _, _, value in _valued(snapshot)]
    values += [snapshot.baseline] if snapshot.baseline is not None else []
    if not values:
        return 0.0, 1.0
    values.sort()
    low, high = values[0], values[-1]
    if snapshot.info.goal == "maximize":
        low = max(low, high - 4 * (high - values[len(values) // 4]) or low)
    else:
        high = min(high, low + 4 * (values[3 * len(values) // 4] - low) or high)
    if snapshot.baseline is not None:
        low, high = min(low, snapshot.baseline), max(high, snapshot.baseline)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _headline(snapshot: Snapshot) -> str:
    best, metric = snapshot.best, snapshot.info.metric
    if best is None or best.result is None or best.result.metric is None:
        return f"{snapshot.info.name}: no trial of {len(snapshot.records)} is complete"
    text = f"{snapshot.info.name}: trial {best.trial.id} is best, {metric} {number_text(best.result.metric)}"
    if snapshot.baseline is not None:
        text += f"; untouched base {number_text(snapshot.baseline)}"
    return text


def _valued(snapshot: Snapshot) -> list[tuple[int, str, float]]:
    """Return number, status and value of the trials that have one."""
    return [(r.trial.number, status_word(r), r.result.metric)
            for r in snapshot.records if r.result and r.result.metric is not None]


def _has_no_value(record: TrialRecord) -> bool:
    return record.result is None or record.result.metric is None


def _dress(axes: Axes) -> None:
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
