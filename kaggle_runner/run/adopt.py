"""Take a study over into a changed sweep file: trials that the new file could have made itself stay trials.

The others are learned from as trials of another study are. The study as it was is kept beside the new one, and when the
file changes again what it has counts again: a range that was narrowed and widened is as one that was not. A kill at any
moment leaves the old study, or the new one and the old.
"""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params, trainer_of
from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write
from kaggle_runner.run.confirm import sweep_of_trials
from kaggle_runner.run.points.prior import Known, Lesson, identity_of, known_of, lessons_in, same_training
from kaggle_runner.study.journal import (
    JOURNAL,
    Snapshot,
    Study,
    changed_keys,
    confirm_directory,
    other_seed,
    read_study,
)
from kaggle_runner.study.ranking import OF_TRIAL, is_complete
from kaggle_runner.study.trial import Status, Trial, TrialRecord
from kaggle_runner.sweep.spec import SweepSpec

MARK = "adopted"
"""File that a half-made study lacks: written last, it names the folder of the study as it was."""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What became of a study's trials."""

    changes: tuple[str, ...]
    """What differs between the two sweep files, a line each."""
    kept: int
    """Trials that count in the new study as they did in the old one."""
    returned: int
    """How many of them come back from before an earlier change."""
    learned: int
    """Trials that the new file cannot have made, and that the search learns from, those of other studies too."""
    learns: bool
    """Whether the new file's method learns from trials: random search and grids do not."""
    left: int
    """Trials that tell the new study nothing: failed, pruned or cut off elsewhere."""
    aside: Path
    """Where the study as it was lies now."""

    def as_lines(self) -> list[str]:
        """Say it for a person."""
        again = f", {self.returned} of them from before an earlier change" if self.returned else ""
        only = "are only learned from" if self.learns else "are kept for a file that learns"
        return [*self.changes, f"{self.kept} trials count here too{again}, {self.learned} {only}, {self.left} are left "
                               f"behind; the study as it was is kept as {self.aside}"]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A finished trial that counts in the new study."""

    record: TrialRecord
    params: Mapping[str, Any]
    """As the new file would name them."""
    study: Snapshot
    """The study that has it: the one that is taken over, or one before it."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What is to become of a study, found out without a change to anything."""

    old: Snapshot
    spec: SweepSpec
    changes: tuple[str, ...]
    seed: int | None
    kept: tuple[_Kept, ...]
    lessons: tuple[Lesson, ...]
    left: int

    @classmethod
    def of(cls, directory: Path, spec: SweepSpec, seed: int | None = None) -> "Adoption | None":
        """Compare a study with a changed sweep file; none where nothing has changed, or nothing is there.

        Raises:
            StudyError: nothing of the old study can count, or it has another seed than somebody gave.
        """
        if not (directory / JOURNAL).is_file():
            return None
        old = read_study(directory)
        changed = changes(old.info.sweep, spec.raw)
        if not changed:
            return None
        _refuse_strange(old, spec, seed)
        line = _line_of(old)
        kept = _counting(line, spec)
        here = [one for one in kept if one.study is old]
        taught = [record for record in old.records if is_complete(record) and same_training(record, spec) is None]
        own = {identity_of(study, record) for study in line for record in study.finished
               if same_training(record, spec) is not None}
        counting = {lesson.computation for one in kept if is_complete(one.record)
                    for lesson in lessons_in(one.study, [one.record], spec)}
        lessons = {lesson.computation: lesson for lesson in (
            *known_of(old).lessons, *lessons_in(replace(old, directory=_aside(directory)), taught, spec))
            if lesson.identity not in own}
        return cls(old=old, spec=spec, changes=changed, seed=seed, kept=tuple(kept),
                   lessons=tuple(lesson for key, lesson in lessons.items() if key not in counting),
                   left=len(old.records) - len(here) - len(taught))

    def carry_out(self) -> Adopted:
        """Make the new study, and put it in the place of the old one.

        Raises:
            StudyError: the old one is in use, or a directory cannot be written.
        """
        directory, old = self.old.directory, self.old
        with Study.open_for_writing(directory, name=old.info.name, sweep=old.info.sweep, metric=old.info.metric,
                                    goal=old.info.goal, seed=self.seed):
            new, aside = directory.with_name(f"{directory.name}.adopting"), _aside(directory)
            try:
                shutil.rmtree(new, ignore_errors=True)
                self._write(new, aside)
                directory.rename(aside)
                new.rename(directory)
            except OSError as error:
                raise cannot_write(new, error) from error
        return Adopted(changes=self.changes, learns=self.spec.method == "bayes", kept=len(self.kept),
                       learned=len(self.lessons), aside=aside, left=self.left,
                       returned=sum(one.study is not old for one in self.kept))

    def _write(self, new: Path, aside: Path) -> None:
        old, spec = self.old, self.spec
        with Study.open_for_writing(new, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                    seed=old.info.seed) as study:
            start = known_of(old).start
            if self.lessons or start:
                study.append(Known(lessons=self.lessons, start=start).as_event())
            if self.kept and old.baseline is not None:
                study.record_baseline(old.baseline, old.base_scores)
            confirming: list[tuple[TrialRecord, Trial, Path]] = []
            for number, one in enumerate(self.kept):
                trial = replace(one.record.trial, id=f"{number:04d}", number=number, params=one.params)
                _copy(study, one.record, trial, one.study.directory)
                confirming += [(record, replace(record.trial, origin=OF_TRIAL + trial.id), one.study.directory)
                               for record in one.study.confirming
                               if record.trial.origin == OF_TRIAL + one.record.trial.id and record.result is not None
                               and record.result.status is not Status.PREEMPTED]
        if confirming:
            confirming.sort(key=lambda one: one[0].trial.number)
            trials = [replace(trial, id=f"{number:04d}", number=number)
                      for number, (_, trial, _) in enumerate(confirming)]
            with Study.open_for_writing(confirm_directory(new), name=f"{spec.name} confirmed", seed=None,
                                        sweep=sweep_of_trials(trials), metric=spec.metric, goal=spec.goal) as study:
                for (record, _, directory), trial in zip(confirming, trials, strict=True):
                    _copy(study, record, trial, confirm_directory(directory))
        (new / MARK).write_text(f"{aside.name}\n")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what differs between two sweep files, a line for each key."""
    lines = []
    for key in changed_keys(old, new):
        left, right = _entry(old, key), _entry(new, key)
        lines.append(f"{key}: {_shown(left)} -> {_shown(right)}")
    return tuple(lines)


def adopt(directory: Path, spec: SweepSpec, seed: int | None = None) -> Adopted | None:
    """Make a study of another sweep file one of this file; none where nothing has changed, or nothing is there.

    Raises:
        StudyError: nothing of the old study can count, it has another seed than `seed`, it is in use, or a directory
            cannot be written.
    """
    finish_adoption(directory)
    adoption = Adoption.of(directory, spec, seed)
    return None if adoption is None else adoption.carry_out()


def finish_adoption(directory: Path) -> None:
    """Put a study that is made in its place, if a kill came between the two moves."""
    new = directory.with_name(f"{directory.name}.adopting")
    if not directory.exists() and (new / MARK).is_file():
        with contextlib.suppress(OSError):
            new.rename(directory)


def _refuse_strange(old: Snapshot, spec: SweepSpec, seed: int | None) -> None:
    directory = old.directory
    if (old.info.metric, old.info.goal) != (spec.metric, spec.goal):
        raise StudyError(f"{directory} was judged by {old.info.metric} ({old.info.goal}), this sweep by {spec.metric} "
                         f"({spec.goal}), so nothing of it counts here; choose another directory with --study")
    trainer = next((trainer_of(record.trial.params) for record in old.records), spec.trainer)
    if trainer != spec.trainer:
        raise StudyError(f"{directory} trained with {trainer}, this sweep trains with {spec.trainer}, so nothing of it "
                         f"counts here; choose another directory with --study")
    if seed is not None and seed != old.info.seed:
        raise other_seed(old, seed)


def _aside(directory: Path) -> Path:
    """Return where a study is kept as it was."""
    return next(path for number in range(1, 10_000)
                if not (path := directory.with_name(f"{directory.name}.before-{number}")).exists())


def _line_of(old: Snapshot) -> list[Snapshot]:
    """Return a study and those that it was made of, the oldest first, as far as they are still there."""
    line, seen = [old], {old.directory.name}
    while (mark := line[0].directory / MARK).is_file():
        name = Path(mark.read_text(encoding="utf-8").strip()).name
        before = old.directory.with_name(name) if name else old.directory
        if name in seen or not (before / JOURNAL).is_file():
            break
        seen.add(name)
        line.insert(0, read_study(before))
    return [one for one in line if (one.info.metric, one.info.goal) == (old.info.metric, old.info.goal)]


def _counting(line: Sequence[Snapshot], spec: SweepSpec) -> list[_Kept]:
    """Return the finished trials that the new file could have made, as it would name them, in their first order.

    Of equal ones only one, a complete one before others and the latest study's before an earlier one's: a search that
    tries each point once counts them.
    """
    found: dict[tuple[str, int], _Kept] = {}
    for study in line:
        times: Counter[str] = Counter()
        for record in study.finished:
            params = same_training(record, spec)
            if params is None:
                continue
            point = repr(sorted(params.items()))
            times[point] += spec.method == "random"  # which may draw a point twice
            before = found.get((point, times[point]))
            beats = before is None or (is_complete(record), before.study is not study) > (
                is_complete(before.record), False)
            if beats:
                found[point, times[point]] = _Kept(record=record, params=params, study=study)
    return list(found.values())


def _copy(study: Study, record: TrialRecord, trial: Trial, directory: Path) -> None:
    """Record a finished trial under its new name, with its files."""
    assert record.result is not None
    source = directory / "trials" / record.trial.id
    if source.is_dir():
        shutil.copytree(source, study.directory / "trials" / trial.id, copy_function=_link, dirs_exist_ok=True)
    study.record_start(trial, config_from_params(trial.params).as_dict())
    study.record_end(replace(record.result, id=trial.id))


def _link(source: str, target: str) -> None:
    """Link a file that nobody changes any more; copy it where the file system has no links, or it is written anew."""
    if not source.endswith("config.json"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _entry(sweep: Mapping[str, Any], key: str) -> Any:
    _, dot, name = key.partition("parameters.")
    return sweep.get("parameters", {}).get(name) if dot else sweep.get(key)


def _shown(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"
    return "nothing" if entry is None else str(entry)
