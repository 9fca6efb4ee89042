"""The report as a notebook that reads the CSV files beside it and needs only pandas and Matplotlib.

It opens anywhere, without this package; importances, which take a model, are in it as numbers.
"""

import asyncio
import contextlib
import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from traitlets.config import Config

from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis
from kaggle_runner.report.files import csv_cell, markdown_text
from kaggle_runner.report.maps import by_importance
from kaggle_runner.report.style import BEST, LOOKS, SERIES

TIMEOUT_S = 120
"""Longest that one cell may take."""

_SETUP = """\
%matplotlib inline
import math

import matplotlib.pyplot as plt
import pandas as pd

plt.rcParams.update({"figure.dpi": 90, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e7eb",
                     "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False})
LOOKS
trials = pd.read_csv("trials.csv", dtype={"trial": str})
curves = pd.read_csv("curves.csv", dtype={"trial": str})
surfaces = pd.read_csv("surfaces.csv")


def place(name):
    \"\"\"Return where each trial lies on a hyperparameter's axis: its value, or its index in a list of values.\"\"\"
    if isinstance(AXES[name], str):
        return pd.to_numeric(trials[name], errors="coerce")
    index = {str(value): i for i, value in enumerate(AXES[name])}
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in AXES[name]):
        index = {float(value): i for i, value in enumerate(AXES[name])}
        return pd.to_numeric(trials[name], errors="coerce").map(index)
    return trials[name].map(str).map(index)


names = [name for name in AXES if name in trials]
for name in names:
    trials[f"place of {name}"] = place(name)
complete = trials[(trials["status"] == "complete") & trials[METRIC].notna()]
ranked = complete.sort_values(METRIC, ascending=GOAL != "maximize", kind="stable")
varied = [name for name in names if complete[f"place of {name}"].nunique() > 1]


def baseline():
    if BASELINE is not None:
        plt.axhline(BASELINE, color="#8A8A8A", linestyle="--", label="untouched base")


def dots(x, y):
    for status, rows in trials[trials[x].notna() & trials[y].notna()].groupby("status"):
        plt.plot(rows[x], rows[y], MARKS[status], color=COLORS[status], label=status,
                 fillstyle="none" if status in ("pruned", "infeasible") else "full")
    best = trials[trials["trial"].isin(ranked["trial"][:1])]
    plt.plot(best[x], best[y], "*", color=BEST, markersize=14, markeredgecolor="#444444")


def value_axis(name, side="x"):
    axis = getattr(plt.gca(), f"{side}axis")
    if AXES[name] == "log":
        getattr(plt, f"{side}scale")("log")
        axis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axis.set_minor_formatter(lambda value, _: "")
    elif AXES[name] != "linear":
        axis.set_ticks(range(len(AXES[name])), [str(value) for value in AXES[name]])
    getattr(plt, f"{side}label")(name)


def legend(**where):
    if plt.gca().get_legend_handles_labels()[0]:
        plt.legend(fontsize=8, **where)"""

_TABLE = """\
(ranked if len(ranked) else trials)[["trial", "status", METRIC, *names, "steps", "seconds"]].head(15)"""

_RANKING = """\
if len(ranked) > 1:
    plt.figure(figsize=(9, 3.2))
    plt.plot(range(1, len(ranked) + 1), ranked[METRIC], "o", color=COLORS["complete"])
    plt.plot(1, ranked[METRIC].iloc[0], "*", color=BEST, markersize=14, markeredgecolor="#444444")
    if NOISE is not None:
        best = ranked[METRIC].iloc[0]
        worse = best - NOISE if GOAL == "maximize" else best + NOISE
        plt.axhspan(min(best, worse), max(best, worse), color=BEST, alpha=0.2, linewidth=0,
                    label="may be as good as the best")
    baseline()
    plt.xlabel("rank among the complete trials")
    plt.ylabel(METRIC)
    legend()
    plt.show()"""

_BEST_SO_FAR = """\
ended = trials[trials["status"] != "running"]
minutes = ended["seconds"].cumsum() / 60
own = ended[METRIC].where(ended["status"] == "complete")
best = (own.cummax() if GOAL == "maximize" else own.cummin()).ffill()
plt.figure(figsize=(11, 3.6))
plt.subplot(1, 2, 1)
plt.step(ended["number"], best, where="post", color=BEST, label="best so far")
dots("number", METRIC)
baseline()
plt.xlabel("trial")
plt.ylabel(METRIC)
legend()
plt.subplot(1, 2, 2)
short = not minutes.max() > 180
plt.step(minutes if short else minutes / 60, best, where="post", color=BEST, label="best so far")
baseline()
plt.xlabel(f"{'minutes' if short else 'hours'}, all trials added up")
legend()
plt.show()"""

_CURVES = """\
plt.figure(figsize=(9, 4))
status_of = dict(zip(trials["trial"], trials["status"]))
for trial, rows in curves.dropna(subset=[METRIC]).groupby("trial"):
    is_best = trial in set(ranked["trial"][:1])
    plt.plot(rows["step"], rows[METRIC], color=BEST if is_best else COLORS[status_of[trial]],
             linewidth=2.6 if is_best else 1, alpha=1 if is_best else 0.6, zorder=3 if is_best else 2)
    if status_of[trial] == "pruned":
        plt.plot(rows["step"].iloc[-1:], rows[METRIC].iloc[-1:], "D", color=COLORS["pruned"], fillstyle="none")
baseline()
plt.xlabel("optimizer steps")
plt.ylabel(METRIC)
legend()
plt.show()"""

_IMPORTANCE = """\
if IMPORTANCE:
    shares = pd.DataFrame(IMPORTANCE).set_index("name")[::-1]
    plt.figure(figsize=(8, 1 + 0.4 * len(shares)))
    shown = shares["share"].clip(lower=0)
    ends = pd.DataFrame([shown - shares["low"].clip(lower=0), shares["high"] - shown]).clip(lower=0)
    plt.barh(shares.index, 100 * shown, color=["#1E84C6" if clear else "#9AA5B1" for clear in shares["resolved"]],
             xerr=100 * ends.values, ecolor="#808080", capsize=3)
    plt.plot(100 * shares["floor"], shares.index, "|", color="#D55E00", markersize=16, label="stands out from here")
    plt.xlabel("variance explained, %")
    legend(loc="lower right")
    plt.show()"""

_SLICES = """\
if names:
    columns, rows = min(3, len(names)), math.ceil(len(names) / 3)
    plt.figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    for i, name in enumerate(names, start=1):
        plt.subplot(rows, columns, i)
        dots(f"place of {name}", METRIC)
        value_axis(name)
        plt.ylabel(METRIC)
    plt.show()"""

_MAPS = """\
for (x, y), surface in surfaces.groupby(["x_name", "y_name"], sort=False):
    grid = surface.pivot(index="y", columns="x", values="expected")
    plt.figure(figsize=(6, 4.4))
    drawn = plt.pcolormesh(grid.columns, grid.index, grid.values, shading="nearest",
                           cmap="cividis_r" if GOAL == "maximize" else "cividis")
    plt.colorbar(drawn, label=METRIC)
    plt.plot(complete[f"place of {x}"], complete[f"place of {y}"], "o", color="white", markeredgecolor="#222222")
    best = ranked[:1]
    plt.plot(best[f"place of {x}"], best[f"place of {y}"], "*", color=BEST, markersize=14, markeredgecolor="#444444")
    value_axis(x)
    value_axis(y, "y")
    plt.show()"""

_RUNGS = """\
measured = curves.dropna(subset=[METRIC])
ends = measured.groupby("trial")["step"].max()
plt.figure(figsize=(9, 3.6))
for i, step in enumerate(RUNGS):
    there = measured[(measured["step"] <= step) & (measured["trial"].map(ends) >= step)]
    values = there.groupby("trial")[METRIC].last()
    own = trials.set_index("trial").loc[values.index]
    cut = (own["status"] == "pruned") & (own["steps"] <= step)
    for side, chosen, mark, color, name in ((-0.12, values[~cut], "o", COLORS["complete"], "goes on"),
                                            (0.12, values[cut], "D", COLORS["pruned"], "cut")):
        plt.plot([i + side + 0.16 * (k * 0.618 % 1 - 0.5) for k in range(len(chosen))], chosen, mark, color=color,
                 fillstyle="none" if name == "cut" else "full", label=None if i else name)
plt.xticks(range(len(RUNGS)), RUNGS)
plt.xlim(-0.5, len(RUNGS) - 0.5)
plt.xlabel("rung, optimizer steps")
plt.ylabel(f"{METRIC} at the rung")
legend()
plt.show()"""

_PARALLEL = """\
if len(varied) > 1 and len(ranked) > 1:
    heights = pd.DataFrame(index=ranked.index)
    for name in varied:
        column = ranked[f"place of {name}"].map(math.log if AXES[name] == "log" else float)
        heights[name] = (column - column.min()) / (column.max() - column.min())
    heights[METRIC] = [1 - i / (len(ranked) - 1) for i in range(len(ranked))]
    plt.figure(figsize=(10, 4))
    for i, (_, row) in enumerate(heights[::-1].iterrows()):
        is_best = i == len(heights) - 1
        plt.plot(range(len(row)), row, color=BEST if is_best else plt.get_cmap("cividis_r")(i / len(heights)),
                 linewidth=2.6 if is_best else 1, alpha=1 if is_best else 0.6)
    for i, name in enumerate(heights):
        column = ranked[f"place of {name}"] if name in varied else -ranked[METRIC] * (1 if GOAL != "maximize" else -1)
        for end, at in ((column.idxmin(), -0.05), (column.idxmax(), 1.05)):
            value = ranked.loc[end, name]
            plt.text(i, at, f"{value:.3g}" if isinstance(value, float) else str(value), ha="center",
                     va="center", size=8)
    plt.ylim(-0.1, 1.1)
    plt.xticks(range(len(heights.columns)), heights.columns, rotation=15)
    plt.yticks([])
    plt.show()"""

_TIME = """\
bottom = 0 * trials["seconds"]
plt.figure(figsize=(9, 3.2))
for phase, color in zip([name for name in trials if name.startswith("seconds_")], PHASES):
    plt.bar(trials["number"], trials[phase].fillna(0), bottom=bottom, color=color, label=phase[len("seconds_"):])
    bottom = bottom + trials[phase].fillna(0)
plt.bar(trials["number"], (trials["seconds"] - bottom).clip(lower=0), bottom=bottom, color="#9AA5B1", label="other")
plt.xlabel("trial")
plt.ylabel("seconds in a trial")
legend()
plt.show()"""

_MEMORY = """\
trials["measured"] = trials["peak_device_bytes"] / 2**30
trials["predicted"] = trials["predicted_peak_bytes"] / 2**30
if trials["measured"].notna().any():
    plt.figure(figsize=(9, 3.2))
    bottom = 0 * trials["number"]
    parts = {name: trials[name].fillna(0) / 2**30 for name in trials if name.startswith("predicted_part_")}
    for (name, part), color in zip(sorted(parts.items(), key=lambda pair: -pair[1].sum()), [*PHASES, "#9AA5B1"]):
        plt.bar(trials["number"], part, bottom=bottom, color=color, label=name[len("predicted_part_"):])
        bottom = bottom + part
    dots("number", "measured")
    plt.ylim(bottom=0)
    plt.xlabel("trial")
    plt.ylabel("peak memory, GiB")
    legend()
    plt.show()
if (trials["measured"] * trials["predicted"]).notna().any():
    plt.figure(figsize=(5, 4.4))
    plt.axline((trials["measured"].max(),) * 2, slope=1, color="#8A8A8A", linestyle="--", label="as predicted")
    dots("predicted", "measured")
    plt.xlabel("predicted peak, GiB")
    plt.ylabel("measured peak, GiB")
    legend()
    plt.show()"""


def prepare_kernel() -> None:
    """Import IPython now if it is there; to be called before `write_notebook` runs in a thread.

    Starting a kernel imports it, and Matplotlib, which draws meanwhile, asks an IPython that is half imported for its
    version and dies of an AttributeError. Source: `_fix_ipython_backend2gui` in matplotlib/backend_bases.py, 3.10.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("IPython")


def write_notebook(analysis: Analysis, directory: Path, *, execute: bool = True) -> str:
    """Write `analysis.ipynb` beside the CSV files, executed if a kernel can do it; say why if it was not, else "".

    To be called from a thread without an event loop.

    Raises:
        OSError: the file cannot be written.
    """
    notebook = _notebook(analysis)
    problem = _run(notebook, directory) if execute else "it was asked for without"
    if problem:
        notebook = _notebook(analysis)  # half an execution would look like a whole one
        notebook.cells.insert(1, new_markdown_cell(
            f"**Not executed:** {markdown_text(problem)}. Run all cells to see the plots; the PNG files beside this "
            f"notebook show the same."))
    path = directory / "analysis.ipynb"
    temporary = path.with_name(f".{path.name}")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    return problem


def _run(notebook: nbformat.NotebookNode, directory: Path) -> str:
    """Execute all cells in place in a fresh kernel of this Python; return what went wrong, in one line."""
    try:
        with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
            # Sockets in a folder of our own: a port of the machine could be read by its other users.
            kernel = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
            client = NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3",
                                    config=Config({"KernelManager": kernel}),
                                    resources={"metadata": {"path": str(directory)}})
            asyncio.run(client.async_execute())  # its own `execute` leaves an event loop open
    except CellTimeoutError:
        return f"a cell took more than {TIMEOUT_S} s"
    except CellExecutionError as error:
        return f"a cell failed with {error.ename}: {error.evalue}"
    except (DeadKernelError, RuntimeError, OSError, LookupError) as error:  # what a kernel that cannot start raises
        return f"no kernel could be started: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def _looks() -> str:
    """Return the colours and marks that every picture shares, as lines of Python."""
    values = {"COLORS": {status: look.color for status, look in LOOKS.items()},
              "MARKS": {status: look.matplotlib for status, look in LOOKS.items()},
              "PHASES": list(SERIES[:6]), "BEST": BEST}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _notebook(analysis: Analysis) -> nbformat.NotebookNode:
    cells: list[nbformat.NotebookNode] = []

    def add(title: str, sentences: Sequence[str], code: str) -> None:
        cells.append(new_markdown_cell(f"## {title}\n\n" + "\n\n".join(markdown_text(s) for s in sentences if s)))
        cells.append(new_code_cell(code))

    cells.append(new_markdown_cell(f"# {markdown_text(analysis.name)}\n\n{markdown_text(say.winner(analysis))} "
                                   f"{markdown_text(say.noise(analysis))}"))
    cells += [new_code_cell(_constants(analysis)), new_code_cell(_SETUP.replace("LOOKS\n", _looks()))]
    add("The best trials", [say.repeats(analysis)], _TABLE)
    add("From best to worst", [say.ranking(analysis)], _RANKING)
    add("Best so far", [say.progress(analysis), say.hours(analysis)], _BEST_SO_FAR)
    add("Learning curves", [say.curves(analysis)], _CURVES)
    add("What mattered", [say.importance(analysis)], _IMPORTANCE)
    add("Each hyperparameter", [f"{axis.name}: {say.axis(analysis, axis)}" for axis in by_importance(analysis)],
        _SLICES)
    if analysis.contours:
        add("The most important together", [f"{one.x.name} and {one.y.name}: {say.contour(analysis, one)}"
                                            for one in analysis.contours], _MAPS)
    add("Parallel coordinates", [say.parallel(analysis)], _PARALLEL)
    cells.append(new_markdown_cell("## Where to search next\n\n" + "\n".join(
        f"- {markdown_text(advice)}" for advice in say.next_search(analysis))))
    if analysis.rungs:
        add("Who survived where", [say.rungs(analysis)], _RUNGS)
    add("What it cost: time", [say.time(analysis)], _TIME)
    add("What it cost: memory", [say.memory(analysis), say.predicted(analysis)], _MEMORY)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # the same notebook for the same study
        if cell["cell_type"] == "code":  # the plots first: Jupyter and Colab fold the code, and show it on a click
            cell["metadata"] = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    notebook: nbformat.NotebookNode = new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}})
    return notebook


def _constants(analysis: Analysis) -> str:
    """Return the cell that holds what the CSV files do not say."""
    axes = {axis.name: [_as_read(value) for value in axis.values] if axis.values else "log" if axis.is_log else "linear"
            for axis in by_importance(analysis)}
    importance: list[dict[str, Any]] = [
        {"name": share.name, "share": round(share.share, 4), "low": round(share.low, 4), "high": round(share.high, 4),
         "floor": round(share.floor, 4), "resolved": share.resolved} for share in analysis.shares]
    lines = [f"METRIC = {analysis.metric!r}", f"GOAL = {analysis.goal!r}", f"BASELINE = {analysis.baseline!r}",
             "# Trials this far behind the best are known to be worse.",
             f"NOISE = {analysis.first.distance!r}",
             f"RUNGS = {[rung.step for rung in analysis.rungs]!r}",
             "# The hyperparameters, the most important first, with their scale or their values.",
             "AXES = {" + "".join(f"\n    {name!r}: {scale!r}," for name, scale in axes.items()) + "\n}",
             "# Share of the metric's variance, its 90 % interval, and where it would stand out from chance.",
             "IMPORTANCE = [" + "".join(f"\n    {share!r}," for share in importance) + "\n]"]
    return "\n".join(lines)


def _as_read(value: Any) -> Any:
    """Return a value as pandas reads it back from `trials.csv`."""
    return csv_cell(value) if isinstance(value, list | tuple | dict) else value
