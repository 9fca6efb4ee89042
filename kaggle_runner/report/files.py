"""The report as plain files: `trials.csv`, `curves.csv`, `surfaces.csv` and `summary.md`."""

import csv
import html
import io
import json
from collections.abc import Sequence
from typing import Any

from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis
from kaggle_runner.report.lead import Lead
from kaggle_runner.report.maps import grid_value
from kaggle_runner.report.recipes import next_search, recipes
from kaggle_runner.report.style import seconds_text, setting_text, value_text
from kaggle_runner.study.noise import Configuration

_FIRST = ("trial", "number", "status")
_LAST = ("compared_by", "place", "best_so_far", "origin", "steps", "seconds", "tokens", "attempts",
         "peak_device_bytes", "predicted_peak_bytes")
_MOST_ROWS = 15


def trials_csv(analysis: Analysis) -> str:
    """Return one line for each trial, with everything that is known of it; seconds by phase as `seconds_<phase>`.

    A trial is `compared_by` the mean over its configuration's seeds, of which the best one has the configuration's
    `place`. What the predicted peak is made of is `predicted_part_<name>`, in bytes.

    A hyperparameter that has the name of another column is called `param_<name>`.
    """
    names = list(dict.fromkeys(name for row in analysis.rows for name in row.params))
    phases = list(dict.fromkeys(phase for row in analysis.rows for phase in row.phases))
    parts = list(dict.fromkeys(part for row in analysis.rows for part in row.predicted_parts))
    more = [*(f"seconds_{phase}" for phase in phases), *(f"predicted_part_{part}" for part in parts)]
    taken = {*_FIRST, analysis.metric, *_LAST, "reason", *more}
    header = [*_FIRST, analysis.metric, *(f"param_{name}" if name in taken else name for name in names), *_LAST,
              *more, "reason"]
    place = {row.id: i for i, row in enumerate(analysis.places, start=1)}
    best = {step.trial_id: step.best for step in analysis.progress}
    lines = [[row.id, row.number, row.status, row.value, *(csv_cell(row.params.get(name)) for name in names),
              row.compared_by, place.get(row.id), best.get(row.id), row.origin,
              row.steps, row.seconds, row.tokens, row.attempts, row.peak_bytes, row.predicted_bytes,
              *(row.phases.get(phase) for phase in phases), *(row.predicted_parts.get(part) for part in parts),
              row.reason] for row in analysis.rows]
    return _csv([header, *lines])


def curves_csv(analysis: Analysis) -> str:
    """Return one line for each measured point of a curve: the metric, and the mean training loss since the last."""
    lines: list[list[Any]] = [["trial", "step", analysis.metric, "train/loss", "tokens"]]
    for curve in analysis.curves:
        measured = dict(zip(curve.steps, curve.values, strict=True))
        trained = dict(zip(curve.train_steps, curve.train_values, strict=True))
        tokens = dict(zip(curve.steps, curve.tokens, strict=True))
        lines += [[curve.trial_id, step, measured.get(step), trained.get(step), tokens.get(step)]
                  for step in sorted(measured.keys() | trained.keys())]
    return _csv(lines)


def surfaces_csv(analysis: Analysis) -> str:
    """Return one line for each point of the fitted surfaces; an axis of listed values has their places, from 0."""
    lines: list[list[Any]] = [["x_name", "x", "y_name", "y", "expected"]]
    for one in analysis.contours:
        lines += [[one.x.name, grid_value(one.x, x), one.y.name, grid_value(one.y, y), f"{value:.6g}"]
                  for y, row in zip(one.y_positions, one.values, strict=True)
                  for x, value in zip(one.x_positions, row, strict=True)]
    return _csv(lines)


def summary_markdown(analysis: Analysis, pictures: Sequence[str] = (), lead: Lead | None = None) -> str:
    """Return the report in words: the answers, the best trials, and the names of the pictures beside it."""
    drawn = "\n".join(f"- [{name}]({name})" for name in pictures)
    if lead is not None and lead.is_all:
        return "\n\n".join([lead.summary.rstrip() or markdown_text(lead.answer), "## Pictures", drawn]) + "\n"
    best = analysis.best
    blocks = [f"# {markdown_text(analysis.name)}", markdown_text(say.winner(analysis)),
              markdown_text(say.noise(analysis))]
    if best is not None:
        blocks.append("\n".join(f"- {markdown_text(name)}: **{markdown_text(value_text(value))}**"
                                for name, value in say.settings(analysis, best)))
    blocks += ["## What is best", _ranking(analysis), markdown_text(say.repeats(analysis)),
               markdown_text(say.progress(analysis)), markdown_text(say.curves(analysis)),
               "## What mattered", markdown_text(say.importance(analysis)),
               "\n".join(f"- {markdown_text(axis.name)}: {markdown_text(say.axis(analysis, axis))}"
                         for axis in analysis.axes),
               "## Where to search next",
               "\n".join(f"- {markdown_text(advice)}" for advice in next_search(analysis)),
               "## What it cost", markdown_text(say.time(analysis)), markdown_text(say.hours(analysis)),
               markdown_text(say.memory(analysis)), markdown_text(say.predicted(analysis)),
               markdown_text(say.rungs(analysis))]
    for title, text in recipes(analysis):
        blocks += [f"## {title}", f"```yaml\n{text}```"]
    blocks += ["## How this was run", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in analysis.how)]
    blocks += ["## What its confirmation decided", lead.summary.split("\n", 1)[1].strip().replace("## ", "### ")] \
        if lead else []
    blocks += ["## Pictures", drawn] if pictures else []
    return "\n\n".join(block for block in blocks if block) + "\n"


def markdown_text(text: str) -> str:
    """Escape what Markdown or HTML would take for markup; names with underscores stay as they are."""
    escaped = html.escape(text, quote=False)
    for mark in ("\\", "`", "*", "[", "]", "|", "$"):
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


def csv_cell(value: Any) -> Any:
    """Return a value as `trials.csv` holds it: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _ranking(analysis: Analysis) -> str:
    names = [axis.name for axis in analysis.axes]
    rows = [["trial", analysis.metric, *names, "time"]]
    rows += [[_named(row.id, one), analysis.text(one.mean), *(setting_text(row.params, name) for name in names),
              seconds_text(row.seconds)]
             for row, one in zip(analysis.places[:_MOST_ROWS], analysis.first.places, strict=False)]
    if len(rows) == 1:
        return "No trial is complete."
    lines = ["| " + " | ".join(markdown_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _named(trial: str, one: Configuration) -> str:
    return trial if one.runs == 1 else f"{trial} ({one.made_of})"


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
