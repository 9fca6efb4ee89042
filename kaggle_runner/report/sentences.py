"""What there is to see in a study, in sentences made from its numbers."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kaggle_runner.metrics import LOSS
from kaggle_runner.report.analysis.agreement import agreement as other_winners
from kaggle_runner.report.analysis.agreement import by_loss
from kaggle_runner.report.analysis.analysis import Analysis, Contour, Region, Row
from kaggle_runner.report.analysis.first_place import why_unknown
from kaggle_runner.report.analysis.importance import LEVEL, MIN_TRIALS
from kaggle_runner.report.analysis.provenance import is_searched
from kaggle_runner.report.style import (
    count_text,
    names_text,
    number_text,
    outward,
    percent_text,
    seconds_text,
    setting_text,
    shortened,
    value_names,
    value_text,
)
from kaggle_runner.study.axes import Axis, Boundary
from kaggle_runner.study.noise import Configuration
from kaggle_runner.study.ranking import OF_TRIAL
from kaggle_runner.study.trial import OPEN
from kaggle_runner.wording import size_text


def winner(analysis: Analysis) -> str:
    """Say which configuration is best, or that several share first place; one trial alone has won nothing."""
    first, metric = analysis.first, analysis.metric
    if not first.ranked:
        counts = Counter(row.status for row in analysis.rows)
        if counts["complete"]:
            return (f"Nothing can be compared: {count_text(counts['complete'], 'trial')} ended without a number for "
                    f"{metric}.")
        became = names_text(f"{count} {status}" for status, count in counts.most_common())
        return f"No trial is complete, so nothing can be compared: {became}." if counts else "No trial has started yet."
    best = first.ranked[0]
    name = configuration_text(best, with_seeds=first.expected is None)
    value = f"{metric} {analysis.text(best.mean)}{seed_text(analysis)}{_beside_base(analysis)}"
    if len(first.ranked) == 1:
        has = "has" if len(best.runs_ids) == 1 else "have"
        return f"{_capital(name)} {has} {value}. No other configuration is complete, so there is nothing to compare."
    if len(first.shared) == 1:
        second = next((one for one in first.ranked[1:] if one.trial_ids[0] not in first.failed), None)
        if second is None:
            return f"{_capital(name)} has {value}.{_failed(analysis)}"
        return (f"{_capital(name)} won with {value}, {number_text(abs(second.mean - best.mean), 2)} ahead of "
                f"{configuration_text(second)}, which is more than chance puts between the best and another of "
                f"{len(first.ranked)}.{_failed(analysis)}")
    count, may_be = len(first.ranked), len(first.shared)
    everyone = f"all {count}" if count > 2 else "both"
    if first.is_level:
        return f"{_capital(everyone)} complete configurations have {value}: none of them is better.{tie_text(analysis)}"
    who = everyone if may_be == count else f"{may_be} of {count}"
    lead = "Confirmed" if best.confirmed else "Highest" if analysis.goal == "maximize" else "Lowest"
    text = (f"First place is shared by {who} complete configurations: chance may have put any of them first"
            if analysis.noise else
            f"Which of {'the best ' if may_be < count else ''}{who.removeprefix('all ')} complete configurations comes "
            f"first is not known yet, nor how much of their difference is chance")
    return (f"{text}. {lead} {'is' if len(best.runs_ids) == 1 else 'are'} {name} with {value}.{tie_text(analysis)}"
            f"{_failed(analysis)}")


def tie_text(analysis: Analysis) -> str:
    """Say which trial of those with the best value its loss puts first; empty where none is first by it."""
    tied = [row for row in analysis.places if analysis.best and row.compared_by == analysis.best.compared_by]
    return by_loss(analysis.metric, analysis.goal, {row.id: row.metrics.get(LOSS) for row in tied})


def _failed(analysis: Analysis) -> str:
    return "".join(f" With another seed {OF_TRIAL}{name} {became}, so it is not among the best."
                   for name, became in analysis.first.failed.items())


def agreement(analysis: Analysis) -> str:
    """Say whether the metrics that were measured beside the study's own have the same winner."""
    if analysis.best is None or len(analysis.complete) < 2 or analysis.first.is_level:
        return ""
    return other_winners(analysis.metric, analysis.best.id, analysis.others)


def configuration_text(one: Configuration, with_seeds: bool = True) -> str:
    """Name a configuration by its trial, or by its trials where it has several seeds, and say what its mean is of."""
    ids = one.runs_ids
    name = f"trial {ids[0]}" if len(ids) == 1 else f"trials {names_text(ids, 3)}"
    return name if one.runs == 1 or not with_seeds else f"{name} ({one.made_of})"


def seed_text(analysis: Analysis) -> str:
    """Say that the seeds of a confirmed best chose it, and what seeds say that did not choose; else empty."""
    first = analysis.first
    return "" if first.expected is None else (f" ({first.ranked[0].made_of} that chose it; what is chosen so comes to "
                                              f"{analysis.text(first.expected)})")


def _beside_base(analysis: Analysis) -> str:
    base = analysis.baseline
    if base is None:
        return ""
    gain = analysis.first.ranked[0].mean - base
    if not gain:
        return ", as the untouched base has"
    relative = f" ({percent_text(abs(gain / base))})" if base else ""
    return f", {number_text(abs(gain), 3)}{relative} {'below' if gain < 0 else 'above'} the untouched base's " \
           f"{analysis.text(base)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def ranking(analysis: Analysis) -> str:
    """Say how far the configurations lie from the best."""
    values = [one.mean for one in analysis.first.ranked]
    if len(values) < 2:
        return "There are no two complete configurations to compare."
    behind = [abs(value - values[0]) for value in values]
    text = (f"Half of {count_text(len(behind), 'complete configuration')} lie within "
            f"{number_text(statistics.median(behind), 2)} of the best; the last is {number_text(max(behind), 2)} off.")
    text += " A mark is a configuration, at the mean over its seeds." if analysis.first.has_means else ""
    if analysis.first.distance is None:
        return text
    count = len(analysis.first.shared)
    return f"{text} {count_text(count, 'configuration')} share{'s' if count == 1 else ''} first place."


def noise(analysis: Analysis) -> str:
    """Say how noisy a trial is, from where that is known, and how far apart two trials must lie to differ."""
    first = analysis.first
    if not first.ranked:
        return ""
    if first.noise is None or first.distance is None:
        return f"How much of a difference is noise is not known: {why_unknown(first, analysis.repeats)}."
    known = first.noise
    text = (f"One trial's {analysis.metric} scatters by about {number_text(known.deviation, 2)} and at most "
            f"{number_text(known.upper, 2)} (standard deviation, from {known.source})")
    if len(first.ranked) == 1:
        return text + "."
    seeds = sorted({one.seeds for one in first.ranked[1:]})
    limits = [number_text(first.limit(count), 2) for count in seeds]
    if len(seeds) > 1 or first.ranked[0].seeds > 1:
        limits = [f"{limit} (with {count_text(count, 'seed')})" for limit, count in zip(limits, seeds, strict=True)]
    if (told := first.told_by) is not None:
        text += (f". Few seeds tell little of it: by {told.source} it is about {number_text(told.deviation, 2)} and at "
                 f"most {number_text(told.upper, 2)}")
    return (f"{text}, so of {len(first.ranked)} configurations one is known to be worse if it lies "
            f"{' or '.join(limits)} or more behind the best.")


def repeats(analysis: Analysis) -> str:
    """Say which configuration has the best mean of those with several seeds; empty where none has."""
    if not analysis.repeats:
        return ""
    sign = -1.0 if analysis.goal == "maximize" else 1.0
    first, *others = sorted(analysis.repeats, key=lambda repeat: sign * repeat.mean)
    text = (f"Best mean over seeds: {names_text(first.names)}, mean {analysis.text(first.mean)} ± "
            f"{number_text(first.half_width, 2)} (95 % interval)"
            f"{'' if analysis.first.expected is None else ', with the seeds that chose it'}")
    if others:
        text += f"; the next is {number_text(abs(others[0].mean - first.mean), 2)} behind"
    return text + "."


def progress(analysis: Analysis) -> str:
    """Say when the best was found, and how many trials have not bettered it since."""
    ended = [row for row in analysis.rows if row.status not in OPEN]
    if analysis.best is None or not ended:
        return "There is no best value yet."
    place = next(i for i, row in enumerate(ended) if row.id == analysis.progress[-1].of)
    after = len(ended) - 1 - place
    since = "it was the last one to end" if not after else (
        f"of the {count_text(after, 'trial')} after it none is complete and better")
    mean = " What was run more than once stands at its mean." if analysis.first.has_means else ""
    return f"The best value came with trial number {place + 1:,} of {len(ended):,}; {since}.{mean}"


def hours(analysis: Analysis) -> str:
    """Say after what part of the time the best was there."""
    if not analysis.progress or not analysis.progress[-1].hours:
        return "There is no best value yet."
    total, of = analysis.progress[-1].hours, analysis.progress[-1].of
    found = next(step.hours for step in analysis.progress if step.trial_id == of)
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
    if best is None or len(best.steps) < 2 or len(drawn) < 3 or analysis.first.is_level:
        return text
    early = best.steps[len(best.steps) // 3]
    sign = -1.0 if analysis.goal == "maximize" else 1.0
    then = {curve.trial_id: sign * value for curve in drawn
            if curve.steps[-1] >= early and (value := curve.at(early)) is not None}
    rank = 1 + sum(value < then[best.trial_id] for value in then.values())
    return (f"{text} Trial {best.trial_id}, the best, was number {rank} of {len(then)} at step {early:,} of "
            f"{best.steps[-1]:,}.")


def importance(analysis: Analysis) -> str:
    """Say which hyperparameters mattered and which cannot be told from chance."""
    if not is_searched(analysis.sweep):
        return "Every hyperparameter has one value here, so there is nothing to compare."
    if analysis.shares_problem:
        return analysis.shares_problem[0].upper() + analysis.shares_problem[1:] + "."
    clear = [share for share in analysis.shares if share.resolved]
    unclear = [share.name for share in analysis.shares if not share.resolved]
    count = count_text(len(analysis.first.ranked), "complete configuration")
    texts = [f"{share.name} explains {_whole(share.share)} of the variance (90 % interval {_whole(share.low)} to "
             f"{_whole(share.high)})" for share in clear]
    alike = [share.name for share in analysis.shares if share.chance < LEVEL]
    if alike and not clear:
        fit, moved = ("fits", "others moved with it") if len(alike) == 1 else ("fit", "they moved together")
        return (f"From {count}, no hyperparameter stands out by itself: {names_text(alike, 8)} {fit} better than "
                f"shuffled values do, but {moved}.")
    if not clear:
        return (f"From {count}, no hyperparameter stands out from chance: shuffled values do as well in more than "
                f"6 of 100 shuffles.")
    text = f"From {count}: {names_text(texts)}; shuffled values reach that in fewer than 6 of 100 shuffles."
    return text + (f" Nothing stands out of {names_text(unclear, 8)}." if unclear else "")


def axis(analysis: Analysis, one: Axis) -> str:
    """Say where the good values of one hyperparameter lie, and whether the best is at the end of its range."""
    region = next((region for region in analysis.regions if region.name == one.name), None)
    count = len(analysis.first.ranked)
    if region is not None:
        text = f"The best {region.count} of {count_text(count, 'complete configuration')} {region_text(region)}"
    elif analysis.first.is_level:
        text = f"All {count} complete configurations have the same value"
    elif analysis.best is not None:
        who = "The one complete configuration" if count == 1 else f"The best of {count} complete configurations"
        text = f"{who} has {setting_text(analysis.best.params, one.name)}"
    else:
        text = "No configuration is complete"
    limit = next((found for found in analysis.boundaries if found.name == one.name), None)
    if limit is not None and count >= MIN_TRIALS:
        text += f"; the best value, {value_text(limit.value)}, is at the {limit.side} end of the range"
    share = next((share for share in analysis.shares if share.name == one.name), None)
    if share is None or share.resolved:
        return f"{text}."
    alike = share.chance < LEVEL and not analysis.resolved
    return f"{text}; {'its effect is not told from that of others' if alike else 'no effect stands out from chance'}."


def contour(analysis: Analysis, one: Contour) -> str:
    """Say where the surrogate expects the best value, and where the best trial lies."""
    expected, row, column = peak(analysis, one)
    at = (f"{one.x.name} {value_text(one.x.rounded(one.x.value(one.x_positions[column])))} and "
          f"{one.y.name} {value_text(one.y.rounded(one.y.value(one.y_positions[row])))}")
    best = analysis.best
    own = " and ".join(setting_text(best.params, axis.name) for axis in (one.x, one.y)) if best else "none"
    return (f"With the other hyperparameters as in the best trial, a surface fitted to the trials is best near {at} "
            f"({analysis.text(expected)}); the best trial has {own}.")


def peak(analysis: Analysis, one: Contour) -> tuple[float, int, int]:
    """Return the best value of a fitted surface, with its row and its column."""
    choose = max if analysis.goal == "maximize" else min
    return choose((value, y, x) for y, line in enumerate(one.values) for x, value in enumerate(line))


def parallel(analysis: Analysis) -> str:
    """Say what the good trials share."""
    regions = [region for region in analysis.regions if region.name in analysis.resolved]
    if not regions:
        why = "they are few" if analysis.resolved else "no hyperparameter stands out"
        return (f"Each line is one of {count_text(len(analysis.complete), 'complete trial')}, the better the bluer; "
                f"{why}, so a pattern in the lines may be chance.")
    shared = names_text(f"in {region.name} they {region_text(region)}" for region in regions)
    return f"What the best {regions[0].count} configurations have in common: {shared}."


def pressing(analysis: Analysis) -> list[Boundary]:
    """Return the boundaries of hyperparameters that stand out, and all where too few trials tell which do."""
    if len(analysis.first.ranked) < MIN_TRIALS:  # the best of so few lies somewhere by chance
        return []
    return [found for found in analysis.boundaries if found.name in analysis.resolved or not analysis.shares]


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
    least, most = size_text(ordered[0].peak_bytes or 0), size_text(highest.peak_bytes or 0)
    text = f"The peak of {count_text(len(measured), 'trial')} was {least}"
    text += f" to {most}, the most in trial {highest.id}" if least != most else ""
    missing = sum(row.status not in OPEN and not row.peak_bytes for row in analysis.rows)
    text += f"; {count_text(missing, 'trial')} recorded none." if missing else "."
    parts = sorted(highest.predicted_parts.items(), key=lambda part: -part[1])
    spent = names_text([f"{name} {size_text(size)}" for name, size in parts[:4]])
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
    return text + (f" The best trial was number {place} of {len(standing)} at step "
                   f"{first.step:,}." if place else "")


def region_text(region: Region) -> str:
    """Say where the best trials lie: `lie between 1.2e-4 and 3e-4`, or which values they have."""
    if region.low is None or region.high is None:
        texts = [value_text(value) for value in region.values]
        most = region.counts.count(region.counts[0])
        if most == len(texts):
            return f"have {names_text(texts, 4)}{' only' if most == 1 else ''}"
        return f"have {names_text(texts[:most], 4)} most often, then {names_text(texts[most:], 4)}"
    low, high = max(outward(region.low, up=False), region.ends[0]), min(outward(region.high, up=True), region.ends[1])
    return f"lie between {value_text(low)} and {value_text(high)}"


def both_peaks(rows: Sequence[Row]) -> list[Row]:
    """Return the trials with a predicted and a measured peak."""
    return [row for row in rows if row.peak_bytes and row.predicted_bytes]


def settings(analysis: Analysis, row: Row) -> list[tuple[str, Any]]:
    """Return the hyperparameters of a trial that the study varied, with their values."""
    return [(one.name, row.params[one.name]) for one in analysis.axes if one.name in row.params]


def chosen(analysis: Analysis, row: Row, most: int) -> list[tuple[str, str]]:
    """Return the hyperparameters of a trial as texts of about so many letters, no two values of one alike."""
    short = {one.name: dict(zip(map(value_text, one.values), value_names(one.values, most), strict=True))
             for one in analysis.axes}
    return [(name, short[name].get(value_text(value), shortened(value_text(value), most)))
            for name, value in settings(analysis, row)]


def trials_text(ids: Sequence[str]) -> str:
    return f"trial{'' if len(ids) == 1 else 's'} {names_text(ids)}"


def _whole(share: float) -> str:
    return f"{max(0.0, 100 * share):.0f} %"
