"""Run or continue a tuning plan: stage after stage, each on the baseline that the ones before it have left."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kaggle_runner.config import trainer_of
from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.files import IN_PLACE, make_directory, write_atomically
from kaggle_runner.lab.confirmation import confirmation
from kaggle_runner.lab.contest import LabOrder, run_contest
from kaggle_runner.lab.plan import Stage, TuningPlan, check_edits, final_spec, stages
from kaggle_runner.lab.summary import decision_json, defaults_yaml, final_summary, plan_summary, study_summary
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.local_sweep import SweepOrder, run_embedded
from kaggle_runner.run.workers import require_packages
from kaggle_runner.study.journal import confirm_directory, read_study
from kaggle_runner.study.table import format_value

Present = Callable[[Stage], None]
"""Type of what draws the pictures into the folder of a stage that is done."""
_WAY_OUT = "choose another directory with --out"


@dataclass(frozen=True, kw_only=True)
class PlanSession:
    """What a session did to a plan."""

    stages: tuple[Stage, ...]
    """The stages up to the first that is not done."""
    reason: str = ""
    """Why the session ended before the plan did; empty if the plan is done."""


def run_plan(plan: TuningPlan, order: LabOrder, environment: Environment, notify: Notify,
             present: Present) -> PlanSession:
    """Run stages until the plan is done, the session must end, or a trial cannot be run.

    Raises:
        MissingPackages: what training needs is not installed.
        StudyError: the plan was edited after it began, or a study cannot be used.
        WorkerError: what the baseline names cannot be loaded; says why.
    """
    make_directory(order.directory, way_out=_WAY_OUT)
    check_edits(plan, order.directory)
    write_atomically(order.directory / "plan.yaml", plan.text, way_out=_WAY_OUT)
    while True:
        check_edits(plan, order.directory)
        so_far = tuple(stages(plan, order.directory))
        for stage in so_far:
            _write_up(stage, present)
        write_overview(plan, order.directory)
        if so_far[-1].decision is not None:
            return PlanSession(stages=so_far)
        _require_packages(plan, so_far[-1], environment)
        reason = _run_stage(so_far[-1], plan, order, environment, notify)
        if reason:
            return PlanSession(stages=tuple(stages(plan, order.directory)), reason=reason)
        if tuple(stages(plan, order.directory))[:len(so_far)][-1].decision is None:
            raise StudyError(f"{so_far[-1].folder} is not decided although its trials are done; look at its trials: "
                             f"python -m kaggle_runner show {so_far[-1].folder}")


def _require_packages(plan: TuningPlan, stage: Stage, environment: Environment) -> None:
    """See that what a stage and those after it will import is installed, before it trains."""
    configs = [{**plan.baseline, **named.settings, named.study.variable: value}
               for named in plan.studies[stage.index:] for value in named.study.values]
    final = [final_spec(plan.final, plan.baseline, plan.source, plan.judged_by).parameters] if plan.final else []
    require_packages(environment, trainer_of(plan.baseline), plan.baseline, *configs, *final, searches=bool(final))


def write_overview(plan: TuningPlan, directory: Path) -> None:
    """Write `defaults.yaml` and `summary.md` of a plan from what its folders hold now.

    Raises:
        StudyError: they cannot be written.
    """
    so_far = tuple(stages(plan, directory))
    write_atomically(directory / "defaults.yaml", defaults_yaml(plan, so_far), way_out=IN_PLACE)
    write_atomically(directory / "summary.md", plan_summary(plan, so_far), way_out=IN_PLACE)


def _run_stage(stage: Stage, plan: TuningPlan, order: LabOrder, environment: Environment, notify: Notify) -> str:
    """Run what a stage lacks; return why it ended early, if it did."""
    notify(Note(text=f"{stage.name}: {_intention(stage)}"))
    own = replace(order, directory=stage.folder)
    if stage.study is not None:
        return run_contest(stage.study, own, environment, notify).reason
    assert stage.sweep is not None
    run = run_embedded(stage.sweep, SweepOrder(
        directory=stage.folder, cpu_only=order.cpu_only, deadline=order.deadline, defaults=stage.baseline,
        pruning=stage.sweep.early_terminate is not None, one_thread=trainer_of(stage.baseline) == "charlm"),
        environment, notify)
    if run.interrupted or run.gave_up:
        return run.reason
    contest = confirmation(run.snapshot, stage.sweep, stage.baseline, plan.seeds)
    own = replace(order, directory=confirm_directory(stage.folder))
    return run_contest(contest, own, environment, notify).reason


def _intention(stage: Stage) -> str:
    if stage.study is not None:
        study = stage.study
        return (f"{study.variable} {', '.join(format_value(value) for value in study.values)} with seeds "
                f"{', '.join(map(str, study.seeds))}; the default is {format_value(study.default)}")
    return f"{', '.join(stage.sweep.searched)} together" if stage.sweep else ""


def _write_up(stage: Stage, present: Present) -> None:
    """Write the summary of a stage that is done, unless an earlier session did, and have it drawn."""
    if stage.decision is None or (stage.folder / "decision.json").is_file():
        return
    snapshot = read_study(stage.folder)
    if stage.study is not None:
        text = study_summary(stage.study, snapshot, stage.decision)
    else:
        text = final_summary(stage, snapshot, read_study(confirm_directory(stage.folder)))
    present(stage)
    write_atomically(stage.folder / "summary.md", text, way_out=IN_PLACE)
    # last: it says that all is there
    write_atomically(stage.folder / "decision.json", decision_json(stage.decision), way_out=IN_PLACE)
