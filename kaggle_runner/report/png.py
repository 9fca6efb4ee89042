"""The figures of a report as PNG files, by Matplotlib's Agg canvas: no display, no global state.

Draws the same traces and layouts that plotly.js draws in the page, as far as this package uses them, so that every plot
is made once and looks alike in both.
"""

import html
import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.figures import Figure, trial_figures
from kaggle_runner.report.sentences import winner
from kaggle_runner.report.style import BEST, LOOKS
from kaggle_runner.study.journal import Snapshot

_INK, _GRID = "#1c2430", "#e4e7eb"
_DPI = 110
_SYMBOLS = {**{look.plotly: look.matplotlib for look in LOOKS.values()}, "star": "*", "line-ns-open": "|",
            "triangle-up": "^", "triangle-down": "v"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_POINTS_PER_PIXEL = 0.75


def draw_overview(snapshot: Snapshot, path: Path) -> None:
    """Draw a study in one picture: the metric of every trial over its steps, and the best so far by trial.

    Also works for a study without any measured value: it then shows which trials failed.

    Raises:
        OSError: the file cannot be written.
    """
    _replace(path, overview_png(snapshot))


def overview_png(snapshot: Snapshot) -> bytes:
    """Return the picture of `draw_overview`."""
    analysis = analyse(snapshot)
    chosen = [figure for figure in trial_figures(analysis) if figure.key in ("curves", "values")]
    return _png(chosen[::-1], title=f"{analysis.name}. {winner(analysis)}")


def draw_figures(figures: Sequence[Figure], directory: Path) -> list[Path]:
    """Write each figure as `<key>.png` and the small ones together as `slices.png`; return the paths.

    Raises:
        OSError: a file cannot be written.
    """
    pictures = {f"{figure.key}.png": [figure] for figure in figures if not figure.is_small}
    small = [figure for figure in figures if figure.is_small]
    if small:
        pictures["slices.png"] = small
    for name, shown in pictures.items():
        _replace(directory / name, _png(shown, columns=min(3, len(shown))))
    return [directory / name for name in pictures]


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _png(figures: Sequence[Figure], *, title: str = "", columns: int | None = None) -> bytes:
    across = columns or max(1, len(figures))
    down = max(1, -(-len(figures) // across))
    width = 8.2 if across == 1 else 6.2 * across if across == 2 else 4.6 * across
    height = max((figure.height for figure in figures), default=360) / 85 + 0.5
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}), warnings.catch_warnings():
        # A name may hold dollar signs, and letters that no font here has: they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        canvas = Canvas(figsize=(width, height * down), dpi=_DPI, layout="constrained")
        paper = FigureCanvasAgg(canvas)
        if title:
            canvas.suptitle(_wrapped(title, int(width * 12)), fontsize=11, color=_INK, x=0.01, ha="left")
        grid = list(canvas.subplots(down, across, squeeze=False).ravel())
        for axes, figure in zip(grid, figures, strict=False):
            _draw(axes, figure, characters=int(width / across * 11))
        for axes in grid[len(figures):]:
            axes.set_visible(False)
        buffer = io.BytesIO()
        paper.print_png(buffer)  # draws once; `savefig` draws twice
    return buffer.getvalue()


def _draw(axes: Axes, figure: Figure, *, characters: int) -> None:
    layout = figure.layout
    places = {side: _categories(figure, side) for side in ("x", "y")}
    _scale(axes, layout)
    bottoms: dict[float, float] = {}
    for trace in figure.traces:
        if trace["type"] == "bar":
            _bar(axes, trace, places, bottoms)
        elif trace["type"] in ("contour", "heatmap"):
            _surface(axes, trace)
        else:
            _scatter(axes, trace, places)
    _limits(axes, layout, places)
    _shapes(axes, layout)
    _decorate(axes, figure, characters)


def _scatter(axes: Axes, trace: Mapping[str, Any], places: Mapping[str, Mapping[str, int]]) -> None:
    on_edge = trace.get("yaxis") == "y2"
    x = _numbers(trace["x"], places["x"])
    y = [0.975] * len(x) if on_edge else _numbers(trace["y"], places["y"])
    line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace["mode"]
    style: dict[str, Any] = {"linestyle": "none", "color": line.get("color") or marker.get("color")}
    if "lines" in mode:
        width = line.get("width", 2) * _POINTS_PER_PIXEL
        style |= {"linestyle": _DASHES[line.get("dash", "solid")], "linewidth": width}
        if line.get("shape") == "hv":
            style["drawstyle"] = "steps-post"
    if "markers" in mode:
        symbol = marker.get("symbol", "circle")
        hollow = symbol.endswith("-open")
        edge = marker.get("line", {})
        style |= {"marker": _SYMBOLS[symbol], "markersize": marker.get("size", 6) * _POINTS_PER_PIXEL * 0.95,
                  "fillstyle": "none" if hollow else "full", "markeredgewidth": edge.get("width", 0) * 0.7,
                  "markeredgecolor": marker.get("color") if hollow else "#444444"}
    if trace.get("fill") == "tonexty":
        under = axes.lines[-1].get_ydata()
        axes.fill_between(x, under, y, step="post", color=BEST, alpha=0.22, linewidth=0, zorder=1,
                          label=_plain(trace["name"]))
        return
    shown = trace.get("showlegend", True) and not trace.get("meta", {}).get("highlight")
    axes.plot(x, y, alpha=trace.get("opacity", 1.0), zorder=4 if on_edge else 3, clip_on=not on_edge,
              label=_plain(trace["name"]) if shown else "_", transform=axes.get_xaxis_transform() if on_edge
              else axes.transData, **style)


def _bar(axes: Axes, trace: Mapping[str, Any], places: Mapping[str, Mapping[str, int]],
         bottoms: dict[float, float]) -> None:
    label = _plain(trace["name"]) if trace.get("showlegend", True) else "_"
    if trace.get("orientation") == "h":
        error = trace["error_x"]
        axes.barh(_numbers(trace["y"], places["y"]), trace["x"], color=trace["marker"]["color"], label=label,
                  height=0.8, xerr=[error["arrayminus"], error["array"]], ecolor=error["color"], capsize=3, zorder=3)
        return
    x = _numbers(trace["x"], {})
    width = 0.82 * min((b - a for a, b in itertools.pairwise(x)), default=1.0)
    axes.bar(x, trace["y"], bottom=[bottoms.get(at, 0.0) for at in x], color=trace["marker"]["color"], label=label,
             width=width, zorder=3)
    for at, height in zip(x, trace["y"], strict=True):
        bottoms[at] = bottoms.get(at, 0.0) + height


def _surface(axes: Axes, trace: Mapping[str, Any]) -> None:
    colors = LinearSegmentedColormap.from_list("quality", [color for _, color in trace["colorscale"]])
    if trace["reversescale"]:
        colors = colors.reversed()
    drawn: Any
    if trace["type"] == "contour":
        low, high = trace.get("zmin", 0.0), trace.get("zmax", 0.0)
        levels: Any = [low + i * (high - low) / 14 for i in range(15)] if high > low else 14
        drawn = axes.contourf(trace["x"], trace["y"], trace["z"], levels=levels, cmap=colors)
    else:
        drawn = axes.pcolormesh(trace["x"], trace["y"], trace["z"], cmap=colors, shading="nearest",
                                vmin=trace.get("zmin"), vmax=trace.get("zmax"))
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=axes, label=_plain(trace["colorbar"]["title"]["text"]))


def _scale(axes: Axes, layout: Mapping[str, Any]) -> None:
    for side, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        settings = layout.get(f"{side}axis", {})
        if settings.get("type") == "log":
            (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        if "tickvals" in settings:
            axis.set_major_locator(FixedLocator(settings["tickvals"]))
            axis.set_minor_locator(NullLocator())
            names = [_plain(label) for label in settings["ticktext"]]
            axis.set_ticklabels(names)
            if side == "x" and _is_crowded(layout):
                for label in axis.get_ticklabels():
                    label.set(rotation=18, ha="right")
        elif settings.get("dtick") == 1 or settings.get("tickformat") == ",d":
            axis.set_major_locator(MaxNLocator(integer=True))


def _is_crowded(layout: Mapping[str, Any]) -> bool:
    """Say whether the names along the x axis would run into each other."""
    return sum(len(name) for name in layout.get("xaxis", {}).get("ticktext", ())) > 64


def _limits(axes: Axes, layout: Mapping[str, Any], places: Mapping[str, Mapping[str, int]]) -> None:
    for side, axis, limit in (("x", axes.xaxis, axes.set_xlim), ("y", axes.yaxis, axes.set_ylim)):
        settings = layout.get(f"{side}axis", {})
        if "range" in settings:
            low, high = settings["range"]
            low, high = (10 ** low, 10 ** high) if settings.get("type") == "log" else (low, high)
            # The strip for trials without a value lies inside the upper edge here.
            room = 0.1 * (high - low) if side == "y" and "yaxis2" in layout else 0.0
            limit(low, high + room)
        elif settings.get("rangemode") == "tozero":
            limit(0)
        if places[side]:
            axis.set_major_locator(FixedLocator(list(places[side].values())))
            axis.set_ticklabels([_plain(name) for name in places[side]])


def _shapes(axes: Axes, layout: Mapping[str, Any]) -> None:
    for shape in layout.get("shapes", ()):
        name = _plain(shape["name"])
        if shape["type"] == "line":
            axes.axhline(shape["y0"], color=shape["line"]["color"], linestyle=_DASHES[shape["line"]["dash"]],
                         linewidth=1.2, zorder=2, label=name)
        else:
            x, within = [shape["x0"], shape["x1"]], axes.get_yaxis_transform() if shape.get("xref") else axes.transData
            axes.fill_between(x, 2 * [shape["y0"]], 2 * [shape["y1"]], color=BEST, alpha=0.2, linewidth=0, zorder=1,
                              label=name, transform=within)
            axes.plot(x, 2 * [shape["y1"]], color=BEST, linestyle=":", linewidth=0.8, zorder=2, transform=within)
    for note in layout.get("annotations", ()):
        axes.annotate(_plain(note["text"]), (note["x"], note["y"]), fontsize=8, color=_INK, ha="center", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=6)


def _decorate(axes: Axes, figure: Figure, characters: int) -> None:
    for side, name in (("x", axes.set_xlabel), ("y", axes.set_ylabel)):
        settings = figure.layout.get(f"{side}axis", {})
        name(_plain(settings.get("title", {}).get("text", "")), color=_INK)
        if settings.get("visible") is False:
            (axes.xaxis if side == "x" else axes.yaxis).set_visible(False)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    words = "\n".join((figure.title, figure.sentence, *filter(None, [", ".join(figure.beyond)])))
    axes.set_title(_wrapped(words, characters), loc="left", fontsize=9, color=_INK)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique and figure.layout.get("showlegend", True):
        below = -0.25 if _is_crowded(figure.layout) else -0.13
        axes.legend(unique.values(), unique.keys(), loc="upper center", bbox_to_anchor=(0.5, below), frameon=False,
                    ncols=min(6, len(unique)), fontsize=8, columnspacing=1.2, handletextpad=0.5)


def _categories(figure: Figure, side: str) -> dict[str, int]:
    """Return the place of each name on an axis of names; empty for an axis of numbers."""
    if figure.layout.get(f"{side}axis", {}).get("type") != "category":
        return {}
    names = [name for trace in figure.traces for name in trace[side] if isinstance(name, str)]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _numbers(values: Sequence[Any], places: Mapping[str, int]) -> list[float]:
    return [math.nan if value is None else places[value] if isinstance(value, str) else value for value in values]


def _plain(markup: str) -> str:
    """Undo the escaping that plotly.js needs, and its breaks of lines."""
    return html.unescape(markup.replace("<br>", "\n"))


def _wrapped(text: str, characters: int) -> str:
    return "\n".join(textwrap.fill(line, characters) for line in text.split("\n"))
