"""What a user asked for of a shared search, and the way into it: nothing here imports a database's packages at once."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kaggle_runner.errors import StudyError
from kaggle_runner.events import Notify
from kaggle_runner.files import json_lines
from kaggle_runner.study.journal import JOURNAL
from kaggle_runner.sweep.spec import SweepSpec

if TYPE_CHECKING:
    from kaggle_runner.run.points.prior import Known
    from kaggle_runner.run.shared.record import SharedRecord

SEARCHED_HERE = "searched_here"
"""What a journal calls the line that names the sweep on W&B whose points are chosen from its directory."""


@dataclass(frozen=True, kw_only=True)
class SharedOrder:
    """Where a search is that several machines share, and how."""

    address: str
    lease_s: float | None = None
    """Seconds without a sign of life after which a machine's trial is given to another; none takes the usual ones."""
    checkpoints: Path | None = None
    """A directory that every machine sees, through which a trial's checkpoints travel."""


def join_shared(shared: SharedOrder, spec: SweepSpec, seed: int | None, known: "Known | None",
                notify: Notify) -> "SharedRecord":
    """Make or join the study in a database, before anything is made here.

    Raises:
        StudyError: the database or its study cannot be used; says why.
    """
    require_whole()
    from kaggle_runner.run.shared.record import join

    return join(shared.address, spec, seed, known.as_event() if known else None, notify, lease_s=shared.lease_s,
                checkpoints=shared.checkpoints)


def require_whole() -> None:
    """See that this is the whole package: a launcher leaves out what speaks to databases, to stay small.

    Raises:
        StudyError: it is not.
    """
    if importlib.util.find_spec("kaggle_runner.run.shared.database") is None:
        raise StudyError("this launcher has no part for databases; install the package in a notebook instead: "
                         "docs/many-machines.md")


def refuse_alone(directory: Path) -> None:
    """Refuse to go on alone with what belongs to a shared study, or to a sweep that agents train.

    Raises:
        StudyError: the directory does.
    """
    if not (directory / JOURNAL).is_file():
        return
    for event in json_lines(directory / JOURNAL):
        if event.get("event") == "shared":
            raise StudyError(f"{directory} belongs to a study that is shared in {event['database']}; go on with "
                             f"--storage {event['database']}, or choose another directory with --study")
        if event.get("event") == SEARCHED_HERE:
            raise StudyError(f"{directory} belongs to the sweep {event['sweep']} on W&B, whose agents train its "
                             f"trials; go on with --backend wandb --search here, or choose another directory with "
                             f"--study")
