"""What a study of the lab found, in words and numbers: `summary.md`, `decision.json` and `defaults.yaml`.

Every number is computed from the journal when the text is written; nothing is kept anywhere else.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kaggle_runner.config import trainer_of
from kaggle_runner.lab.confirmation import Confirmation
from kaggle_runner.lab.contest import Contest
from kaggle_runner.lab.decision import Comparison, Decision, Verdict, same
from kaggle_runner.lab.plan import Stage, TuningPlan
from kaggle_runner.lab.vary import VarySpec, yaml_value
from kaggle_runner.metrics import LOSS, format_metric
from kaggle_runner.study.axes import boundary, read_axes
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import t_975
from kaggle_runner.study.table import format_value
from kaggle_runner.study.trial import Status
from kaggle_runner.wording import how_many

_DIGITS = 6
"""Significant digits of a mean: its gain has five behind the point."""


def study_summary(spec: VarySpec, snapshot: Snapshot, decision: Decision) -> str:
    """Return what was varied, what was seen, and what was decided and why."""
    blocks = [f"# {spec.name}", spec.note,
              f"**Varied:** `{spec.variable}` over {_listed(spec.values)}, the default being "
              f"{format_value(spec.default)}; seeds {_listed(spec.seeds)}, the same for every value. All else as in "
              f"`study.yaml`.",
              "## What was seen", _markdown(errors_table(spec, snapshot, decision)), reading(spec, decision),
              "\n".join(f"- {line}" for line in failures(snapshot)), cost(snapshot), "## What was decided",
              f"**{verdict(spec, decision)}** {sentence(decision.reason)}", at_the_edge(spec, decision),
              caution(snapshot)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def final_summary(stage: Stage, snapshot: Snapshot, confirmed: Snapshot) -> str:
    """Return what a plan's sweep found, and whether its best points stood beside the baseline."""
    assert stage.contest is not None
    assert stage.decision is not None
    assert stage.sweep is not None
    contest, decision = stage.contest, stage.decision
    searched = ", ".join(f"`{name}`" for name in contest.varied)
    best = snapshot.as_swept.best
    seen = f"{how_many(len(snapshot.finished), 'trial')}, one seed each; the best was trial {best.trial.id} with " \
           f"{_number(best.result.metric)}." if best is not None and best.result is not None else ""
    decided = "**Kept:** the baseline." if decision.winner == contest.default else \
        f"**Adopted:** {decision.winner}, " + ", ".join(f"`{name}` {format_value(value)}"
                                                        for name, value in stage.adopted.items()) + "."
    blocks = [f"# {stage.sweep.name}", f"**Searched:** {searched}, together, by Bayesian optimisation.",
              "## What was seen", f"{seen} The sweep's own report is in `report/`.",
              "The best of many trials looks better than it is, so the best points were trained again beside the "
              "baseline:", _markdown(settings_table(contest)), _markdown(errors_table(contest, confirmed, decision)),
              reading(contest, decision), cost(snapshot, confirmed), "## What was decided",
              f"{decided} {sentence(decision.reason)}", at_an_end(stage, snapshot), caution(confirmed)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def decision_json(decision: Decision) -> str:
    """Return a decision with every number behind it."""
    return json.dumps(asdict(decision), indent=2) + "\n"


def defaults_yaml(plan: TuningPlan, stages: Sequence[Stage]) -> str:
    """Return every hyperparameter's default, as a file for `train`, each line with the study that set it."""
    values, origin = dict(plan.baseline), dict.fromkeys(plan.baseline, "the plan")
    for stage in stages:
        if stage.decision is None:
            continue
        looked_at = stage.contest.varied if stage.contest else (stage.study.variable,) if stage.study else ()
        for name in looked_at:
            if name in stage.adopted:
                origin[name] = f"{stage.name}, was {format_value(values[name])}"
            elif stage.decision.verdict is Verdict.SCREENING:
                origin[name] = f"{origin[name]}; {stage.name} was a screening"
            else:
                origin[name] = f"{stage.name}, kept" if origin[name] == "the plan" else \
                    f"{origin[name]}; {stage.name}, kept"
        values |= stage.adopted
    width = max(len(f"{name}: {yaml_value(value)}") for name, value in values.items())
    lines = [f"{f'{name}: {yaml_value(value)}':<{width}}  # {origin[name]}" for name, value in values.items()]
    return (f"# Defaults of the plan {plan.name}; the comment names what set each. "
            f"Run them with: python -m kaggle_runner train defaults.yaml\n" + "\n".join(lines) + "\n")


def plan_summary(plan: TuningPlan, stages: Sequence[Stage]) -> str:
    """Return one line for each study of a plan: what it varied, what it decided, and with which numbers."""
    left = stages_left(plan, stages)
    rest = f"\n{how_many(left, 'stage')} of it {'is' if left == 1 else 'are'} not done yet.\n" if left else ""
    return f"# {plan.name}\n\n{_markdown(plan_table(stages))}\n{rest}"


def stages_left(plan: TuningPlan, stages: Sequence[Stage]) -> int:
    """Return how many stages of a plan are not done."""
    return len(plan.studies) + bool(plan.final) - len([stage for stage in stages if stage.decision])


def plan_table(stages: Sequence[Stage]) -> list[list[str]]:
    """Return what each study decided, and with which numbers, the header first."""
    rows = [["study", "decision", "gain", "noise", "why"]]
    for stage in stages:
        decision = stage.decision
        if decision is None:
            rows.append([stage.name, "not done", "", "", ""])
            continue
        best = next((row for row in decision.comparisons if row.value == decision.challenger), None)
        adopted = ", ".join(f"{name} {format_value(value)}" for name, value in stage.adopted.items())
        rows.append([stage.name, adopted or _kept(decision),
                     _number(best.gain) if best else "", _number(decision.noise), decision.reason])
    return rows


def settings_table(contest: Confirmation) -> list[list[str]]:
    """Return the searched hyperparameters of each setting of a confirmation, the header first."""
    names = list(contest.varied)
    return [["setting", *names], *([name, *(format_value(params[key]) for key in names)]
                                   for name, params in contest.settings.items())]


def _kept(decision: Decision) -> str:
    return decision.verdict if decision.verdict is Verdict.SCREENING else "kept"


def verdict(spec: VarySpec, decision: Decision) -> str:
    """Say in one short sentence what was decided."""
    if decision.verdict is Verdict.ADOPT:
        return f"Adopted: {spec.variable} {format_value(decision.winner)}."
    if decision.verdict is Verdict.SCREENING:
        return f"Screening, no decision: {spec.variable} stays {format_value(spec.default)}."
    return f"Kept: {spec.variable} {format_value(spec.default)}."


def errors_table(contest: Contest, snapshot: Snapshot, decision: Decision) -> list[list[str]]:
    """Return each value with its mean, its gain and how sure that is, the header first."""
    metric = contest.judged_by.name
    in_bits = metric == LOSS and trainer_of(snapshot.records[0].trial.params) == "charlm"
    rows = [["value", "seeds", f"mean {metric}", *(["bits/char"] if in_bits else []), "gain over the default",
             "standard error", "95 % interval", "effect", "tokens"]]
    for row in decision.comparisons:
        tokens = {record.result.tokens for record in snapshot.records if record.result is not None
                  and record.result.status is Status.COMPLETE and same(contest.value_of(record.trial), row.value)}
        mark = " (default)" if same(row.value, contest.default) else ""
        mean = "" if row.mean is None else format_metric(metric, row.mean, _DIGITS)
        bits = [_number(None if row.mean is None else row.mean / math.log(2))] if in_bits else []
        rows.append([f"{format_value(row.value)}{mark}", str(row.seeds), mean, *bits, _number(row.gain),
                     _number(row.standard_error), _interval(row), "" if row.effect is None else f"{row.effect:+.1f}",
                     " or ".join(f"{count:,}" for count in sorted(tokens))])
    return rows


def reading(contest: Contest, decision: Decision) -> str:
    """Say how the table is to be read, and how large the noise is."""
    metric = contest.judged_by
    what = "Losses are in nats; a gain" if metric.name == LOSS else "A gain"
    better = "lower" if metric.goal == "minimize" else "higher"
    lines = [f"{what} is the mean over the seeds that both have of how much {better} the "
             f"{metric.short.replace('_', ' ')} is, and an effect is the gain in deviations of the noise."]
    if decision.noise is not None:
        lines.append(f"Noise: {_number(decision.noise)}, the deviation of the {metric.short.replace('_', ' ')} when "
                     f"the levels of value and seed are taken away, with {decision.freedom} degrees of freedom; a gain "
                     f"below {_number(t_975(decision.freedom) * decision.noise * math.sqrt(2 / len(contest.seeds)))} "
                     f"cannot be told from none with {len(contest.seeds)} seeds.")
    return " ".join(lines)


def failures(snapshot: Snapshot) -> list[str]:
    """Name the trials that did not reach their end, with the reason."""
    failed = [record for record in snapshot.finished if record.result and record.result.status is not Status.COMPLETE]
    return [f"trial {record.trial.id} {record.result.status.value}: {record.result.reason}"
            for record in failed if record.result]


def cost(*snapshots: Snapshot) -> str:
    """Say how long the trials took."""
    results = [record.result for snapshot in snapshots for record in snapshot.finished if record.result is not None]
    seconds = [result.seconds for result in results]
    if not seconds:
        return ""
    return (f"Cost: {how_many(len(results), 'trial')}, {sum(seconds):.0f} s added up; the median trial took "
            f"{statistics.median(seconds):.1f} s.")


def at_an_end(stage: Stage, snapshot: Snapshot) -> str:
    """Say what was adopted at an end of its range, where better ones may lie just beyond."""
    ends = [boundary(axis, stage.adopted[axis.name]) for axis in read_axes(snapshot) if axis.name in stage.adopted]
    found = [f"`{end.name}` {format_value(end.value)} lies at the {end.side} end of what was searched"
             for end in ends if end is not None]
    return f"{sentence('; '.join(found))[:-1]}: there may be better beyond." if found else ""


def at_the_edge(spec: VarySpec, decision: Decision) -> str:
    """Say when the best value is the last one tried on its side, where better ones may lie just beyond."""
    numbers = [value for value in spec.values if isinstance(value, int | float) and not isinstance(value, bool)]
    best = decision.winner
    if len(numbers) < len(spec.values) or best not in (max(numbers), min(numbers)) or best == 0:
        return ""
    side, other = ("largest", "larger") if best == max(numbers) else ("smallest", "smaller")
    return f"{format_value(best)} is the {side} value that was tried: a {other} one may be better still."


def caution(snapshot: Snapshot) -> str:
    """Say what else differed between the runs that a reader should know."""
    found = {(record.result.versions.get("python"), record.result.versions.get("torch"),
              record.result.notes.get("compute_dtype")) for record in snapshot.finished
             if record.result is not None and record.result.versions}
    if len(found) < 2:
        return ""
    return "Caution: the runs were made under " + " and ".join(
        f"Python {python} with torch {torch} in {dtype}" for python, torch, dtype in sorted(found, key=str)) + "."


def _interval(row: Comparison) -> str:
    if row.gain is None or row.half_width is None:
        return ""
    return f"{_number(row.gain - row.half_width)} to {_number(row.gain + row.half_width)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(format_value(value) for value in values)


def sentence(text: str) -> str:
    """Make a reason a sentence."""
    return text[:1].upper() + text[1:] + "."


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
