"""What is known before a study's first trial: the finished trials of other studies, as a sweep's search sees them.

A trial of another study that trained in the same way is one more observation. One that differs in what is not searched
(the model, the rows, the steps) is of another surface: how far it can be trusted is learned while the trials come in.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError, StudyError, SweepError
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.space import near
from kaggle_runner.study.journal import Snapshot, read_study
from kaggle_runner.study.ranking import is_complete, value_of
from kaggle_runner.study.trial import TrialRecord
from kaggle_runner.sweep.spec import SweepSpec, check_config

NEUTRAL = ("seed", "save_model", "gradient_checkpointing", "max_lost_share", "trust_remote_code")
"""What does not make another training of a trial, beyond chance."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One finished trial of another study."""

    params: Mapping[str, Any]
    """What was searched, within the new ranges."""
    value: float
    source: str
    """Directory and trial that it comes from."""
    surface: int = 0
    """0 where it was trained as the new trials are; else one number for each study that was not."""
    is_moved: bool = False
    """It lay outside of the new ranges, and stands at their nearest point."""
    is_winner: bool = False
    """It is the best of its study, by all of its seeds."""
    identity: str = ""
    """Study and trial, the same wherever a study lies and however its path is spelled."""

    @property
    def study(self) -> str:
        """What tells its study from others."""
        return (self.identity or self.source).rpartition(": trial ")[0]

    @property
    def key(self) -> str:
        """What tells it from the others: one trial teaches once."""
        return self.identity or self.source


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a study starts with: an event of its journal."""

    lessons: tuple[Lesson, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that trial 0 is made of, if somebody gave one."""

    def as_event(self) -> dict[str, Any]:
        """Return it as a line of the journal."""
        return {"event": "known", "lessons": [asdict(lesson) for lesson in self.lessons], "start": dict(self.start)}


def known_of(snapshot: Snapshot) -> Known:
    """Return what a study's journal says was known; later events add to earlier ones."""
    lessons: dict[str, Lesson] = {}
    start: Mapping[str, Any] = {}
    for event in snapshot.known:
        lessons |= {lesson.key: lesson for lesson in (Lesson(**entry) for entry in event["lessons"])}
        start = event["start"] or start
    return Known(lessons=tuple(lessons.values()), start=start)


def lessons_of(directories: Sequence[Path], spec: SweepSpec) -> tuple[Lesson, ...]:
    """Read what other studies teach a sweep; one that is given twice, or by another path, teaches once.

    Raises:
        StudyError: one is no study, has another metric or trainer, or no finished trial that tells anything.
    """
    found: dict[str, Lesson] = {}
    for number, directory in enumerate(directories, start=1):
        found |= {lesson.key: lesson for lesson in _lessons(read_study(directory), spec, number)
                  if lesson.key not in found}
    return tuple(found.values())


def observations(lessons: Sequence[Lesson], spec: SweepSpec) -> list[Observation]:
    """Return lessons as the search learns from them; those that the file's ranges do not hold any more are left out."""
    names = spec.searched.keys()
    studies = list(dict.fromkeys(lesson.study for lesson in lessons if lesson.surface))
    return [Observation(params={**spec.fixed, **lesson.params}, told=Told.VALUE, value=lesson.value,
                        surface=studies.index(lesson.study) + 1 if lesson.surface else 0, is_winner=lesson.is_winner)
            for lesson in lessons if lesson.params.keys() == names
            and all(spec.searched[name].contains(lesson.params[name]) for name in names)]


def same_training(record: TrialRecord, spec: SweepSpec) -> Mapping[str, Any] | None:
    """Return the parameters under which a sweep could have made a trial itself; none if it could not."""
    try:
        values = config_from_params(record.trial.params).as_dict()
        params = spec.with_tied({name: near(spec.searched[name], values[name]) if name in spec.searched
                                 else spec.fixed[name] for name in spec.parameters})
        return params if config_from_params(params) == record.trial.config else None
    except (ConfigError, KeyError):
        return None


def lessons_in(snapshot: Snapshot, records: Sequence[TrialRecord], spec: SweepSpec, number: int) -> list[Lesson]:
    """Return what some complete trials of a study teach a sweep; of a confirmed one what all of its seeds came to.

    Raises:
        StudyError: they are of another trainer.
    """
    found, metric, info = [], snapshot.metric, snapshot.info
    confirmed = {one.records[0].trial.id: one for one in snapshot.configurations if one.further}
    for record in records:
        try:
            config = config_from_params(record.trial.params)
        except ConfigError:
            continue
        if config.trainer != spec.trainer:
            raise StudyError(f"{snapshot.directory} trained with {config.trainer}, this sweep trains with "
                             f"{spec.trainer}, so it teaches nothing here; choose studies of the same trainer")
        name, assured = record.trial.id, confirmed.get(record.trial.id)
        values = [metric.for_search(value_of(one), one.result.loss)
                  for one in (record, *(assured.further if assured else ())) if one.result is not None]
        found.append(replace(
            taught(spec, config.as_dict(), number), value=statistics.fmean(values),
            source=f"{snapshot.directory}: trial {name}", is_winner=record is snapshot.best,
            identity=f"{info.name} of {info.created:.3f}: trial {name}"))
    return found


def relearned(lessons: Sequence[Lesson], old: Snapshot, spec: SweepSpec) -> list[Lesson]:
    """Return what a study of another sweep file knew from others, as a new file sees it.

    What was trained as the old file would have is compared with what the new one trains; where the old file cannot be
    read any more, it is of another surface.
    """
    try:
        before = check_config(old.info.sweep, str(old.directory))
    except SweepError:
        return [replace(lesson, surface=lesson.surface or 1) for lesson in lessons]
    found = []
    for lesson in lessons:
        try:
            values = config_from_params(before.with_tied({**before.typical(), **lesson.params})).as_dict()
            seen = taught(spec, values, 1)
        except (ConfigError, ValueError):
            continue
        found.append(replace(lesson, params=seen.params, surface=lesson.surface or seen.surface,
                             is_moved=lesson.is_moved or seen.is_moved))
    return found


def taught(spec: SweepSpec, values: Mapping[str, Any], number: int) -> Lesson:
    """Return the lesson that a training with these hyperparameters is to a sweep, without what came of it.

    It is of the sweep's own surface where the sweep would train its nearest point in the same way.
    """
    params = {name: near(parameter, values[name]) for name, parameter in spec.searched.items()}
    is_moved = not all(parameter.contains(values[name]) for name, parameter in spec.searched.items())
    own = config_from_params(spec.with_tied({**spec.typical(), **params})).as_dict()
    differs = any(not _alike(own[name], values.get(name)) for name in own if name not in (*spec.searched, *NEUTRAL))
    return Lesson(params=params, value=0.0, source="", surface=number if differs or is_moved else 0, is_moved=is_moved)


def _alike(left: Any, right: Any) -> bool:
    """Compare two hyperparameters; one that is computed may differ in its last digit."""
    if isinstance(left, float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=1e-9)
    return bool(left == right)


def _lessons(snapshot: Snapshot, spec: SweepSpec, number: int) -> list[Lesson]:
    info = snapshot.info
    if (info.metric, info.goal) != (spec.metric, spec.goal):
        raise StudyError(f"{snapshot.directory} was judged by {info.metric} ({info.goal}), this sweep by {spec.metric} "
                         f"({spec.goal}), so it teaches nothing here; leave --prior-study out, or change the metric")
    found = lessons_in(snapshot, list(filter(is_complete, snapshot.records)), spec, number)
    if not found:
        raise StudyError(f"{snapshot.directory} has no complete trial, so there is nothing to learn from it; leave "
                         f"--prior-study out, or finish it first")
    return found
