"""What is known before a study's first trial: the finished trials of other studies, as a sweep's search sees them.

A trial of another study that trained in the same way is one more observation. One that differs in what is not searched
(the model, the rows, the steps) is of another surface: how far it can be trusted is learned while the trials come in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.space import near
from kaggle_runner.study.journal import Snapshot, read_study
from kaggle_runner.study.trial import Status, TrialRecord
from kaggle_runner.sweep.spec import SweepSpec

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

    @property
    def study(self) -> str:
        """The directory that it comes from."""
        return self.source.rpartition(": trial ")[0]


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
        lessons |= {entry["source"]: Lesson(**entry) for entry in event["lessons"]}
        start = event["start"] or start
    return Known(lessons=tuple(lessons.values()), start=start)


def lessons_of(directories: Sequence[Path], spec: SweepSpec) -> tuple[Lesson, ...]:
    """Read what other studies teach a sweep.

    Raises:
        StudyError: one is no study, has another metric or trainer, or no finished trial that tells anything.
    """
    found: list[Lesson] = []
    for number, directory in enumerate(directories, start=1):
        found += _lessons(read_study(directory), spec, number)
    return tuple(found)


def observations(lessons: Sequence[Lesson], spec: SweepSpec) -> list[Observation]:
    """Return lessons as the search learns from them; those that the file's ranges do not hold any more are left out."""
    names = spec.searched.keys()
    studies = list(dict.fromkeys(lesson.study for lesson in lessons if lesson.surface))
    return [Observation(params={**spec.fixed, **lesson.params}, told=Told.VALUE, value=lesson.value,
                        surface=studies.index(lesson.study) + 1 if lesson.surface else 0)
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
    """Return what some complete trials of a study teach a sweep.

    Raises:
        StudyError: they are of another trainer.
    """
    found = []
    for record in records:
        try:
            config = config_from_params(record.trial.params)
        except ConfigError:
            continue
        if config.trainer != spec.trainer:
            raise StudyError(f"{snapshot.directory} trained with {config.trainer}, this sweep trains with "
                             f"{spec.trainer}, so it teaches nothing here; choose studies of the same trainer")
        assert record.result is not None
        assert record.result.metric is not None
        found.append(_lesson(record, record.result.metric, config.as_dict(), spec, number, snapshot.directory))
    return found


def _lessons(snapshot: Snapshot, spec: SweepSpec, number: int) -> list[Lesson]:
    info = snapshot.info
    if (info.metric, info.goal) != (spec.metric, spec.goal):
        raise StudyError(f"{snapshot.directory} was judged by {info.metric} ({info.goal}), this sweep by {spec.metric} "
                         f"({spec.goal}), so it teaches nothing here; leave --prior-study out, or change the metric")
    found = lessons_in(snapshot, [record for record in snapshot.finished if record.result is not None
                                  and record.result.status is Status.COMPLETE and record.result.metric is not None],
                       spec, number)
    if not found:
        raise StudyError(f"{snapshot.directory} has no complete trial, so there is nothing to learn from it; leave "
                         f"--prior-study out, or finish it first")
    return found


def _lesson(record: TrialRecord, value: float, values: Mapping[str, Any], spec: SweepSpec, number: int,
            directory: Path) -> Lesson:
    params = {name: near(parameter, values[name]) for name, parameter in spec.searched.items()}
    is_moved = not all(parameter.contains(values[name]) for name, parameter in spec.searched.items())
    fixed = config_from_params(spec.typical()).as_dict()
    differs = any(fixed[name] != values[name] for name in fixed
                  if name not in spec.searched and name not in spec.tied and name not in NEUTRAL)
    return Lesson(params=params, value=value, source=f"{directory}: trial {record.trial.id}",
                  surface=number if differs or is_moved else 0, is_moved=is_moved)
