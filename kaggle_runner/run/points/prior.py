"""What is known before a study's first trial: the finished trials of other studies, as a sweep's search sees them.

A trial of another study that trained in the same way is one more observation. One that differs in what is not searched
(the model, the rows, the steps) is of another surface: how far it can be trusted is learned while the trials come in.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.space import lies_on, near
from kaggle_runner.study.journal import Snapshot, Study, read_study
from kaggle_runner.study.ranking import is_complete, value_of
from kaggle_runner.study.scoring import READ, Read, differing_data, read_by
from kaggle_runner.study.trial import TrialRecord
from kaggle_runner.sweep.distributions import same_value
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.wording import how_many

NEUTRAL = ("seed", "save_model", "gradient_checkpointing", "max_lost_share", "trust_remote_code")
"""What does not make another training of a trial, beyond chance."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One finished trial of another study, as it was trained: what it tells a sweep is found out anew for each file."""

    trained: Mapping[str, Any]
    """Every hyperparameter that it was trained with."""
    value: float
    source: str
    """Directory and trial that it comes from."""
    identity: str
    """Study and trial, the same wherever a study lies and however its path is spelled: one trial teaches once."""
    is_winner: bool = False
    """It is the best of its study, by all of its seeds."""
    measured: float | None = None
    """What the trial itself came to, where `value` is the mean over further seeds too; none: as `value`."""

    hashes: Mapping[str, str] = field(default_factory=dict)
    """What it read, as results have it."""

    @property
    def computation(self) -> tuple[str, float]:
        """What tells this training from others, in whichever studies it has a name."""
        return json.dumps(self.trained, sort_keys=True), self.value if self.measured is None else self.measured

    @property
    def study(self) -> str:
        """What tells its study from others."""
        return self.identity.rpartition(": trial ")[0]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a study starts with: an event of its journal."""

    lessons: tuple[Lesson, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that trial 0 is made of, if somebody gave one."""

    def as_event(self) -> dict[str, Any]:
        """Return it as a line of the journal."""
        lessons = json.loads(json.dumps([asdict(lesson) for lesson in self.lessons]))
        return {"event": "known", "lessons": lessons, "start": dict(self.start)}


def known_of(snapshot: Snapshot) -> Known:
    """Return what a study's journal says was known; later events add to earlier ones."""
    lessons: dict[str, Lesson] = {}
    start: Mapping[str, Any] = {}
    for event in snapshot.known:
        lessons |= {entry["identity"]: Lesson(**entry) for entry in event["lessons"] if "trained" in entry}
        start = event["start"] or start
    return Known(lessons=_each_once(lessons.values()), start=start)


def remember(known: Known | None, study: Study) -> None:
    """Write what is known into a study's journal, unless it stands there."""
    if known is not None and known.as_event() not in ({"event": "known", **event} for event in study.snapshot().known):
        study.append(known.as_event())


def lessons_of(directories: Sequence[Path], spec: SweepSpec) -> tuple[Lesson, ...]:
    """Read what other studies teach a sweep; a training that several of them have, as copies do, teaches once.

    Raises:
        StudyError: one is no study, has another metric or trainer, or no finished trial that tells anything.
    """
    found: dict[str, Lesson] = {}
    for directory in directories:
        found |= {lesson.identity: lesson for lesson in _lessons(read_study(directory), spec)
                  if lesson.identity not in found}
    return _each_once(found.values())


def _each_once(lessons: Iterable[Lesson]) -> tuple[Lesson, ...]:
    """Return the lessons of different trainings: of one that several studies have, what a confirmation says."""
    found: dict[tuple[str, float], Lesson] = {}
    for lesson in lessons:
        before = found.get(lesson.computation)
        if before is None or (before.measured is None and lesson.measured is not None):
            found[lesson.computation] = lesson
    return tuple(found.values())


def observations(lessons: Sequence[Lesson], spec: SweepSpec, read: Read | None = None) -> list[Observation]:
    """Return lessons as the search of this file learns from them, which has `read` its own data, if that is known."""
    seen = [(lesson, told) for lesson in lessons if (told := _seen(lesson, spec, read or {})) is not None]
    others = list(dict.fromkeys(lesson.study for lesson, told in seen if told.surface))
    return [replace(told, surface=others.index(lesson.study) + 1) if told.surface else told for lesson, told in seen]


def in_words(known: Sequence[Observation]) -> str:
    """Say how many trials are known from other studies and how they were trained, each counted once."""
    otherwise = sum(one.surface > 0 for one in known)
    outside = sum(one.at is not None and not one.surface for one in known)
    parts = [(len(known) - otherwise - outside, "trained alike"), (outside, "trained alike outside of these ranges"),
             (otherwise, "trained otherwise")]
    said = ", ".join(f"{count} {how}" for count, how in parts if count)
    return how_many(len(known), "trial") + (f" of other studies: {said}" if otherwise + outside else
                                            " of other studies")


def same_training(record: TrialRecord, spec: SweepSpec) -> Mapping[str, Any] | None:
    """Return the parameters under which a sweep could have made a trial itself; none if it could not."""
    try:
        values = config_from_params(record.trial.params).as_dict()
        params = spec.with_tied({name: near(spec.searched[name], values[name]) if name in spec.searched
                                 else spec.fixed[name] for name in spec.parameters})
        return params if config_from_params(params) == record.trial.config else None
    except (ConfigError, KeyError):
        return None


def lessons_in(snapshot: Snapshot, records: Sequence[TrialRecord], spec: SweepSpec) -> list[Lesson]:
    """Return what some complete trials of a study teach a sweep; of a confirmed one what all of its seeds came to.

    Raises:
        StudyError: they are of another trainer.
    """
    found, metric = [], snapshot.metric
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
        found.append(Lesson(trained=config.as_dict(), value=statistics.fmean(values),
                            source=f"{snapshot.directory}: trial {name}", is_winner=record is snapshot.best,
                            measured=values[0] if len(values) > 1 else None,
                            hashes={} if record.result is None else {
                                name: digest for name, digest in record.result.hashes.items() if name in READ},
                            identity=identity_of(snapshot, record)))
    return found


def identity_of(snapshot: Snapshot, record: TrialRecord) -> str:
    """Name a trial so that it is known again, wherever its study lies."""
    return f"{snapshot.info.name} of {snapshot.info.created:.3f}: trial {record.trial.id}"


def _seen(lesson: Lesson, spec: SweepSpec, read: Read) -> Observation | None:
    """Return what a training tells a sweep: where it lies, and whether the sweep would train that point alike.

    A number outside of the ranges stays where it is; a word that the sweep does not know makes it another surface, as
    everything does that differs and is not searched. None where this version knows no such training.
    """
    try:
        values = config_from_params(lesson.trained).as_dict()
    except ConfigError:
        return None
    if values.get("trainer", spec.trainer) != spec.trainer or not spec.searched.keys() <= values.keys():
        return None
    params = {name: near(parameter, values[name]) for name, parameter in spec.searched.items()}
    strange = [name for name, parameter in spec.searched.items()
               if not parameter.contains(values[name]) and not lies_on(parameter, values[name])]
    at = {name: params[name] if name in strange else values[name] for name in params}
    try:
        own = config_from_params(spec.with_tied({**spec.typical(), **at})).as_dict()
    except (ConfigError, ValueError):
        own = {}
    differs = not own or any(not _alike(own[name], values.get(name)) for name in own
                             if name not in (*spec.searched, *NEUTRAL))
    is_outside = not all(same_value(at[name], params[name]) for name in params)
    return Observation(params={**spec.fixed, **params}, at={**spec.fixed, **at} if is_outside else None,
                       told=Told.VALUE, value=lesson.value, measured=lesson.measured,
                       surface=int(differs or bool(strange or differing_data(read_by(values, lesson.hashes), read))),
                       is_winner=lesson.is_winner)


def _alike(left: Any, right: Any) -> bool:
    """Compare two hyperparameters; one that is computed may differ in its last digit."""
    if isinstance(left, float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=1e-9)
    return bool(left == right)


def _lessons(snapshot: Snapshot, spec: SweepSpec) -> list[Lesson]:
    info = snapshot.info
    if (info.metric, info.goal) != (spec.metric, spec.goal):
        raise StudyError(f"{snapshot.directory} was judged by {info.metric} ({info.goal}), this sweep by {spec.metric} "
                         f"({spec.goal}), so it teaches nothing here; leave --prior-study out, or change the metric")
    own = lessons_in(snapshot, list(filter(is_complete, snapshot.records)), spec)
    found = [*known_of(snapshot).lessons, *own]  # what a study has learned it teaches too, as trials of before an adopt
    if not found:
        raise StudyError(f"{snapshot.directory} has no complete trial, so there is nothing to learn from it; leave "
                         f"--prior-study out, or finish it first")
    return found
