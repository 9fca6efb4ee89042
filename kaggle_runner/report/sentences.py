"""What there is to see in a study, in sentences made from its numbers."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kaggle_runner.report.analysis.analysis import Analysis, Contour, Region, Row
from kaggle_runner.report.analysis.importance import MIN_TRIALS, Share
from kaggle_runner.report.analysis.surrogate import TRIALS_FOR_NOISE
from kaggle_runner.report.style import (
    bytes_text,
    count_text,
    metric_text,
    names_text,
    number_text,
    percent_text,
    seconds_text,
    value_text,
)
from kaggle_runner.study.axes import Axis, Boundary

TRIALS_TO_FIX = 20
"""Complete trials from which a hyperparameter without a visible effect is said to be not worth searching."""


def winner(analysis: Analysis) -> str:
    """Say which trial won and by how much."""
    best, metric = analysis.best, analysis.metric
    if best is None or best.value is None:
        counts = Counter(row.status for row in analysis.rows)
        became = names_text(f"{count} {status}" for status, count in counts.most_common())
        return f"No trial is complete, so nothing has won: {became}." if counts else "No trial has started yet."
    text = f"Trial {best.id} won with {metric} {metric_text(best.value)}"
    if analysis.baseline is not None:
        gain = best.value - analysis.baseline
        side = "below" if gain < 0 else "above"
        relative = f" ({percent_text(abs(gain / analysis.baseline))})" if analysis.baseline else ""
        text += f", {number_text(abs(gain), 3)}{relative} {side} the untouched base's {metric_text(analysis.baseline)}"
    if len(analysis.ranked) > 1:
        second = analysis.ranked[1]
        ahead = abs((second.value or 0.0) - best.value)
        text += f" and {number_text(ahead, 2)} ahead of trial {second.id}" if ahead else (
            f"; trial {second.id} has the same value")
    return text + "."


def ranking(analysis: Analysis) -> str:
    """Say how far the complete trials lie behind the best."""
    values = [row.value for row in analysis.ranked if row.value is not None]
    if len(values) < 2:
        return "There are no two complete trials to compare."
    behind = [abs(value - values[0]) for value in values]
    middle = number_text(statistics.median(behind), 2)
    return (f"Half of {count_text(len(behind), 'complete trial')} lie within {middle} of the best; "
            f"the worst is {number_text(behind[-1], 2)} behind.")


def noise(analysis: Analysis) -> str:
    """Say how noisy a trial is, from where that is known, and which trials are as good as the best."""
    if analysis.best is None:
        return ""
    if analysis.noise is None:
        return (f"Whether that is more than noise is not known: no configuration was trained with a second seed, and "
                f"{count_text(len(analysis.complete), 'complete trial')} cannot give an estimate "
                f"({TRIALS_FOR_NOISE} that differ are the least).")
    known, limit = analysis.noise, analysis.noise.least_difference
    text = (f"One trial's {analysis.metric} scatters by {number_text(known.deviation, 2)} (standard deviation, from "
            f"{known.source}), so two trials closer than {number_text(limit, 2)} cannot be told apart")
    if not analysis.ties:
        return text + (": no other trial is that close to the best." if len(analysis.complete) > 1 else ".")
    verb = "is" if len(analysis.ties) == 1 else "are"
    return f"{text}: {_trials(analysis.ties)} {verb} as good as the best."


def repeats(analysis: Analysis) -> str:
    """Say which configuration is best on average over its seeds; empty where none has several."""
    if not analysis.repeats:
        return ""
    sign = -1.0 if analysis.goal == "maximize" else 1.0
    first, *others = sorted(analysis.repeats, key=lambda repeat: sign * repeat.mean)
    text = (f"Best on average over seeds: {names_text(first.trial_ids)}, mean {metric_text(first.mean)} ± "
            f"{number_text(first.half_width, 2)} (95 % interval)")
    if others:
        text += f"; the next is {number_text(abs(others[0].mean - first.mean), 2)} behind"
    return text + "."


def progress(analysis: Analysis) -> str:
    """Say when the best was found, and how many trials have not bettered it since."""
    ended = [row for row in analysis.rows if row.status != "running"]
    if analysis.best is None or not ended:
        return "There is no best value yet."
    place = next(i for i, row in enumerate(ended) if row.id == analysis.best.id)
    after = len(ended) - 1 - place
    since = "it was the last one to end" if not after else (
        f"the {count_text(after, 'trial')} after it found nothing better")
    return f"The best value came with trial number {place + 1} of {len(ended)}; {since}."


def hours(analysis: Analysis) -> str:
    """Say after what part of the time the best was there."""
    if not analysis.progress or not analysis.progress[-1].hours:
        return "There is no best value yet."
    total, final = analysis.progress[-1].hours, analysis.progress[-1].best
    found = next(step.hours for step in analysis.progress if step.best == final)
    return (f"The best value was there after {seconds_text(found * 3600)} of {seconds_text(total * 3600)} of "
            f"{analysis.device} time ({percent_text(found / total)}).")


def curves(analysis: Analysis) -> str:
    """Say how many trials ran to their end, and how early the winner showed."""
    drawn = [curve for curve in analysis.curves if curve.steps]
    if not drawn:
        return f"No trial has measured {analysis.metric} yet."
    counts = Counter(curve.status for curve in drawn)
    whole = count_text(counts["complete"], "trial")
    text = f"{whole} trained to {'its' if whole == '1 trial' else 'their'} end"
    others = names_text(f"{n} {word}" for word, n in counts.most_common() if word != "complete")
    text += "." if others == "none" else f"; {others}."
    best = next((curve for curve in drawn if analysis.best and curve.trial_id == analysis.best.id), None)
    if best is None or len(best.steps) < 2 or len(drawn) < 3:
        return text
    early = best.steps[len(best.steps) // 3]
    sign = -1.0 if analysis.goal == "maximize" else 1.0
    then = {curve.trial_id: sign * value for curve in drawn if (value := curve.at(early)) is not None}
    rank = 1 + sum(value < then[best.trial_id] for value in then.values())
    return (f"{text} The winner, trial {best.trial_id}, was number {rank} of {len(then)} at step {early:,} of "
            f"{best.steps[-1]:,}.")


def importance(analysis: Analysis) -> str:
    """Say which hyperparameters mattered and which cannot be told from chance."""
    if analysis.shares_problem:
        return analysis.shares_problem[0].upper() + analysis.shares_problem[1:] + "."
    clear = [share for share in analysis.shares if share.resolvable]
    unclear = [share.name for share in analysis.shares if not share.resolvable]
    count = count_text(len(analysis.complete), "complete trial")
    texts = [f"{share.name} explains {_whole(share.share)} of the variance (90 % interval {_whole(share.low)} to "
             f"{_whole(min(1.0, share.high))})" for share in clear]
    text = f"From {count}: {names_text(texts)}." if clear else (
        f"From {count}, no hyperparameter stands out from chance: every interval reaches down to what shuffled values "
        f"explain (the red marks).")
    if clear and unclear:
        text += f" Not resolvable, because the interval reaches into what chance explains: {names_text(unclear, 8)}."
    return text


def axis(analysis: Analysis, one: Axis) -> str:
    """Say where the good values of one hyperparameter lie, and whether the best is at the end of its range."""
    region = next((region for region in analysis.regions if region.name == one.name), None)
    count = len(analysis.complete)
    if region is not None:
        text = f"The best {region.count} of {count_text(count, 'complete trial')} {region_text(region)}"
    elif analysis.best is not None:
        text = f"The best of {count_text(count, 'complete trial')} has {value_text(analysis.best.params.get(one.name))}"
    else:
        text = "No complete trial"
    limit = next((found for found in analysis.boundaries if found.name == one.name), None)
    if limit is not None:
        text += f"; the best value, {value_text(limit.value)}, is at the {limit.side} end of the range"
    share = next((share for share in analysis.shares if share.name == one.name), None)
    return f"{text}{'' if share is None or share.resolvable else '; its effect is not resolvable'}."


def contour(analysis: Analysis, one: Contour) -> str:
    """Say where the surrogate expects the best value, and where the best trial lies."""
    expected, row, column = _peak(analysis, one)
    at = (f"{one.x.name} {_about(one.x.value(one.x_positions[column]))} and "
          f"{one.y.name} {_about(one.y.value(one.y_positions[row]))}")
    best = analysis.best
    own = f"{value_text(best.params.get(one.x.name))} and {value_text(best.params.get(one.y.name))}" if best else "none"
    return (f"With the other hyperparameters as in the best trial, the fitted surface is best at {at} "
            f"({metric_text(expected)}); the best trial has {own}.")


def _peak(analysis: Analysis, one: Contour) -> tuple[float, int, int]:
    """Return the best value of a fitted surface, with its row and its column."""
    choose = max if analysis.goal == "maximize" else min
    return choose((value, y, x) for y, line in enumerate(one.values) for x, value in enumerate(line))


def parallel(analysis: Analysis) -> str:
    """Say what the good trials share."""
    resolvable = {share.name for share in analysis.shares if share.resolvable}
    regions = [region for region in analysis.regions if region.name in resolvable]
    shared = [f"in {region.name} they {region_text(region)}" for region in regions]
    if not shared:
        why = "no hyperparameter is resolvable" if not resolvable else "they are few"
        return (f"Each line is one of {count_text(len(analysis.complete), 'complete trial')}, the better the bluer; "
                f"{why}, so a pattern in the lines may be chance.")
    return f"What the best {regions[0].count} trials have in common: {names_text(shared)}."


def next_search(analysis: Analysis) -> tuple[str, ...]:
    """Say where to search next, one advice each, from boundaries, regions, importance and noise."""
    by_name: dict[str, Share] = {share.name: share for share in analysis.shares}
    unclear = {share.name for share in analysis.shares if not share.resolvable}
    advice = [f"Widen {found.name}: the best value {value_text(found.value)} is at the {found.side} end of its range; "
              f"try {value_text(found.suggestion)} as the new end"
              + (", though its effect cannot be told from chance yet." if found.name in unclear else ".")
              for found in pressing(analysis) if len(analysis.complete) >= MIN_TRIALS]
    bounded = {found.name for found in analysis.boundaries}
    for region in analysis.regions:
        share = by_name.get(region.name)
        if share is not None and share.resolvable and region.name not in bounded:
            advice.append(f"Narrow {region.name}: the best {region.count} trials {region_text(region)}.")
    if len(analysis.complete) >= TRIALS_TO_FIX and any(share.resolvable for share in analysis.shares):
        idle = [share.name for share in analysis.shares if not share.resolvable]
        if idle:
            advice.append(f"Fix {names_text(idle, 8)}: no effect can be seen, and every one of them makes the search "
                          f"longer.")
    if analysis.best is not None and analysis.noise is None:
        advice.append(f"Train trial {analysis.best.id} again with two more seeds: without them no difference between "
                      f"trials is known to be real.")
    elif analysis.best is not None and analysis.ties:
        rivals = [analysis.best.id, *analysis.ties[:2]]
        advice.append(f"Confirm {_trials(rivals)} with two more seeds each before calling one the winner.")
    hope = _hope(analysis)
    if hope:
        advice.append(hope)
    if not advice:
        advice.append("Run more trials: there is nothing yet that these could say about where to search.")
    return tuple(advice)


def _hope(analysis: Analysis) -> str:
    """Say whether the fitted surfaces promise more than noise over the best; empty if that cannot be said."""
    if not analysis.contours or analysis.best is None or analysis.best.value is None or analysis.noise is None:
        return ""
    sign = 1.0 if analysis.goal == "maximize" else -1.0
    one = max(analysis.contours, key=lambda contour: sign * _peak(analysis, contour)[0])
    expected, row, column = _peak(analysis, one)
    gain = sign * (expected - analysis.best.value)
    if gain > analysis.noise.deviation:
        return (f"Try {one.x.name} {_about(one.x.value(one.x_positions[column]))} with {one.y.name} "
                f"{_about(one.y.value(one.y_positions[row]))}: the fitted surface expects {metric_text(expected)}, "
                f"better than the best trial by more than one trial's noise.")
    return (f"More trials inside these ranges promise little: along the most important hyperparameters the fitted "
            f"surface expects {metric_text(expected)} at best, within one trial's noise of what was found.")


def pressing(analysis: Analysis) -> list[Boundary]:
    """Return the boundaries that matter: not those of a hyperparameter that had no effect in a study of some size."""
    idle = {share.name for share in analysis.shares if not share.resolvable}
    return [found for found in analysis.boundaries
            if found.name not in idle or len(analysis.complete) < TRIALS_TO_FIX]


def time(analysis: Analysis) -> str:
    """Say what the time went into."""
    rows = [row for row in analysis.rows if row.seconds]
    if not rows:
        return "No trial has used any time yet."
    total = sum(row.seconds for row in rows)
    phases: Counter[str] = Counter()
    for row in rows:
        phases.update(row.phases)
    parts = [f"{percent_text(spent / total)} {phase}" for phase, spent in phases.most_common(3) if spent]
    slowest = max(rows, key=lambda row: row.seconds)
    text = f"{seconds_text(total)} of {analysis.device} time in {count_text(len(rows), 'trial')}"
    text += f": {names_text(parts)}" if parts else ""
    middle, most = seconds_text(statistics.median(row.seconds for row in rows)), seconds_text(slowest.seconds)
    longest = f"; the longest, {slowest.id}, {most}" if most != middle else ""
    return f"{text}. A trial took {middle} (median){longest}."


def memory(analysis: Analysis) -> str:
    """Say how much memory the trials needed at their peak."""
    measured = [row for row in analysis.rows if row.peak_bytes]
    if not measured:
        return "No trial has recorded its peak memory."
    ordered = sorted(measured, key=lambda row: row.peak_bytes or 0)
    highest = ordered[-1]
    least, most = bytes_text(ordered[0].peak_bytes or 0), bytes_text(highest.peak_bytes or 0)
    text = f"The peak of {count_text(len(measured), 'trial')} was {least}"
    text += f" to {most}, the most in trial {highest.id}" if least != most else ""
    missing = sum(row.status != "running" and not row.peak_bytes for row in analysis.rows)
    text += f"; {count_text(missing, 'trial')} recorded none." if missing else "."
    parts = sorted(highest.predicted_parts.items(), key=lambda part: -part[1])
    spent = names_text([f"{name} {bytes_text(size)}" for name, size in parts[:4]])
    return text + (f" Predicted for trial {highest.id}: {spent}." if parts else "")


def predicted(analysis: Analysis) -> str:
    """Say how good the predictions of the peak were."""
    ratios = {row.id: row.peak_bytes / row.predicted_bytes for row in both_peaks(analysis.rows)
              if row.peak_bytes and row.predicted_bytes}
    if not ratios:
        return "No trial has both a predicted and a measured peak."
    worst = max(ratios, key=lambda trial_id: ratios[trial_id])
    over = [trial_id for trial_id, ratio in ratios.items() if ratio > 1]
    middle = statistics.median(ratios.values())
    text = (f"In {count_text(len(ratios), 'trial')} the measured peak was {percent_text(middle)} of the predicted one "
            f"(median)")
    return text + (f"; {count_text(len(over), 'trial')} needed more than predicted, trial {worst} by "
                   f"{percent_text(ratios[worst] - 1)}." if over else "; none needed more than predicted.")


def rungs(analysis: Analysis) -> str:
    """Say who was cut where, and where the winner stood."""
    if not analysis.rungs:
        return "No trial was pruned."
    parts = [f"{len(rung.cut)} of {len(rung.cut) + len(rung.survivors)} at step {rung.step:,}"
             for rung in analysis.rungs]
    first, sign = analysis.rungs[0], -1.0 if analysis.goal == "maximize" else 1.0
    standing = sorted((sign * value, trial_id) for trial_id, value in (*first.survivors, *first.cut))
    place = next((i for i, (_, trial_id) in enumerate(standing, start=1)
                  if analysis.best and trial_id == analysis.best.id), None)
    text = f"Cut: {names_text(parts, 8)}."
    return text + (f" The later winner was number {place} of {len(standing)} at step {first.step:,}." if place else "")


def region_text(region: Region) -> str:
    """Say where the best trials lie: `lie between 1.2e-4 and 3e-4`, or which values they have."""
    if region.low is None or region.high is None:
        first, *others = [value_text(value) for value in region.values]
        return f"have {first}" + (f" most often, then {names_text(others, 4)}" if others else " only")
    return f"lie between {_about(region.low)} and {_about(region.high)}"


def _about(value: Any) -> str:
    """Write an end of a region: it is where the nearest trial happened to be, and not exact."""
    return number_text(value, 3) if isinstance(value, float) else value_text(value)


def both_peaks(rows: Sequence[Row]) -> list[Row]:
    """Return the trials with a predicted and a measured peak."""
    return [row for row in rows if row.peak_bytes and row.predicted_bytes]


def settings(analysis: Analysis, row: Row) -> list[tuple[str, Any]]:
    """Return the hyperparameters of a trial that the study varied, with their values."""
    return [(one.name, row.params[one.name]) for one in analysis.axes if one.name in row.params]


def _trials(ids: Sequence[str]) -> str:
    return f"trial{'' if len(ids) == 1 else 's'} {names_text(ids)}"


def _whole(share: float) -> str:
    return f"{max(0.0, 100 * share):.0f} %"
