"""The report as a notebook that reads the CSV files beside it and needs only pandas and Matplotlib.

It opens anywhere, without this package; importances, which take a model, are in it as numbers.
"""

import asyncio
import contextlib
import importlib
import inspect
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

from kaggle_runner.metrics import GOALS, LEAST_DIGITS, digits_of, format_metric, format_number
from kaggle_runner.report import cells
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis
from kaggle_runner.report.figures import curve_scale, marked, scale_of
from kaggle_runner.report.files import csv_cell, markdown_text
from kaggle_runner.report.lead import Lead
from kaggle_runner.report.maps import by_importance
from kaggle_runner.report.recipes import next_search
from kaggle_runner.report.style import BEST, FAINT, LOOKS, SERIES, log_ticks, value_names

TIMEOUT_S = 120
"""Longest that one cell may take."""

def prepare_kernel() -> None:
    """Import IPython now if it is there; to be called before `write_notebook` runs in a thread.

    Starting a kernel imports it, and Matplotlib, which draws meanwhile, asks an IPython that is half imported for its
    version and dies of an AttributeError. Source: `_fix_ipython_backend2gui` in matplotlib/backend_bases.py, 3.10.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("IPython")


def write_notebook(analysis: Analysis, directory: Path, lead: Lead | None = None, *, execute: bool = True) -> str:
    """Write `analysis.ipynb` beside the CSV files, executed if a kernel can do it; say why if it was not, else "".

    To be called from a thread without an event loop.

    Raises:
        OSError: the file cannot be written.
    """
    notebook = _notebook(analysis, lead)
    problem = _run(notebook, directory) if execute else "it was asked for without"
    if problem:
        notebook = _notebook(analysis, lead)  # half an execution would look like a whole one
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
              "PHASES": list(SERIES[:6]), "BEST": BEST, "FAINT": FAINT}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _writer() -> str:
    """Return the code that writes a value of a metric: our own, which the notebook has to do without."""
    functions = "\n\n".join(inspect.getsource(one) for one in (format_metric, format_number))
    return f"LEAST_DIGITS = {LEAST_DIGITS}\nGOALS = {dict(GOALS)!r}\n\n\n{functions}\n\n"


def _notebook(analysis: Analysis, lead: Lead | None = None) -> nbformat.NotebookNode:
    added: list[nbformat.NotebookNode] = []

    def add(title: str, sentences: Sequence[str], code: str) -> None:
        texts = [sentence for sentence in sentences if sentence]
        added.append(new_markdown_cell(f"## {title}\n\n" + "\n\n".join(map(markdown_text, texts))))
        alt = " ".join([f"{title}.", *texts])
        added.append(new_code_cell(f"ALT = {alt!r}\n{code}" if "ALT" in code else code))

    claims = [say.winner(analysis), say.noise(analysis), say.repeats(analysis)]
    if lead is not None:
        claims = [lead.answer, *lead.sentences, *lead.warnings, *([] if lead.is_all else claims)]
    added.append(new_markdown_cell("\n\n".join([f"# {markdown_text(analysis.name)}", *(
        markdown_text(claim) for claim in claims if claim), *map(_markdown_table, lead.tables if lead else ())])))
    setup = cells.SETUP.replace("LOOKS\n", _looks()).replace("WRITER\n", _writer())
    added += [new_code_cell(_constants(analysis)), new_code_cell(setup)]
    searched = lead is None or not lead.is_all
    if searched:
        add("The best trials", [say.ranking(analysis)], cells.TABLE)
        if any(one.runs > 1 for one in analysis.first.ranked):
            add("Configurations, with the mean of their seeds", [say.repeats(analysis)], cells.SEEDS)
        add("From best to worst", [say.ranking(analysis)], cells.RANKING)
        add("Best so far", [say.progress(analysis), say.hours(analysis)], cells.BEST_SO_FAR)
    add("Learning curves", [say.curves(analysis)], cells.CURVES)
    if searched:
        add("What mattered", [say.importance(analysis)], cells.IMPORTANCE)
    add("Each hyperparameter", [f"{axis.name}: {say.axis(analysis, axis)}" for axis in by_importance(analysis)]
        if searched else [], cells.SLICES)
    if analysis.contours and searched:
        add("The most important together", [f"{one.x.name} and {one.y.name}: {say.contour(analysis, one)}"
                                            for one in analysis.contours], cells.MAPS)
    if searched:
        add("Parallel coordinates", [say.parallel(analysis)], cells.PARALLEL)
        added.append(new_markdown_cell("## Where to search next\n\n" + "\n".join(
            f"- {markdown_text(advice)}" for advice in next_search(analysis))))
    if analysis.rungs and searched:
        add("Who survived where", [say.rungs(analysis)], cells.RUNGS)
    add("What it cost: time", [say.time(analysis)], cells.TIME)
    add("What it cost: memory", [say.memory(analysis), say.predicted(analysis)], cells.MEMORY)
    for i, cell in enumerate(added):
        cell["id"] = f"cell-{i}"  # the same notebook for the same study
        if cell["cell_type"] == "code":  # the plots first: Jupyter and Colab fold the code, and show it on a click
            cell["metadata"] = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    notebook: nbformat.NotebookNode = new_notebook(cells=added, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}})
    return notebook


def _constants(analysis: Analysis) -> str:
    """Return the cell that holds what the CSV files do not say."""
    axes = {axis.name: [_as_read(value) for value in axis.values] if axis.values else "log" if axis.is_log else "linear"
            for axis in by_importance(analysis)}
    labels = {axis.name: value_names(axis.values, 18) for axis in analysis.axes if axis.values}
    first, scale, curves = analysis.first, scale_of(analysis), curve_scale(analysis)
    ticks = {axis.name: log_ticks(axis.low, axis.high) for axis in analysis.axes if axis.is_log}
    importance: list[dict[str, Any]] = [
        {"name": share.name, "share": round(share.share, 4), "low": round(share.low, 4), "high": round(share.high, 4),
         "floor": round(share.floor, 4), "resolved": share.resolved} for share in analysis.shares]
    lines = [f"METRIC = {analysis.metric!r}", f"GOAL = {analysis.goal!r}", f"BASELINE = {analysis.baseline!r}",
             "# Significant digits of the metric's values, as many as tell the configurations apart.",
             f"DIGITS = {digits_of(one.mean for one in analysis.first.ranked)}",
             "# The best trial of the configuration with the best mean, none where all are equal; and that mean.",
             f"BEST_TRIAL = {best.id if (best := marked(analysis)) else None!r}",
             f"BEST_MEAN = {first.ranked[0].mean if first.ranked else None!r}",
             "# Standard deviation of one trial; and how far behind the best one is known to be worse.",
             f"DEVIATION = {analysis.noise.deviation if analysis.noise else None!r}", f"NOISE = {first.distance!r}",
             "# Ends of the metric's axis, for trials and for learning curves.",
             f"SCALE = {(scale.low, scale.high)!r}", f"CURVE_SCALE = {(curves.low, curves.high)!r}",
             f"TICKS = {ticks!r}",
             f"RUNGS = {[rung.step for rung in analysis.rungs]!r}",
             "# The hyperparameters, the most important first, with their scale or their values.",
             "AXES = {" + "".join(f"\n    {name!r}: {scale!r}," for name, scale in axes.items()) + "\n}",
             "# The values of lists as labels, no two alike.", f"LABELS = {labels!r}",
             "# Share of the metric's variance, its 90 % interval, and where it would stand out from chance.",
             "IMPORTANCE = [" + "".join(f"\n    {share!r}," for share in importance) + "\n]"]
    if any(one.runs > 1 for one in first.ranked):
        rows = [{"trials": ", ".join(one.runs_ids), "seeds": one.seeds, "mean": one.mean,
                 "deviation": one.deviation if one.seeds > 1 else None,
                 "may be best": one in first.shared} for one in first.ranked[:40]]
        lines += ["# What differs in the seed alone is one configuration; the best mean first.",
                  "CONFIGURATIONS = [" + "".join(f"\n    {row!r}," for row in rows) + "\n]"]
    return "\n".join(lines)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _as_read(value: Any) -> Any:
    """Return a value as pandas reads it back from `trials.csv`."""
    return csv_cell(value) if isinstance(value, list | tuple | dict) else value
