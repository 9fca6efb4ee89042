"""The report as one HTML page that needs nothing else: plotly.js, style, script and data are in it.

A content security policy forbids it every request, so it cannot begin to depend on a network.
"""

import base64
import gzip
import html
import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from kaggle_runner.metrics import Metric, format_metric
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Analysis, Row, labels
from kaggle_runner.report.costs import cost_figures
from kaggle_runner.report.figures import Figure, marked, short, trial_figures
from kaggle_runner.report.lead import Lead, Overview
from kaggle_runner.report.maps import by_importance, map_figures
from kaggle_runner.report.recipes import next_search, recipes
from kaggle_runner.report.style import (
    count_text,
    number_text,
    percent_text,
    seconds_text,
    shortened,
    value_text,
)
from kaggle_runner.study.axes import is_number

_POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
           "font-src data:")
_MIB = 2**20
_MOST_SETTINGS, _CHIP_LETTERS = 12, 60
_LONG_CELL = 40
"""Letters from which on a cell of a table is broken into lines."""
_ANSWER_LETTERS = 400
"""What is shown of a long question or answer."""
_GLOSS = (
    ("configuration", "The trials that differ in nothing but the seed; its value is their mean."),
    ("noise", "How far one trial scatters if it is trained again with another seed, as a standard deviation."),
    ("what is chosen so", "Each further seed judged the one that the others would choose, mostly the winner: so the "
                          "next seed may be expected to say, where the winner's own mean is too good on average."),
    ("share first place", "Chance alone may have put them behind the best: the best of many is the luckiest of many."),
    ("stands out", "Shuffled values explain as much in fewer than 6 of 100 shuffles, over all hyperparameters."),
    ("variance explained", "The part of the differences between trials that goes with one hyperparameter."),
    ("pruned", "Stopped early, at a rung, because others were better at that step."),
    ("rung", "A step at which trials are compared and the worse ones stopped."),
    ("infeasible", "Not run: its predicted memory is over what the machine has."),
    ("preempted", "Cut off by the end of a session; it goes on in the next."),
    ("out", "Given to agents of W&B, which go on with it; its search takes its end in."),
    ("stopped", "Begun, and cut off without a word; the next start of the study goes on with it."),
    ("untouched base", "The model before any training, measured on the same evaluation rows."))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one study, or the comparison of several, adds to the page."""

    place: str
    markup: str
    data: dict[str, Any]


def page(analyses: Sequence[Analysis], *, reload_s: int | None = None, leads: Sequence[Lead | None] = (),
         overview: Overview | None = None) -> str:
    """Return the page of one or more studies as HTML.

    With `reload_s` the page loads itself again after so many seconds, unless trials are chosen in it. `leads` holds
    what is said first of each study; an `overview` stands before them, in the place of a comparison.
    """
    several = len(analyses) > 1 or overview is not None
    heading = "h2" if several else "h1"
    parts = [_study(analysis, f"study-{i}", name, lead, heading=heading) for i, (analysis, name, lead) in enumerate(
        zip(analyses, labels(analyses), leads or [None] * len(analyses), strict=True), start=1)]
    if overview is not None:
        parts.insert(0, _plan(overview, analyses, [part.place for part in parts]))
    elif several:
        parts.insert(0, _comparison(analyses, [part.place for part in parts]))
    title = overview.title if overview else f"{len(analyses)} studies" if several else analyses[0].name
    data = json.dumps({"studies": [part.data for part in parts]}, separators=(",", ":"), allow_nan=False, default=str)
    resources = files("kaggle_runner.report")
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{resources.joinpath('page.css').read_text(encoding='utf-8')}</style>",
        "</head>", f'<body data-reload="{reload_s or ""}">', "<main>",
        "<noscript><p class=warning>The figures and the table of trials need JavaScript; summary.md beside this page "
        "does not.</p></noscript>",
        '<p class="warning old" hidden>This browser cannot unpack the figures; one of 2023 or later can. The pictures '
        "and summary.md beside this page show the same.</p>",
        *(part.markup for part in parts),
        _words(),  # once for all studies
        "<footer>Hover over a mark to see its trial; click it, or a row of the table, to see it everywhere; "
        "double-click a figure to see all of it. With the keyboard: Tab to a figure, arrow keys go over its marks, "
        "Enter chooses, Escape lets go.</footer>",
        "</main>",
        '<div class="said" aria-live="polite"></div>',
        '<div class="bar" hidden><span></span><button type="button">show all trials</button></div>',
        # A tag inside a name could end the element; JSON may write it as an escape.
        '<script type="application/json" id="report-data">' + data.replace("<", "\\u003c") + "</script>",
        f'<script type="text/plain" id="plotly">{_packed(get_plotlyjs())}</script>',
        f"<script>{resources.joinpath('page.js').read_text(encoding='utf-8')}</script>",
        "</body>", "</html>", ""])


def _packed(script: str) -> str:
    """Return a script compressed, as text: a third of its size; the browser unpacks it (since 2023 every one does)."""
    return base64.b64encode(gzip.compress(script.encode(), compresslevel=6, mtime=0)).decode()


def page_figures(analysis: Analysis, lead: Lead | None) -> list[Figure]:
    """Return all figures of a study's page, in its order."""
    own = list(lead.figures) if lead else []
    if lead is not None and lead.is_all:
        return [*own, *(figure for figure in cost_figures(analysis) if figure.key not in ("hours", "rungs"))]
    return [*own, *trial_figures(analysis), *map_figures(analysis), *cost_figures(analysis)]


def _study(analysis: Analysis, place: str, name: str, lead: Lead | None, *, heading: str) -> _Part:
    figures = page_figures(analysis, lead)
    decided = _decided(place, lead) if lead else []
    cost = [figure for figure in figures if figure.key in {one.key for one in cost_figures(analysis)}]
    blocks = [
        f'<section id="{place}">', f"<{heading}>{html.escape(name)}</{heading}>", _meta(analysis), *decided,
        *(["<h3>What the search found</h3>"] if lead and not lead.is_all else []), *(
            [] if lead and lead.is_all else _searched(analysis, place)),
        "<h3>What it cost</h3>", _cards(place, cost) or _paragraph("No trial has used any time yet.", "sentence"),
        "<h3>Every trial</h3>", '<div class="filters"></div>',
        '<div class="compare" aria-live="polite"></div>',
        '<div class="table broad"><table class="trials"><caption><span>A column name sorts, a row chooses, '
        "Escape lets go</span></caption><thead><tr></tr></thead><tbody></tbody></table></div>",
        "<h3>How this was run</h3>", _terms(analysis.how), "</section>"]
    best = next((i for i, row in enumerate(analysis.rows) if row is marked(analysis)), None)
    data = {"place": place, "figures": [_figure_data(place, figure) for figure in figures],
            "columns": trial_columns(analysis), "best": best}
    return _Part(place=place, markup="\n".join(block for block in blocks if block), data=data)


def _searched(analysis: Analysis, place: str) -> list[str]:
    """Return what one asks of a search: what is best, what mattered, where to search next."""
    mattered_text = "" if analysis.shares else _paragraph(say.importance(analysis), "sentence")
    return [
        _paragraph(say.winner(analysis), "answer"), _paragraph(say.noise(analysis), ""),
        _paragraph(say.agreement(analysis), ""), _facts(_numbers(analysis)),
        _settings(analysis), *_warnings(analysis),
        "<h3>What is best, and by how much</h3>", _cards(place, trial_figures(analysis)), _repeats(analysis),
        *_answers(analysis), "<h3>What mattered</h3>", mattered_text, _cards(place, map_figures(analysis)),
        "<h3>Where to search next</h3>",
        "<ul>" + "".join(f"<li>{html.escape(advice)}</li>" for advice in next_search(analysis)) + "</ul>",
        *(_recipe(title, text) for title, text in recipes(analysis))]


def _answers(analysis: Analysis) -> list[str]:
    """Return what the best trials write to the same rows, if that was kept."""
    if not analysis.asked:
        return []
    rows = [[("asked", _tail(row.prompt)), ("the row answers", shortened(row.expected, _ANSWER_LETTERS)),
             *([("untouched base", row.base.strip())] if row.base is not None else []),
             *((f"trial {trial}", answer.strip()) for trial, answer in row.answers)] for row in analysis.asked]
    return ["<h3>What the best write</h3>", _paragraph(
        "The first held-out rows, answered by the most likely token each time and cut after a few: the row's own "
        "answer, the untouched base's, and the best trials', the best one first.", "sentence"),
        *(_terms(row, "how asked") for row in rows)]


def _tail(prompt: str) -> str:
    """Return the end of a question, which says what is asked."""
    text = " ".join(prompt.split())
    return text if len(text) <= _ANSWER_LETTERS else f"… {text[-_ANSWER_LETTERS:]}"


def _decided(place: str, lead: Lead) -> list[str]:
    """Return what a study of the lab decided, with its table of errors."""
    return [_paragraph(lead.answer, "answer"), *(_paragraph(text, "") for text in lead.sentences), _facts(lead.facts),
            *(_paragraph(text, "warning") for text in lead.warnings), f"<h3>{html.escape(lead.title)}</h3>",
            *(_table(header, rows) for header, *rows in lead.tables), _cards(place, lead.figures)]


def _plan(overview: Overview, analyses: Sequence[Analysis], places: Sequence[str]) -> _Part:
    header, *rows = overview.table
    markup = "\n".join([f'<section id="plan"><h1>{html.escape(overview.title)}</h1>', _links(analyses, places),
                        _paragraph(overview.answer, "answer"), _table(header, rows), "</section>"])
    return _Part(place="plan", markup=markup, data={"place": "plan", "figures": [], "columns": [], "best": None})


def trial_columns(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the table of trials by column: name, unit, whether it is numbers, and one cell for each row."""
    rows = analysis.rows
    columns = [_column("trial", [row.id for row in rows]), _column("status", [row.status for row in rows]),
               _metric_column(analysis.metric, [row.value for row in rows], analysis.text)]
    if analysis.first.has_means:
        columns.append(_metric_column("mean over seeds", [row.compared_by for row in rows], analysis.text))
    columns += [_metric_column(other.short, [row.metrics.get(other.name) for row in rows],
                               partial(format_metric, other.name)) for other in analysis.others]
    columns += [_column(axis.name, [_setting(row, axis.name) for row in rows]) for axis in analysis.axes]
    if len({row.params.get("seed") for row in rows}) > 1:
        columns.append(_column("seed", [_setting(row, "seed") for row in rows]))
    columns += [
        _column("steps", [row.steps or None for row in rows]),
        _column("time", [round(row.seconds, 1) or None for row in rows], unit="s"),
        _column("peak", [round(row.peak_bytes / _MIB) if row.peak_bytes else None for row in rows], unit="MiB"),
        _column("origin", [row.origin for row in rows]), _column("reason", [row.reason for row in rows])]
    return [column for column in columns if any(cell not in (None, "") for cell in column["cells"])]


def _column(name: str, cells: list[Any], unit: str = "") -> dict[str, Any]:
    filled = [cell for cell in cells if cell is not None]
    return {"name": name, "unit": unit, "numeric": bool(filled) and all(is_number(cell) for cell in filled),
            "cells": [float(f"{cell:.6g}") if isinstance(cell, float) else cell for cell in cells]}


def _metric_column(name: str, cells: list[float | None], write: Callable[[float], str]) -> dict[str, Any]:
    """Return a column of values of a metric, which are sorted as numbers and shown as everywhere."""
    return _column(name, cells) | {"cells": short(cells), "texts": [cell if cell is None else write(cell)
                                                                    for cell in cells]}


def _setting(row: Row, name: str) -> Any:
    """Return a trial's value as a cell; none where it has none, which is not the value null."""
    value = row.params.get(name)
    return (value if is_number(value) else value_text(value)) if name in row.params else None


def _comparison(analyses: Sequence[Analysis], places: Sequence[str]) -> _Part:
    from kaggle_runner.report.compare import comparison_figures, comparison_rows, comparison_sentence  # stays at home

    figures = comparison_figures(analyses)
    header, *rows = comparison_rows(analyses)
    markup = "\n".join([
        '<section id="comparison">', f"<h1>{len(analyses)} studies side by side</h1>", _links(analyses, places),
        _paragraph(comparison_sentence(analyses), "answer"), _table(header, rows), _cards("comparison", figures),
        "</section>"])
    data = {"place": "comparison", "figures": [_figure_data("comparison", figure) for figure in figures],
            "columns": [], "best": None}
    return _Part(place="comparison", markup=markup, data=data)


def _links(analyses: Sequence[Analysis], places: Sequence[str]) -> str:
    links = "".join(f'<a href="#{place}">{html.escape(label)}</a>'
                    for place, label in zip(places, labels(analyses), strict=True))
    return f"<nav>{links}</nav>"


def _cards(place: str, figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    grids = []
    for (fold, *_), alike in itertools.groupby(
            figures, key=lambda figure: (figure.fold, figure.is_small, figure.is_half)):
        cards = [
            f'<figure class="card {size}"><figcaption><h4>{html.escape(figure.title)}</h4>'
            f'<p class="sentence">{html.escape(figure.sentence)}</p>{_beyond(figure)}</figcaption>'
            f'<div class="plot" id="{_plot_id(place, figure)}" role="img" style="height:{figure.height}px" '
            f'aria-label="{html.escape(f"{figure.title}. {figure.sentence}")}"></div></figure>'
            for figure, size in _sized(list(alike))]
        grid = '<div class="figures">' + "\n".join(cards) + "</div>"
        line = f"<summary>{len(cards)} {fold}</summary>"
        grids.append(f'<details class="folded">{line}{grid}</details>' if fold else grid)
    return "\n".join(grids)


def _beyond(figure: Figure) -> str:
    """Say what is off a figure's scale, each in a piece: inside the plot the words would hide marks."""
    pieces = " ".join(f"<span>{html.escape(words)}</span>" for words in figure.beyond)
    return f'<p class="beyond">{pieces}</p>' if pieces else ""


def _sized(figures: Sequence[Figure]) -> list[tuple[Figure, str]]:
    """Give each of a run of figures of one size its width, so that the rows are full: three small ones, or two."""
    count = len(figures)
    if not figures[0].is_small:
        return [(figure, "half" if figure.is_half else "whole") for figure in figures]
    thirds = count - (count % 3 and (4 if count % 3 == 1 and count > 3 else count % 3))
    return [(figure, "small" if i < thirds else "half") for i, figure in enumerate(figures)]


def _plot_id(place: str, figure: Figure) -> str:
    """Make an id of a figure's key, which may hold the name of a hyperparameter, and so anything."""
    return place + "-" + "".join(char if char.isalnum() else f"_{ord(char):x}_" for char in figure.key)


def _figure_data(place: str, figure: Figure) -> dict[str, Any]:
    return {"place": _plot_id(place, figure), "traces": figure.traces, "layout": figure.layout, "height": figure.height,
            "turns": figure.turns}


def _meta(analysis: Analysis) -> str:
    goal = "lower" if analysis.goal == "minimize" else "higher"
    state = f", {analysis.unfinished} when this page was made" if analysis.unfinished else ""
    if analysis.apart:
        state += f", without {analysis.apart:,} that read other data than most, so that their losses do not compare"
    return _paragraph(f"{count_text(len(analysis.rows), 'trial')}{state}, compared by {analysis.metric} "
                      f"({goal} is better). {analysis.directory}", "meta")


def _numbers(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return the numbers that stand large: name, value and note of each."""
    base, ranked = analysis.baseline, analysis.first.ranked
    value = ranked[0].mean if ranked else None
    facts = [(f"best {analysis.metric}", analysis.text(value),
              say.configuration_text(ranked[0], analysis.first.expected is None) + say.seed_text(analysis)
              if marked(analysis) else "")]
    if base is not None:
        change = ("" if value is None else "the best has the same" if value == base else
                  f"the best is {percent_text(abs(value / base - 1))} {'below' if value < base else 'above'}" if base
                  else "")
        facts.append(("untouched base", analysis.text(base), change))
    beside = Metric(name=analysis.metric, goal=analysis.goal).beside
    facts += [(other.short.replace("_", " "), format_metric(other.name, other.winner),
               "" if other.base is None else f"the untouched base has {format_metric(other.name, other.base)}")
              for other in analysis.others if other.name == beside]
    known = analysis.noise
    facts.append(("noise of one trial", f"± {number_text(known.deviation, 2)}" if known else "not known",
                  f"at most {number_text(known.upper, 2)}" if known else ""))
    if len(analysis.first.ranked) > 1:
        facts.append(("share first place", f"{len(analysis.first.shared):,}" if known or analysis.first.is_level
                      else "not known", f"of {count_text(len(analysis.first.ranked), 'configuration')}"))
    ended = Counter(row.status for row in analysis.rows if row.status != "complete")
    facts.append(("complete trials", f"{len(analysis.complete):,} of {len(analysis.rows):,}",
                  ", ".join(f"{count:,} {status}" for status, count in ended.most_common())))
    spent = [row.seconds for row in analysis.rows if row.seconds]
    facts.append((f"{analysis.device} time", seconds_text(sum(spent)),
                  f"{seconds_text(statistics.median(spent))} a trial" if spent else ""))
    return facts


def _facts(facts: Sequence[tuple[str, str, str]]) -> str:
    cells = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd><dd class=note>{html.escape(note)}"
                    f"</dd></div>" for name, value, note in facts)
    return f'<dl class="facts">{cells}</dl>' if facts else ""


def _settings(analysis: Analysis) -> str:
    if analysis.best is None:
        return ""
    place = {axis.name: i for i, axis in enumerate(by_importance(analysis))}
    chosen = sorted(say.chosen(analysis, analysis.best, _CHIP_LETTERS), key=lambda pair: place[pair[0]])
    items = "".join(f"<li>{html.escape(name)} <b>{html.escape(value)}</b></li>"
                    for name, value in chosen[:_MOST_SETTINGS])
    items += f"<li>and {len(chosen) - _MOST_SETTINGS} more, below</li>" if len(chosen) > _MOST_SETTINGS else ""
    return f'<ul class="settings" aria-label="hyperparameters of the best trial">{items}</ul>' if items else ""


def _warnings(analysis: Analysis) -> list[str]:
    return [_paragraph(f"The best {found.name}, {value_text(found.value)}, is at the {found.side} end of its range "
                       f"({value_text(found.limit)}): a better one may lie outside.", "warning")
            for found in say.pressing(analysis)]


def _recipe(title: str, text: str) -> str:
    return (f'<details class="recipe"><summary>{title}, as YAML</summary><button type="button" class="copy">copy'
            f"</button><pre>{html.escape(text)}</pre></details>")


_OPTION, _WHOLE = re.compile(r"(?<!\S)--?[a-z][\w-]*"), r'<span class="option">\g<0></span>'
"""An option of a command, which a browser would break behind its hyphens."""


def _terms(terms: Sequence[tuple[str, str]], kind: str = "how") -> str:
    """Return names with their texts beside them, or below them on a phone."""
    rows = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{_OPTION.sub(_WHOLE, html.escape(text))}</dd></div>"
                   for name, text in terms)
    return f'<dl class="{kind}">{rows}</dl>' if rows else ""


def _words() -> str:
    return f'<details class="folded"><summary>What the words mean</summary>{_terms(_GLOSS)}</details>'


def _repeats(analysis: Analysis) -> str:
    if not analysis.repeats:
        return ""
    rows = [[", ".join(repeat.names), str(repeat.seeds), analysis.text(repeat.mean),
             f"± {number_text(repeat.half_width, 2)}", number_text(repeat.deviation, 2)] for repeat in analysis.repeats]
    header = ["trials", "seeds", f"mean {analysis.metric}", "95 % interval", "standard deviation"]
    return ("<h4>Configurations trained with several seeds</h4>" + _paragraph(say.repeats(analysis), "sentence")
            + _table(header, rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td{' class=long' if len(cell) > _LONG_CELL else ''}>{html.escape(cell)}</td>"
                                    for cell in row) + "</tr>" for row in rows)
    return f'<div class="table plain"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _paragraph(sentence: str, kind: str) -> str:
    return f'<p class="{kind}">{html.escape(sentence)}</p>' if sentence else ""
