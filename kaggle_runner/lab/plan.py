"""A tuning plan: an ordered list of one-at-a-time studies and a final sweep, each adopting its winner.

Nothing but the journals in the studies' folders is remembered: which studies are done, what they decided and what the
baseline is now are computed from them, so a plan can be stopped anywhere and continued on another machine.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.files import folder_name
from kaggle_runner.lab.confirmation import Confirmation, confirmation
from kaggle_runner.lab.contest import finished
from kaggle_runner.lab.decision import Decision
from kaggle_runner.lab.vary import (
    SEEDS,
    PlannedStudy,
    VarySpec,
    check_baseline,
    check_keys,
    check_metric,
    check_seeds,
    check_study,
    hold_baseline,
    make_vary,
    trainer_in,
)
from kaggle_runner.metrics import Metric
from kaggle_runner.study.journal import JOURNAL, Snapshot, changed_parameters, confirm_directory, read_study
from kaggle_runner.sweep.problems import Findings, spelled
from kaggle_runner.sweep.scoring import HELD
from kaggle_runner.sweep.spec import SweepSpec, check_config
from kaggle_runner.sweep.yaml_file import find_file, parse_mapping, refuse_other_file

ARCHIVE = "archive_runs"
FINAL_KEYS = ("name", "note", "method", "run_cap", "early_terminate", "parameters")


@dataclass(frozen=True, kw_only=True)
class NamedStudy:
    """One study of a plan."""

    name: str
    study: PlannedStudy
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What this study alone trains with, such as fewer tokens for a screening; nothing of it is adopted."""


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """A plan as its file has it."""

    source: str
    name: str
    text: str
    """The text of the file, word for word."""
    seeds: tuple[int, ...]
    baseline: Mapping[str, Any]
    """Every field of the config but `seed`, before any study."""
    studies: tuple[NamedStudy, ...]
    final: Mapping[str, Any]
    """The sweep at the end, without the fixed settings; empty if there is none."""
    judged_by: Metric
    """What all its studies and its sweep go by."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One folder of a plan, with the baseline that it starts from."""

    index: int
    folder: Path
    baseline: Mapping[str, Any]
    study: VarySpec | None = None
    """The one-at-a-time study; none for the final sweep."""
    sweep: SweepSpec | None = None
    """The sweep; none for a one-at-a-time study."""
    decision: Decision | None = None
    """What the study decided; none until it is done."""
    contest: Confirmation | None = None
    """What the final sweep's best points met, once it is done."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def adopted(self) -> dict[str, Any]:
        """What is the default from here on because of this stage; empty if everything stays."""
        if self.decision is None:
            return {}
        if self.contest is not None:
            won = self.contest.settings[self.decision.winner]
            return {name: won[name] for name in self.contest.varied if won[name] != self.baseline[name]}
        assert self.study is not None
        winner = self.decision.winner
        return {} if winner == self.study.default else {self.study.variable: winner}


def read_plan(path: Path) -> TuningPlan:
    """Read a tuning plan and check all of it; those that ship are found by their name in `sweeps/`.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path, found = find_file(path, "studies"), Findings()
    raw = parse_mapping(path, found, mark="studies")
    refuse_other_file(path, raw, "tune")
    check_keys(found, "", raw, ("name", "note", "seeds", "baseline", "studies", "final", "metric"))
    metric = check_metric(found, raw, trainer_in(raw.get("baseline")))
    baseline = check_baseline(found, str(path), raw.get("baseline"))
    seeds = check_seeds(found, "seeds", raw["seeds"]) if "seeds" in raw else SEEDS
    studies = _read_studies(found, str(path), raw.get("studies"), baseline, trainer_in(raw.get("baseline")))
    final = raw.get("final") or {}
    if not isinstance(final, dict):
        found.problem("final", f"must be a mapping, got {spelled(final)}")
        final = {}
    check_keys(found, "final.", final, FINAL_KEYS)
    if final and baseline:
        try:
            final_spec(final, baseline, str(path), metric)
        except SweepError as error:
            found.problems += [f"final.{problem}" for problem in error.problems]
    if found.problems or seeds is None:
        raise SweepError(str(path), found.problems)
    varied = {study.study.variable: [baseline[study.study.variable], *study.study.values] for study in studies}
    if final:  # one scoring for the whole plan, so that a winner's value can be followed from study to study
        held = final_spec(final, baseline, str(path), metric).held
        for name, field in HELD.items():
            if field in held:
                varied.setdefault(name, [baseline[name]]).append(held[field])
    return TuningPlan(source=str(path), name=str(raw.get("name") or path.stem), text=path.read_text(encoding="utf-8"),
                      seeds=seeds, baseline=hold_baseline(baseline, varied), studies=studies, final=final,
                      judged_by=metric)


def final_spec(final: Mapping[str, Any], baseline: Mapping[str, Any], source: str, metric: Metric) -> SweepSpec:
    """Return the sweep at the end of a plan on a baseline.

    Raises:
        SweepError: it has problems; holds all of them.
    """
    searched = final.get("parameters") or {}
    fixed = {name: {"value": value} for name, value in baseline.items() if name not in searched}
    raw = {"method": "bayes", **{key: final[key] for key in ("method", "run_cap", "early_terminate") if key in final},
           "name": final.get("name", "bayesian_optimization"), "metric": metric.as_dict(),
           "parameters": {**searched, **fixed}}
    return check_config(raw, source)


def stages(plan: TuningPlan, directory: Path) -> Iterator[Stage]:
    """Yield the stages of a plan up to and with the first that is not done, each on what the ones before it adopted.

    Raises:
        StudyError: a study's baseline failed, or two of its runs differ in more than they should.
    """
    baseline = dict(plan.baseline)
    for index, named_study in enumerate(plan.studies):
        folder = directory / f"{index}_{folder_name(named_study.name)}"
        spec = make_vary(named_study.study, {**baseline, **named_study.settings}, source=plan.source,
                         name=named_study.name, default_seeds=plan.seeds, metric=plan.judged_by)
        snapshot = read_study(folder) if (folder / JOURNAL).is_file() else None
        decision = finished(spec, snapshot) if snapshot is not None and _matches(snapshot, spec.sweep()) else None
        stage = Stage(index=index, folder=folder, baseline=dict(baseline), study=spec, decision=decision)
        yield stage
        if decision is None:
            return
        baseline |= stage.adopted
    if plan.final:
        yield _final_stage(plan, directory, baseline)


def check_edits(plan: TuningPlan, directory: Path) -> None:
    """Refuse a plan whose finished studies no longer match it.

    Raises:
        StudyError: says which studies do not match, in what, which others were built on them, and what to do.
    """
    wrong: list[str] = []
    known: set[str] = set()
    for stage in stages(plan, directory):
        known.add(stage.name)
        if not (stage.folder / JOURNAL).is_file():
            continue
        wanted = stage.study.sweep() if stage.study else dict(stage.sweep.raw) if stage.sweep else {}
        snapshot = read_study(stage.folder)
        if not _matches(snapshot, wanted):
            wrong.append(f"{stage.name} ({', '.join(_differences(snapshot.info.sweep, wanted))})")
    planned = {f"{index}_{folder_name(study.name)}" for index, study in enumerate(plan.studies)}
    if plan.final:
        planned.add(_final_folder(plan, directory).name)
    there = sorted(path.name for path in directory.glob("[0-9]*_*") if (path / JOURNAL).is_file())
    wrong += [f"{name} (no study of the plan)" for name in there if name not in planned]
    if not wrong:
        return
    first = min(_number(text) for text in wrong)
    later = [name for name in there if _number(name) > first and not any(text.startswith(name) for text in wrong)]
    built = f"; built on them: {', '.join(later)}" if later else ""
    raise StudyError(f"the plan {plan.source} was edited after it began, and what was run no longer matches: "
                     f"{'; '.join(wrong)}{built}; restore the plan as {directory / 'plan.yaml'} has it, or set aside "
                     f"what does not match: python -m kaggle_runner archive {directory / wrong[0].split(' (')[0]} "
                     f"--reason 'the plan was edited'{' --force' if later else ''}")


def _read_studies(found: Findings, source: str, raw: Any, baseline: Mapping[str, Any],
                  trainer: str | None) -> tuple[NamedStudy, ...]:
    if not isinstance(raw, list) or not raw:
        found.problem("studies", f"must be a list of studies, got {spelled(raw)}; write - vary: learning_rate and "
                                 f"values: [1.0e-3, 3.0e-3] below it")
        return ()
    studies = []
    for index, entry in enumerate(raw):
        path = f"studies[{index}]."
        if not isinstance(entry, dict):
            found.problem(path[:-1], f"must be a mapping with vary and values, got {spelled(entry)}")
            continue
        check_keys(found, path, entry, ("vary", "values", "seeds", "name", "note", "settings"))
        settings = entry.get("settings") or {}
        if not isinstance(settings, dict):
            found.problem(f"{path}settings", f"must be a mapping, got {spelled(settings)}")
            settings = {}
        own = baseline
        if settings and baseline:
            inner = Findings()
            own = check_baseline(inner, source, {**baseline, **settings})
            found.problems += [problem.replace("baseline", f"{path}settings", 1) for problem in inner.problems]
        study = check_study(found, path, entry, own, trainer=trainer)
        if study is not None:
            name = str(entry.get("name") or study.variable)
            if not re.fullmatch(r"[\w-]+", name):
                found.problem(f"{path}name", f"names a folder and may hold letters, digits, - and _, got {name!r}")
            chosen = {key: own[key] for key in settings if key in own}
            studies.append(NamedStudy(name=name, study=study, settings=chosen))
    return tuple(studies)


def _final_folder(plan: TuningPlan, directory: Path) -> Path:
    return directory / f"{len(plan.studies)}_{folder_name(str(plan.final.get('name', 'bayesian_optimization')))}"


def _final_stage(plan: TuningPlan, directory: Path, baseline: Mapping[str, Any]) -> Stage:
    spec = final_spec(plan.final, baseline, plan.source, plan.judged_by)
    folder = _final_folder(plan, directory)
    decision = contest = None
    if (folder / JOURNAL).is_file() and _matches(snapshot := read_study(folder), spec.raw) \
            and (confirm_directory(folder) / JOURNAL).is_file():
        contest = confirmation(snapshot, spec, baseline, plan.seeds)
        confirmed = read_study(confirm_directory(folder))
        decision = finished(contest, confirmed) if _matches(confirmed, contest.sweep()) else None
    return Stage(index=len(plan.studies), folder=folder, baseline=dict(baseline), sweep=spec, decision=decision,
                 contest=contest)


def _matches(snapshot: Snapshot, sweep: Mapping[str, Any]) -> bool:
    return not _differences(snapshot.info.sweep, sweep)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name what is not the same in two sweeps, with the values where they are short."""
    found = [key for key in ("method", "metric", "early_terminate", "run_cap") if old.get(key) != new.get(key)]
    left, right = old.get("parameters", {}), new.get("parameters", {})
    for name in changed_parameters(old, new):
        was, now = (_spelled_entry(entry) for entry in (left.get(name), right.get(name)))
        found.append(f"{name} {was} then, {now} now")
    return found


def _spelled_entry(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return "not there"
    return spelled(entry.get("value", entry.get("values", dict(entry))))


def _number(name: str) -> int:
    return int(name.split("_")[0])
