"""Move a study out of the way, whole and with the reason; list what was moved, and bring it back.

What is archived is never counted again: a plan computes everything from the folders that are still in their place.
"""

import json
import os
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import IN_PLACE, cannot_write, write_atomically
from kaggle_runner.lab.plan import ARCHIVE, read_plan, stages
from kaggle_runner.lab.run_plan import write_overview
from kaggle_runner.study.journal import JOURNAL
from kaggle_runner.study.lock import StudyLock
from kaggle_runner.study.near import no_study
from kaggle_runner.study.table import format_value

LABEL = "archived.json"
PLAN = "plan.yaml"


@dataclass(frozen=True, kw_only=True)
class Archived:
    """One study that was moved out of the way."""

    directory: Path
    """Folder that the study is in now."""
    name: str
    """Name that its folder had before."""
    reason: str
    date: str
    """When the study was moved, as ISO 8601 to the second."""
    depended: tuple[str, ...] = ()
    """The defaults and studies that were built on it then."""


def archive_study(study: Path, reason: str, *, force: bool = False, now: datetime | None = None) -> Archived:
    """Move a study into `archive_runs` beside it, with the reason and the date.

    Raises:
        StudyError: it is no study, is in use or archived already, there is no reason, or others depend on it and
            `force` is not given; says what depends on it.
    """
    typed, study = study, Path(os.path.abspath(study))
    if not reason.strip():
        raise StudyError("a study is archived with a reason, for whoever finds it later; give --reason '...'")
    if study.parent.name == ARCHIVE:
        raise StudyError(f"{typed} is archived already; restore it with: python -m kaggle_runner restore "
                         f"{shlex.quote(str(typed))}")
    if not (study / JOURNAL).is_file():
        raise no_study(typed)
    depended = dependents(study)
    if depended and not force:
        raise StudyError(f"{study.name} is not archived, because others depend on it: {'; '.join(depended)}; archive "
                         f"it all the same with --force, and run the plan again: it says what no longer matches")
    lock = StudyLock(study, shared=False, way_out="")
    try:
        when = (now or datetime.now()).replace(microsecond=0)
        target = _free(study.parent / ARCHIVE / f"{when.date().isoformat()}_{study.name}")
        label = {"name": study.name, "reason": reason.strip(), "date": when.isoformat(), "depended": depended}
        write_atomically(study / LABEL, json.dumps(label, indent=2) + "\n", way_out=IN_PLACE)
        _move(study, target)
    finally:
        lock.close()
    _write_overview(study.parent)
    return _read(target)


def restore_study(directory: Path) -> Path:
    """Move an archived study back to where it was, and return that place.

    Raises:
        StudyError: it is not archived, or another study has its place.
    """
    typed, directory = directory, Path(os.path.abspath(directory))
    if not (directory / LABEL).is_file():
        raise StudyError(f"{typed} is not an archived study: it has no {LABEL}; {_way_to_archived(typed)}")
    target = directory.parent.parent / _read(directory).name
    if target.exists():
        here = target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target
        raise StudyError(f"{here} is there already; archive that one first, or leave {directory.name} where it is")
    _move(directory, target)
    (target / LABEL).unlink()
    _write_overview(target.parent)
    return target


def _way_to_archived(typed: Path) -> str:
    """Name what was archived under a name, or how all that was archived near it is listed."""
    near = [study.directory for folder in (typed.parent, typed) for study in archived_studies(folder)
            if typed.name in (study.name, ARCHIVE) or folder == typed]
    if near:
        return f"archived there: {', '.join(map(str, dict.fromkeys(near)))}"
    return f"list them with: python -m kaggle_runner archived {shlex.quote(str(typed.parent))}"


def archived_studies(directory: Path) -> tuple[Archived, ...]:
    """List what was archived from a folder of studies, the oldest first."""
    found = [_read(path.parent) for path in (directory / ARCHIVE).glob(f"*/{LABEL}")]
    return tuple(sorted(found, key=lambda archived: (archived.date, archived.name)))


def dependents(study: Path) -> tuple[str, ...]:
    """Say what depends on a study of a plan: the defaults that it set, and the later studies that started from them."""
    if not (study.parent / PLAN).is_file():
        return ()
    so_far = tuple(stages(read_plan(study.parent / PLAN), study.parent))
    stage = next((stage for stage in so_far if stage.folder.name == study.name), None)
    if stage is None or not stage.adopted:
        return ()
    later = [other.name for other in so_far if other.index > stage.index and (other.folder / JOURNAL).is_file()]
    defaults = ", ".join(f"{name} {format_value(value)}" for name, value in stage.adopted.items())
    return (f"defaults.yaml has its {defaults}", *(f"{name} started from it" for name in later))


def _write_overview(directory: Path) -> None:
    if (directory / PLAN).is_file():
        write_overview(read_plan(directory / PLAN), directory)


def _read(directory: Path) -> Archived:
    try:
        label = json.loads((directory / LABEL).read_text(encoding="utf-8"))
        return Archived(directory=directory, name=label["name"], reason=label["reason"], date=label["date"],
                        depended=tuple(label["depended"]))
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{directory / LABEL} cannot be read ({error}); write it anew, or move the folder by hand") \
            from error


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    except OSError as error:
        raise cannot_write(target, error, way_out=IN_PLACE) from error


def _free(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3 and so on that is free."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
