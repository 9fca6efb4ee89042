"""The pictures of a study of the lab: every loss by value and seed, and each value's gain with its interval."""

import itertools
from pathlib import Path

from kaggle_runner.files import make_directory
from kaggle_runner.lab.contest import Contest
from kaggle_runner.lab.decision import Comparison, Decision, same
from kaggle_runner.lab.plan import Stage
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.costs import cost_figures
from kaggle_runner.report.figures import Figure, axis_layout, text, trial_figures
from kaggle_runner.report.png import draw_figures
from kaggle_runner.report.scale import level
from kaggle_runner.report.style import BASELINE, BEST, LOOKS, SERIES
from kaggle_runner.report.write import write_report
from kaggle_runner.study.journal import Snapshot, confirm_directory, read_study
from kaggle_runner.study.table import format_value

ALSO_DRAWN = ("curves", "time")
"""Figures of every report that say something of a study of the lab. Those of a search would mislead: best so far has
no meaning where every value is run to its end, and importance knows nothing of seeds, so it calls chance what the
paired decision does not."""


def present_stage(stage: Stage) -> None:
    """Draw what belongs into the folder of a stage that is done, by the same code as every report.

    Raises:
        StudyError: the folder cannot be written.
    """
    if stage.decision is None:
        return
    if stage.study is not None:
        write_contest_plots(stage.study, read_study(stage.folder), stage.decision, stage.folder / "plots")
    elif stage.contest is not None:
        write_report([stage.folder])
        confirmed = read_study(confirm_directory(stage.folder))
        write_contest_plots(stage.contest, confirmed, stage.decision, stage.folder / "plots")


def write_contest_plots(contest: Contest, snapshot: Snapshot, decision: Decision, directory: Path) -> list[Path]:
    """Write two plots about the values and seeds of a study, and those of every report that fit it; return their paths.

    Raises:
        StudyError: the folder cannot be written.
    """
    make_directory(directory)
    analysis = analyse(snapshot)
    also = [figure for figure in (*trial_figures(analysis), *cost_figures(analysis)) if figure.key in ALSO_DRAWN]
    return draw_figures([losses_figure(contest, snapshot, decision), gains_figure(contest, decision), *also], directory)


def losses_figure(contest: Contest, snapshot: Snapshot, decision: Decision) -> Figure:
    """Return every loss over the values, one line for each seed: lines that run alike are pairs worth comparing."""
    names = [format_value(value) for value in contest.values]
    lines: dict[int, dict[str, float]] = {}
    for record in snapshot.finished:
        if record.result is not None and record.result.metric is not None and record.result.status == "complete":
            name = format_value(contest.value_of(record.trial))
            lines.setdefault(record.trial.params["seed"], {})[name] = record.result.metric
    traces, colors = [], [color for color in SERIES if color != BEST]
    for (seed, losses), color in zip(sorted(lines.items()), itertools.cycle(colors), strict=False):
        there = [name for name in names if name in losses]
        traces.append({"type": "scatter", "mode": "lines+markers", "name": f"seed {seed}", "x": there,
                       "y": [losses[name] for name in there], "line": {"color": color, "width": 1.5},
                       "marker": {"color": color, "size": 7}})
    means = [(format_value(row.value), row.mean) for row in decision.comparisons if row.mean is not None]
    traces.append({"type": "scatter", "mode": "markers", "name": "mean", "x": [name for name, _ in means],
                   "y": [mean for _, mean in means], "marker": {"color": BEST, "size": 13, "symbol": "star"}})
    return Figure(key="by_value", title=f"{snapshot.info.metric} by {_studied(contest)}", sentence=decision.reason,
                  traces=tuple(traces), layout={"xaxis": axis_layout(_studied(contest), type="category"),
                                                "yaxis": axis_layout(snapshot.info.metric)})


def gains_figure(contest: Contest, decision: Decision) -> Figure:
    """Return each value's gain over the default with its 95 % interval."""
    rows = [row for row in decision.comparisons if row.gain is not None]
    traces = [_default_mark(contest) if same(row.value, contest.default) else _interval(row)
              for row in decision.comparisons if row in rows or same(row.value, contest.default)]
    won = [row for row in rows if same(row.value, decision.winner)]
    for chosen, color, name in (([row for row in rows if row not in won], LOOKS["complete"].color, "gain"),
                                (won, BEST, "adopted")):
        if chosen:
            traces.append({"type": "scatter", "mode": "markers", "name": name, "y": [row.gain for row in chosen],
                           "x": [format_value(row.value) for row in chosen], "marker": {"color": color, "size": 10}})
    line = level(0.0, text(f"the default, {format_value(contest.default)}"))
    return Figure(key="gains", title="Gain over the default, with 95 % intervals", sentence=decision.reason,
                  traces=tuple(traces), layout={"xaxis": axis_layout(_studied(contest), type="category"),
                                                "yaxis": axis_layout("gain in eval/loss"), "shapes": [line]})


def _default_mark(contest: Contest) -> dict[str, object]:
    """Keep the default's place among the values: its gain over itself is nothing."""
    return {"type": "scatter", "mode": "markers", "name": "default", "x": [format_value(contest.default)], "y": [0.0],
            "marker": {"color": BASELINE, "size": 10}}


def _interval(row: Comparison) -> dict[str, object]:
    """Return the interval of a gain; a point where there is none, as with one seed."""
    gain, half = row.gain or 0.0, row.half_width or 0.0
    name = format_value(row.value)
    return {"type": "scatter", "mode": "lines", "name": "95 % interval", "x": [name, name],
            "y": [gain - half, gain + half], "line": {"color": BASELINE, "width": 3}}


def _studied(contest: Contest) -> str:
    return contest.varied[0] if len(contest.varied) == 1 else "setting"
