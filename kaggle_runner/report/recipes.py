"""What to do next: each advice in words, and as YAML to copy, which does what the words say.

Nothing is advised that would change nothing, and nothing that the next sweep would refuse.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import TRIALS_TO_FIX, Analysis, Region
from kaggle_runner.report.analysis.importance import MIN_TRIALS
from kaggle_runner.report.analysis.provenance import entries_of, is_searched
from kaggle_runner.report.style import names_text, value_text
from kaggle_runner.study.axes import Axis, Boundary, has_exponents, is_number
from kaggle_runner.study.best_file import yaml_text
from kaggle_runner.study.noise import Configuration

_MARGIN = 0.1
"""Part of an axis that a narrowed range has beyond the best on each side, and must at least take away."""
_MOST_NAMED = 8
_SEEDS = 2
"""Further seeds that a confirmation gives each."""
_MEMORY = "a smaller model, max_length or batch_size, or 4 bits needs less memory"
_WAYS_OUT = {"not_finite": "the loss was no number: lower the highest learning_rate, or max_grad_norm",
             "infeasible": _MEMORY, "out_of_memory": _MEMORY}
"""What helps, by what ended a trial."""


@dataclass(frozen=True, kw_only=True)
class _Change:
    """A hyperparameter's entry in the next sweep file, with the advice; what is fixed is said of all at once."""

    entry: Mapping[str, Any]
    advice: str = ""


def next_search(analysis: Analysis) -> tuple[str, ...]:
    """Say where to search next, one advice each, from boundaries, regions, importance and noise."""
    if not is_searched(analysis.sweep):
        line = shlex.join(["python", "-m", "kaggle_runner", "try", str(analysis.directory)])
        asked = f"; ask it something: {line}" if analysis.best else ""
        return (f"Nothing was searched here: it is one configuration{asked}.",)
    changes = _changes(analysis)
    advice = [change.advice for change in changes.values() if change.advice]
    first, sign = analysis.first.ranked[:1], -1.0 if analysis.goal == "maximize" else 1.0
    if first and analysis.baseline is not None and sign * first[0].mean > sign * analysis.baseline:
        advice.insert(0, "Try a lower learning_rate, or other rows: no configuration is as good as the untouched base.")
    fixed = [name for name, change in changes.items() if not change.advice]
    if fixed:
        advice.append(f"Fix {names_text(fixed, _MOST_NAMED)}: no effect stands out, and every one of them makes the "
                      f"search longer.")
    rivals, seeds = _rivals(analysis)
    if rivals and seeds:
        what = f"the best {_top(analysis, changes, rivals)} of the next sweep" if changes else say.trials_text(rivals)
        each = " each" if changes or len(rivals) > 1 else ""
        advice.append(f"Confirm {what} with {'two' if seeds == 2 else seeds} more seeds{each} before one is called the "
                      f"best.")
    elif rivals:
        advice.append(f"Take any of {say.trials_text(rivals)}: their further seeds do not tell them apart.")
    advice += filter(None, [_hope(analysis), *_ways_out(analysis)])
    if analysis.first.is_level:
        advice.append(f"Train longer, or measure what tells them apart: all have one {analysis.metric}.")
    if not advice and len(analysis.first.shared) == 1 < len(analysis.first.ranked):
        advice.append(f"Take {say.configuration_text(analysis.first.shared[0])}: that is ahead by more than chance, "
                      f"and nothing here says where more would be found.")
    if not advice:
        advice.append("Run more trials, by the same command with a higher --count: there is nothing yet that these "
                      "could say about where to search.")
    return tuple(advice)


def recipes(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """Return what a report gives to be copied, as titles and YAML."""
    found = (("The next sweep, with this advice followed", next_sweep_yaml(analysis)),
             ("The configuration to try", try_yaml(analysis)), ("The best configuration", best_yaml(analysis)))
    return tuple((title, text) for title, text in found if text)


def best_yaml(analysis: Analysis) -> str:
    """Return the best configuration as the parameters of a sweep file; empty without one."""
    if not analysis.first.ranked:
        return ""
    return _parameters({name: {"value": value} for name, value in analysis.first.ranked[0].params.items()})


def try_yaml(analysis: Analysis) -> str:
    """Return the configuration that the fitted surface promises most of, for `train`; empty where it promises little.
    """
    point, gain = _promised(analysis)
    if not point or analysis.noise is None or gain <= analysis.noise.deviation:
        return ""
    lines = "".join(f"{yaml_text(name)}: {yaml_text(value)}\n"
                    for name, value in {**analysis.first.ranked[0].params, **point}.items())
    return f"# train it: python -m kaggle_runner train try.yaml\n{lines}"


def next_sweep_yaml(analysis: Analysis) -> str:
    """Return the sweep file with the report's advice followed; empty where there is none to follow.

    What stands out is narrowed to where the best lie, or moved past the end they lie at; in a study of some size what
    does not stand out is fixed to the best configuration's value; what shares first place is confirmed. The cap leaves
    room for further trials beside those that stay.
    """
    changes, (rivals, seeds) = _changes(analysis), _rivals(analysis)
    if not (changes or seeds) or not entries_of(analysis.sweep) or not is_searched(analysis.sweep):
        return ""
    sweep = {key: value for key, value in analysis.sweep.items() if key not in ("parameters", "name")}
    if seeds:
        sweep["confirm"] = {"top": _top(analysis, changes, rivals), "seeds": seeds}
    stay = len(_staying(analysis, changes))
    entries = {name: changes[name].entry if name in changes else entry for name, entry in entries_of(analysis.sweep)}
    if changes and sweep.get("method") != "grid":
        sweep["run_cap"] = int(min(stay + max(len(analysis.rows) - stay, len(analysis.rows) // 2),
                                   max(stay, _points(entries))))
    label = str(analysis.sweep.get("name") or analysis.name)
    head = "".join(f"{key}: {yaml_text(value)}\n" for key, value in {"name": f"{label}-next", **sweep}.items())
    command = shlex.join(["python", "-m", "kaggle_runner", "sweep", "next.yaml", "--study", str(analysis.directory),
                          "--adopt"])
    kept = "the" if stay == len(analysis.rows) else f"{stay} of the {len(analysis.rows)}"
    return f"# keeps {kept} trials of this study: {command}\n" + head + _parameters(entries)


def _changes(analysis: Analysis) -> dict[str, _Change]:
    """Return what the study says of the ranges to search, by hyperparameter; only what is another entry in the file."""
    count, best = len(analysis.first.ranked), analysis.first.ranked[0].params if analysis.first.ranked else {}
    axes, entries = {axis.name: axis for axis in analysis.axes}, dict(entries_of(analysis.sweep))
    unclear = {share.name for share in analysis.shares if not share.resolved}
    changes: dict[str, _Change] = {}
    for found in analysis.boundaries if count >= MIN_TRIALS else ():
        if (found.name not in unclear or count < TRIALS_TO_FIX) and _is_legal(best, found.name, found.suggestion):
            doubt = ", though its effect cannot be told from chance yet" if found.name in unclear else ""
            entry = _widened(entries.get(found.name, {}), found)
            changes |= {found.name: _Change(entry=entry, advice=(
                f"Widen {found.name}: the best value {value_text(found.value)} is at the {found.side} end of its "
                f"range; try {value_text(found.suggestion)} as the new end{doubt}."))} if entry else {}
    for region in analysis.regions:
        if region.name in analysis.resolved and region.name not in changes:
            entry, to = _narrowed(axes[region.name], region, entries.get(region.name, {}))
            changes[region.name] = _Change(entry=entry, advice=(
                f"Narrow {region.name} to {to}: the best {region.count} configurations {say.region_text(region)}."))
    if count >= TRIALS_TO_FIX and analysis.resolved:
        for share in analysis.shares:
            if not share.resolved and share.name in best and share.name not in changes:
                changes[share.name] = _Change(entry={"value": best[share.name]})
    changes = {name: change for name, change in changes.items()
               if name in entries and change.entry and change.entry != entries[name]}
    for is_last in (False, True):  # without what is fixed first, then without what is narrowed to one value
        if _points({**entries, **{name: change.entry for name, change in changes.items()}}) < 2:
            changes = {name: change for name, change in changes.items()
                       if ("value" not in change.entry if is_last else change.advice)}
    return changes


def _points(entries: Mapping[str, Mapping[str, Any]]) -> float:
    """Return how many configurations a sweep file's entries allow."""
    return math.prod(1 if "value" in entry else len(entry["values"]) if "values" in entry else math.inf
                     for entry in entries.values())


def _rivals(analysis: Analysis) -> tuple[list[str], int]:
    """Return what more seeds would tell apart, three of first place at most, and how many each should have.

    Where some have been confirmed these are the others, to be trained with as many; no seeds where all have been.
    """
    shared = analysis.first.shared
    if len(shared) < 2 or analysis.first.is_level:
        return [], 0
    seeds = max(_SEEDS, *(len(one.confirmed) for one in shared))
    lacking = [one for one in shared if len(one.confirmed) < seeds]
    return [_swept_as(analysis, one) for one in (lacking or shared)[:3]], seeds if lacking else 0


def _top(analysis: Analysis, changes: Mapping[str, _Change], rivals: Sequence[str]) -> int:
    """Return how many of the best, as the next sweep ranks the trials that it keeps, have the rivals among them."""
    staying = _staying(analysis, changes)
    swept = [trial_id for trial_id in analysis.as_swept if trial_id in staying]
    return max(2, len(rivals), *(swept.index(trial_id) + 1 for trial_id in rivals if trial_id in swept))


def _staying(analysis: Analysis, changes: Mapping[str, _Change]) -> set[str]:
    """Return the trials that a sweep with these changes keeps."""
    return {row.id for row in analysis.rows
            if all(_holds(change.entry, row.params.get(name)) for name, change in changes.items())}


def _swept_as(analysis: Analysis, one: Configuration) -> str:
    """Return the trial by which a configuration is ranked before it is confirmed."""
    ids = one.all_ids
    return next((trial_id for trial_id in ids if trial_id in analysis.as_swept), ids[0])


def _ways_out(analysis: Analysis) -> list[str]:
    """Say what ended the trials of a study in which none is complete, and what helps against it."""
    ends = {row.failure: row.id for row in reversed(analysis.rows) if row.failure and not analysis.first.ranked}
    return [f"Trial {first} and its like: {_WAYS_OUT.get(kind, 'read the reason')}." for kind, first in ends.items()]


def _promised(analysis: Analysis) -> tuple[dict[str, Any], float]:
    """Return where the fitted surfaces expect most, and how much better than the best that is; negative if worse."""
    if not analysis.contours or not analysis.first.ranked:
        return {}, 0.0
    sign = 1.0 if analysis.goal == "maximize" else -1.0
    one = max(analysis.contours, key=lambda contour: sign * say.peak(analysis, contour)[0])
    expected, row, column = say.peak(analysis, one)
    point = {axis.name: axis.rounded(axis.value(at))
             for axis, at in ((one.x, one.x_positions[column]), (one.y, one.y_positions[row]))}
    return point, sign * (expected - analysis.first.ranked[0].mean)


def _hope(analysis: Analysis) -> str:
    """Say whether the fitted surfaces promise more than noise over the best; empty if that cannot be said."""
    point, gain = _promised(analysis)
    if not point or analysis.noise is None:
        return ""
    best = analysis.first.ranked[0]
    expected = analysis.text(best.mean + (gain if analysis.goal == "maximize" else -gain))
    noise, who = analysis.noise.deviation, say.configuration_text(best)
    if gain > noise:
        first, second = ((name, value_text(value)) for name, value in point.items())
        return (f"Try {first[0]} {first[1]} with {second[0]} {second[1]}: the fitted surface expects {expected}, "
                f"better than {who} by more than the noise of one trial.")
    beside = f"worse than {who} by more than" if gain < -noise else "within"
    return (f"More trials inside these ranges promise little: along the most important hyperparameters the fitted "
            f"surface expects {expected} at best, {beside} one trial's noise{'' if gain < -noise else f' of {who}'}.")


def _is_legal(best: Mapping[str, Any], name: str, value: Any) -> bool:
    """Say whether a trial could have this value; yes where the trainer does not know these hyperparameters at all."""
    try:
        config_from_params(best)
    except ConfigError:
        return True
    try:
        config_from_params({**best, name: value})
    except ConfigError:
        return False
    return True


def _widened(entry: Mapping[str, Any], found: Boundary) -> dict[str, Any]:
    """Return an entry with its end moved; empty where it names no end that could be."""
    end, values = "min" if found.side == "lowest" else "max", entry.get("values")
    if isinstance(values, list | tuple):
        return {key: value for key, value in entry.items() if key != "probabilities"} | {
            "values": [found.suggestion, *values] if end == "min" else [*values, found.suggestion]}
    return _with_ends(entry, {end: found.suggestion})


def _narrowed(axis: Axis, region: Region, entry: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return an entry that holds where the best lie, and how it is said; nothing where that is as wide as it was."""
    if axis.values:
        good = Axis(name=axis.name, values=region.values)
        kept = [value for value in axis.values if good.position(value) is not None]
        if not isinstance(entry.get("values"), list | tuple) or len(kept) == len(axis.values):
            return {}, ""
        return {key: value for key, value in entry.items() if key not in ("values", "probabilities", "distribution")} \
            | ({"value": kept[0]} if len(kept) == 1 else {"values": kept}), names_text(map(value_text, kept), 20)
    low, high = axis.position(region.low) or 0.0, axis.position(region.high)
    ends = max(0.0, low - _MARGIN), min(1.0, (1.0 if high is None else high) + _MARGIN)
    if ends[1] - ends[0] > 1 - _MARGIN:
        return {}, ""
    least, most = axis.value(ends[0]), axis.value(ends[1])
    if axis.step:
        least, most = axis.outward(least, up=False), axis.outward(most, up=True)
    elif axis.is_integer:
        least, most = math.floor(least), math.ceil(most)
    else:
        least, most = float(f"{least:.2g}"), float(f"{most:.2g}")
    least, most = max(least, axis.low), min(most, axis.high)
    return _with_ends(entry, {"min": least, "max": most}), f"{value_text(least)} to {value_text(most)}"


def _with_ends(entry: Mapping[str, Any], ends: Mapping[str, float]) -> dict[str, Any]:
    """Return an entry with other ends, as exponents of e where it has such; empty where it has no ends to move."""
    if not all(is_number(entry.get(end)) for end in ("min", "max")) or entry.get("distribution") == "inv_log_uniform":
        return {}
    written = {end: round(math.log(value), 4) for end, value in ends.items()} if has_exponents(entry) else ends
    return {**entry, **written}


def _holds(entry: Mapping[str, Any], value: Any) -> bool:
    """Say whether a sweep file's entry could have given a trial this value."""
    if "value" in entry or "values" in entry:
        return Axis(name="", values=tuple(entry.get("values", [entry.get("value")]))).position(value) is not None
    at = math.log(value) if has_exponents(entry) and is_number(value) and value > 0 else value
    return is_number(at) and bool(entry["min"] <= at <= entry["max"])


def _parameters(entries: Mapping[str, Any]) -> str:
    return "parameters:\n" + "".join(f"  {yaml_text(name)}: {yaml_text(entry)}\n" for name, entry in entries.items())
