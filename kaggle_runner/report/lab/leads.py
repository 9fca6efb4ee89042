"""What the lab has to say first of a study: its decision with its table of errors, or what it still waits for."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaggle_runner.errors import ConfigError, StudyError, SweepError
from kaggle_runner.lab.contest import Contest, finished
from kaggle_runner.lab.decision import Decision, same
from kaggle_runner.lab.plan import Stage, TuningPlan, read_plan, stages
from kaggle_runner.lab.summary import (
    at_an_end,
    at_the_edge,
    caution,
    cost,
    errors_table,
    failures,
    final_summary,
    plan_table,
    reading,
    sentence,
    settings_table,
    stages_left,
    study_summary,
    verdict,
)
from kaggle_runner.lab.vary import VarySpec, read_vary
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.lab.figures import curves_figure, gains_figure, losses_figure
from kaggle_runner.report.lead import Lead, Overview, frozen
from kaggle_runner.report.style import count_text, number_text, seconds_text
from kaggle_runner.study.journal import JOURNAL, Snapshot, confirm_directory, read_study
from kaggle_runner.study.table import format_value

PLAN = "plan.yaml"
"""File in the folder of a tuning plan's studies."""


def find_lead(directory: Path) -> Lead | None:
    """Return what is said first of a study: of the lab's, as its files and its plan's say; none for any other.

    Raises:
        StudyError: it is not a study, or its journal is damaged.
    """
    stage = _stage_of(directory)
    if stage is not None:
        return stage_lead(stage)
    if not (directory / "study.yaml").is_file():
        return None
    try:
        spec = read_vary(directory / "study.yaml")
    except (SweepError, ConfigError):  # a confirmation's file, or one of another version: an ordinary page tells no lie
        return None
    snapshot = read_study(directory)
    return study_lead(replace(spec, name=snapshot.info.name), snapshot)


def stage_lead(stage: Stage) -> Lead | None:
    """Return what is said first of a stage of a plan; none for a sweep that is not confirmed yet.

    Raises:
        StudyError: its journal is damaged.
    """
    if stage.study is not None:
        return study_lead(stage.study, read_study(stage.folder))
    if stage.contest is None or stage.decision is None:
        return None
    snapshot, confirmed = read_study(stage.folder), read_study(confirm_directory(stage.folder))
    contest, decision = stage.contest, stage.decision
    won = "Kept: the baseline." if same(decision.winner, contest.default) else f"Adopted: {decision.winner}."
    return Lead(
        title="The best points beside the baseline, over seeds", is_all=False,
        answer=f"{won} {sentence(decision.reason)}", sentences=_filled(
            "The best of many trials looks better than it is, so the best points of this sweep were trained again "
            "beside the baseline.", reading(contest, decision), cost(confirmed)),
        facts=_facts(contest, confirmed, decision), warnings=_filled(at_an_end(stage, snapshot), caution(confirmed)),
        tables=(frozen(settings_table(contest)), frozen(errors_table(contest, confirmed, decision))),
        figures=(losses_figure(contest, confirmed, decision, is_pages=False), gains_figure(contest, decision)),
        summary=final_summary(stage, snapshot, confirmed))


def study_lead(spec: VarySpec, snapshot: Snapshot) -> Lead:
    """Return what is said first of a one-at-a-time study, decided or not."""
    try:
        decision, problem = finished(spec, snapshot), ""
    except StudyError as error:
        decision, problem = None, str(error)
    analysis = analyse(snapshot)
    values = ", ".join(format_value(value) for value in spec.values)
    figures = (losses_figure(spec, snapshot, decision), *([gains_figure(spec, decision)] if decision else []),
               curves_figure(spec, analysis, snapshot))
    about = (f"Varied: {spec.variable} over {values}, the default being {format_value(spec.default)}; seeds "
             f"{', '.join(map(str, spec.seeds))}, the same for every value.")
    if decision is None:
        left = f"{len(snapshot.finished)} of at least {count_text(len(spec.first_trials()), 'trial')} are done"
        return Lead(title="What was seen", is_all=True, sentences=_filled(spec.note, about, cost(snapshot)),
                    answer=sentence(problem) if problem else f"Not decided yet: {left}.",
                    warnings=tuple(map(sentence, failures(snapshot))),
                    figures=tuple(figure for figure in figures if figure is not None))
    return Lead(
        title="What was seen", is_all=True, answer=f"{verdict(spec, decision)} {sentence(decision.reason)}",
        sentences=_filled(spec.note, about, reading(spec, decision), cost(snapshot)),
        facts=_facts(spec, snapshot, decision),
        warnings=_filled(at_the_edge(spec, decision), caution(snapshot), *map(sentence, failures(snapshot))),
        tables=(frozen(errors_table(spec, snapshot, decision)),),
        figures=tuple(figure for figure in figures if figure is not None),
        summary=study_summary(spec, snapshot, decision))


def find_plan(directory: Path) -> tuple[TuningPlan, tuple[Stage, ...]] | None:
    """Return the tuning plan whose studies are in a folder, with its stages; none if it is no such folder.

    Raises:
        SweepError: its `plan.yaml` has problems.
        StudyError: a baseline has failed, or a journal is damaged.
    """
    if (directory / JOURNAL).is_file() or not (directory / PLAN).is_file():
        return None
    plan = read_plan(directory / PLAN)
    return plan, tuple(stages(plan, directory))


def plan_overview(plan: TuningPlan, so_far: tuple[Stage, ...]) -> Overview:
    """Return the first part of a plan's page: what each study decided, and what is the default now."""
    left = stages_left(plan, so_far)
    adopted: dict[str, Any] = {}
    for stage in so_far:
        adopted |= stage.adopted
    changed = ", ".join(f"{name} {format_value(value)}" for name, value in adopted.items())
    done = f"{count_text(left, 'stage')} of {len(plan.studies) + bool(plan.final)} not done yet" if left else "all done"
    return Overview(title=plan.name, table=frozen(plan_table(so_far)),
                    answer=f"Adopted so far: {changed or 'nothing, so every default stands'} ({done}).")


def _stage_of(directory: Path) -> Stage | None:
    """Return the stage of a plan that lies in this folder; none if the folder beside it is no plan's."""
    above = directory.resolve().parent
    try:
        found = find_plan(above)
        return next((stage for stage in found[1] if stage.name == directory.resolve().name), None) if found else None
    except (SweepError, StudyError):  # the plan's file or another study is at fault: this one is read alone
        return None


def _facts(contest: Contest, snapshot: Snapshot, decision: Decision) -> tuple[tuple[str, str, str], ...]:
    best = next((row for row in decision.comparisons if decision.challenger is not None
                 and same(row.value, decision.challenger)), None)
    facts = [("default from here on", format_value(decision.winner),
              "as before" if same(decision.winner, contest.default) else f"was {format_value(contest.default)}")]
    if best is not None and best.gain is not None:
        reach = f"± {number_text(best.half_width, 2)} (95 %)" if best.half_width is not None else "no interval"
        facts.append((f"gain of {format_value(best.value)}", number_text(best.gain, 3), reach))
    facts.append(("noise of one trial", f"± {number_text(decision.noise, 2)}" if decision.noise is not None else
                  "not known", f"{decision.freedom} degrees of freedom" if decision.freedom else ""))
    facts.append(("seeds", str(max(row.seeds for row in decision.comparisons)), "of the contenders"))
    spent = [record.result.seconds for record in snapshot.finished if record.result]
    facts.append(("time", seconds_text(sum(spent)), f"{seconds_text(statistics.median(spent))} a trial"))
    return tuple(facts)


def _filled(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)
