"""Several studies side by side: their best values, and how fast each found them."""

from collections.abc import Sequence
from typing import Any

from kaggle_runner.report.analysis.analysis import Analysis, labels
from kaggle_runner.report.analysis.first_place import between
from kaggle_runner.report.figures import Figure, axis_layout, hour_unit, short, text
from kaggle_runner.report.sentences import settings
from kaggle_runner.report.style import (
    LEGEND,
    SERIES,
    count_text,
    names_text,
    number_text,
    percent_text,
    seconds_text,
    short_names,
    value_text,
    visible_range,
)
from kaggle_runner.study.scoring import differing, scoring_of

_DASHES = ("solid", "dash", "dot", "dashdot")


def comparison_sentence(analyses: Sequence[Analysis]) -> str:
    """Say which study found the best value, or that they measure different things."""
    metrics = sorted({analysis.metric for analysis in analyses})
    if len(metrics) > 1 or len({analysis.goal for analysis in analyses}) > 1:
        return f"The studies measure different things ({names_text(metrics)}), so their values cannot be compared."
    if unlike := _unlike(analyses):
        return (f"The studies were scored on different held-out tokens (they differ in {names_text(unlike)}), so their "
                f"values cannot be compared.")
    name = dict(zip(map(id, analyses), labels(analyses), strict=True))
    won = [analysis for analysis in analyses if analysis.best and analysis.best.value is not None]
    if not won:
        return f"None of {count_text(len(analyses), 'study').replace('studys', 'studies')} has a complete trial."
    sign = -1.0 if won[0].goal == "maximize" else 1.0
    ranked = sorted(won, key=lambda analysis: sign * _best(analysis))
    sentence = f"{name[id(ranked[0])]} found the best {metrics[0]}, {ranked[0].text(_best(ranked[0]))}"
    if len(ranked) == 1:
        return f"{sentence}; no other study has a complete trial."
    alike = [name[id(analysis)] for analysis in ranked if _best(analysis) == _best(ranked[0])]
    if len(alike) > 1:
        return (f"The best {metrics[0]}, {ranked[0].text(_best(ranked[0]))}, is the same in {names_text(alike)}: none "
                f"of them is better.")
    gap = abs(_best(ranked[1]) - _best(ranked[0]))
    sentence += f", {number_text(gap, 2)} from that of {name[id(ranked[1])]}"
    distances = [analysis.first.distance for analysis in ranked[:2]]
    if None in distances:
        return f"{sentence}; whether that is more than noise is not known."
    limit = between(max(distance for distance in distances if distance is not None),
                    *(analysis.first.ranked[0].seeds for analysis in ranked[:2]))
    verdict = "more than" if gap > limit else "within"
    return f"{sentence}; that is {verdict} what chance puts between them ({number_text(limit, 2)})."


def comparison_rows(analyses: Sequence[Analysis]) -> list[list[str]]:
    """Return the table of studies, its header first."""
    rows = [["study", "metric", "best", "trial", "untouched base", "change", "noise", "complete", "trials", "time",
             "hyperparameters of the best"]]
    for name, analysis in zip(labels(analyses), analyses, strict=True):
        best, base = analysis.best, analysis.baseline
        change = percent_text((_best(analysis) - base) / abs(base)) if best and base else "–"
        rows.append([
            name, analysis.metric, analysis.text(_best(analysis) if best else None), best.id if best else "–",
            analysis.text(base), change, number_text(analysis.noise.deviation, 2) if analysis.noise else "not known",
            str(len(analysis.complete)), str(len(analysis.rows)),
            seconds_text(sum(row.seconds for row in analysis.rows)),
            ", ".join(f"{name} {value_text(value)}" for name, value in settings(analysis, best)) if best else "–"])
    return rows


def comparison_figures(analyses: Sequence[Analysis]) -> tuple[Figure, ...]:
    """Return the best value of each study by trial and by time; none if they measure different things."""
    measured = [analysis for analysis in analyses if analysis.progress]
    names = [name for name, analysis in zip(labels(analyses), analyses, strict=True) if analysis.progress]
    if len({(analysis.metric, analysis.goal) for analysis in measured}) != 1 or _unlike(measured):
        return ()
    hours = max(analysis.progress[-1].hours for analysis in measured)
    scale, unit = hour_unit(hours)
    by_trial = [[step.number for step in analysis.progress] for analysis in measured]
    by_time = [short(step.hours * scale for step in analysis.progress) for analysis in measured]
    values = [step.best for analysis in measured for step in analysis.progress]
    baselines = [analysis.baseline for analysis in measured if analysis.baseline is not None]
    low, high = visible_range([*values, *baselines], measured[0].goal)
    y_axis = axis_layout(measured[0].metric, range=short([low, high]))
    fastest = [f"{name} needed {count_text(_trials_to_best(analysis), 'trial')}"
               for name, analysis in zip(names, measured, strict=True)]
    spent = [f"{name} {seconds_text(3600 * analysis.progress[_found_at(analysis)].hours)} of "
             f"{seconds_text(3600 * analysis.progress[-1].hours)}"
             for name, analysis in zip(names, measured, strict=True)]
    return (
        Figure(key="by-trial", title="Best so far, by trial", traces=_steps(measured, names, by_trial), is_half=True,
               sentence=f"To its own best value, {names_text(fastest)}.",
               layout={"xaxis": axis_layout("trial"), "yaxis": y_axis}),
        Figure(key="by-time", title="Best so far, by time", traces=_steps(measured, names, by_time), is_half=True,
               sentence=f"Time until the best value was there: {names_text(spent)}.",
               layout={"xaxis": axis_layout(f"{unit}, all trials added up"), "yaxis": y_axis}))


def _unlike(analyses: Sequence[Analysis]) -> list[str]:
    """Name what the studies' best trials differ in that decides which tokens are scored."""
    return differing(scoring_of(analysis.best.params, analysis.metric) for analysis in analyses if analysis.best)


def _steps(analyses: Sequence[Analysis], names: Sequence[str],
           x: Sequence[Sequence[Any]]) -> tuple[dict[str, Any], ...]:
    shown = short_names(names, LEGEND)
    return tuple({
        "type": "scatter", "mode": "lines+markers", "name": text(shown[i]), "x": x[i],
        "y": short(step.best for step in analysis.progress), "marker": {"size": 5},
        "text": [f"{text(names[i])}, trial {text(step.trial_id)}" for step in analysis.progress],
        "hovertemplate": "%{text}<br>best so far %{y}<extra></extra>",
        "line": {"shape": "hv", "color": SERIES[i % len(SERIES)], "dash": _DASHES[i // len(SERIES) % 4]}}
        for i, analysis in enumerate(analyses))


def _found_at(analysis: Analysis) -> int:
    of = analysis.progress[-1].of
    return next(i for i, step in enumerate(analysis.progress) if step.trial_id == of)


def _trials_to_best(analysis: Analysis) -> int:
    found = analysis.progress[_found_at(analysis)]
    return sum(row.number <= found.number for row in analysis.rows)


def _best(analysis: Analysis) -> float:
    return analysis.first.ranked[0].mean if analysis.first.ranked else float("nan")
