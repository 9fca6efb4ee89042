"""Take a study over into a changed sweep file: trials that the new file could have made itself stay trials.

The others are learned from as trials of another study are, at the nearest point of the new ranges. The study as it was
is kept beside the new one. A kill at any moment leaves the old study, or the new one and the old.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params, trainer_of
from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write
from kaggle_runner.run.confirm import sweep_of_trials
from kaggle_runner.run.points.prior import Known, Lesson, known_of, lessons_in, relearned, same_training
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study, changed_keys, confirm_directory, read_study
from kaggle_runner.study.ranking import OF_TRIAL, is_complete
from kaggle_runner.study.trial import Status, Trial, TrialRecord
from kaggle_runner.sweep.spec import SweepSpec

MARK = "adopted"
"""File that a half-made study lacks: written last."""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What became of a study's trials."""

    changes: tuple[str, ...]
    """What differs between the two sweep files, a line each."""
    kept: int
    """Trials that count in the new study as they did in the old one."""
    learned: int
    """Complete trials that the new file cannot have made, and that the search learns from."""
    left: int
    """Trials that tell the new study nothing: failed, pruned or cut off elsewhere."""
    aside: Path
    """Where the study as it was lies now."""

    def as_lines(self) -> list[str]:
        """Say it for a person."""
        return [*self.changes, f"{self.kept} trials count here too, {self.learned} are only learned from, {self.left} "
                               f"are left behind; the study as it was is kept as {self.aside}"]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what differs between two sweep files, a line for each key."""
    lines = []
    for key in changed_keys(old, new):
        left, right = _entry(old, key), _entry(new, key)
        lines.append(f"{key}: {_shown(left)} -> {_shown(right)}")
    return tuple(lines)


def adopt(directory: Path, spec: SweepSpec, seed: int | None = None) -> Adopted | None:
    """Make a study of another sweep file one of this file; none where nothing has changed, or nothing is there.

    A `seed` that somebody gave is refused here, before anything has changed, if it is not the study's.

    Raises:
        StudyError: nothing of the old study can count, it is in use, or a directory cannot be written.
    """
    finish_adoption(directory)
    if not (directory / JOURNAL).is_file():
        return None
    old = read_study(directory)
    changed = changes(old.info.sweep, spec.raw)
    if not changed:
        return None
    if (old.info.metric, old.info.goal) != (spec.metric, spec.goal):
        raise StudyError(f"{directory} was judged by {old.info.metric} ({old.info.goal}), this sweep by {spec.metric} "
                         f"({spec.goal}), so nothing of it counts here; choose another directory with --study")
    trainer = next((trainer_of(record.trial.params) for record in old.records), spec.trainer)
    if trainer != spec.trainer:
        raise StudyError(f"{directory} trained with {trainer}, this sweep trains with {spec.trainer}, so nothing of it "
                         f"counts here; choose another directory with --study")
    with Study.open_for_writing(directory, name=old.info.name, sweep=old.info.sweep, metric=old.info.metric,
                                goal=old.info.goal, seed=seed):
        kept = _counting(old, spec)
        taught = [record for record in old.records if is_complete(record) and same_training(record, spec) is None]
        new = directory.with_name(f"{directory.name}.adopting")
        aside = next(path for number in range(1, 10_000)
                     if not (path := directory.with_name(f"{directory.name}.before-{number}")).exists())
        try:
            shutil.rmtree(new, ignore_errors=True)
            _write(new, old, spec, kept, lessons_in(replace(old, directory=aside), taught, spec, 1))
            directory.rename(aside)
            new.rename(directory)
        except OSError as error:
            raise cannot_write(new, error) from error
    return Adopted(changes=changed, kept=len(kept), learned=len(taught), aside=aside,
                   left=len(old.records) - len(kept) - len(taught))


def finish_adoption(directory: Path) -> None:
    """Put a study that is made in its place, if a kill came between the two moves."""
    new = directory.with_name(f"{directory.name}.adopting")
    if not directory.exists() and (new / MARK).is_file():
        with contextlib.suppress(OSError):
            new.rename(directory)


def _counting(old: Snapshot, spec: SweepSpec) -> list[tuple[TrialRecord, Mapping[str, Any]]]:
    """Return the finished trials that the new file could have made, as it would name them.

    Of equal ones only the first, a complete one before others: a search that tries each point once counts them.
    """
    found: dict[str, tuple[TrialRecord, Mapping[str, Any]]] = {}
    for record in old.finished:
        params = same_training(record, spec)
        if params is None:
            continue
        name = record.trial.id if spec.method == "random" else repr(sorted(params.items()))
        if name not in found or (is_complete(record) and not is_complete(found[name][0])):
            found[name] = record, params
    return sorted(found.values(), key=lambda pair: pair[0].trial.number)


def _write(new: Path, old: Snapshot, spec: SweepSpec, kept: Sequence[tuple[TrialRecord, Mapping[str, Any]]],
           lessons: Sequence[Lesson]) -> None:
    with Study.open_for_writing(new, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=old.info.seed) as study:
        known = known_of(old)
        if lessons or known.lessons or known.start:
            earlier = relearned(known.lessons, old, spec)
            study.append(Known(lessons=(*earlier, *lessons), start=known.start).as_event())
        if kept and old.baseline is not None:
            study.record_baseline(old.baseline, old.base_scores)
        names = {}
        for number, (record, params) in enumerate(kept):
            trial = replace(record.trial, id=f"{number:04d}", number=number, params=params)
            names[OF_TRIAL + record.trial.id] = OF_TRIAL + trial.id
            _copy(study, record, trial, old.directory)
    confirming = [record for record in old.confirming if record.trial.origin in names
                  and record.result is not None and record.result.status is not Status.PREEMPTED]
    if confirming:
        trials = [replace(record.trial, id=f"{number:04d}", number=number, origin=names[record.trial.origin])
                  for number, record in enumerate(confirming)]
        with Study.open_for_writing(confirm_directory(new), name=f"{spec.name} confirmed", seed=None,
                                    sweep=sweep_of_trials(trials), metric=spec.metric, goal=spec.goal) as study:
            for record, trial in zip(confirming, trials, strict=True):
                _copy(study, record, trial, confirm_directory(old.directory))
    (new / MARK).write_text(f"{old.directory}\n")


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
