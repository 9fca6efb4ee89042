"""A shared study read from its database into a study directory, for `show`, `report` and whatever else reads one."""

from collections.abc import Callable
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note
from kaggle_runner.files import NOT_HERE, folder_name, make_directory
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.shared.address import is_database as is_database
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.order import require_whole
from kaggle_runner.study.journal import JOURNAL, confirm_directory


def directory_of(text: str, environment: Environment, notify: Callable[[str], None] = lambda text: None) -> Path:
    """Read the study that an address names, over what was read before; return its directory, `studies/NAME-shared`.

    Raises:
        MissingPackages: the database's driver is not installed.
        StudyError: the database, or the study in it, cannot be read.
    """
    require_whole()
    from kaggle_runner.run.shared.copy import write_copy
    from kaggle_runner.run.shared.database import Database
    from kaggle_runner.run.shared.record import SharedRecord

    database = Database(read_address(text),
                        notify=lambda event: notify(event.text) if isinstance(event, Note) else None)
    record = SharedRecord.find(database)
    directory = environment.writable_directory / "studies" / f"{folder_name(record.info.name)}-shared"
    if (directory / JOURNAL).exists() and (directory / "study.lock").exists():
        raise StudyError(f"{directory} is a study of this machine, where the copy of {database.address.shown} would "
                         f"lie; rename it, or run this in another directory")
    try:
        record.read()
        confirmation = record.confirmation()
        if confirmation is not None:
            confirmation.read()
    except database.failures as error:
        raise database.refused(error) from None
    finally:
        database.rest()
    make_directory(directory, way_out=NOT_HERE)
    write_copy(record.snapshot(directory), directory, uid=record.uid, shown=database.address.shown)
    if confirmation is not None:
        beside = confirm_directory(directory)
        make_directory(beside, way_out=NOT_HERE)
        write_copy(confirmation.snapshot(beside), beside, uid=confirmation.uid, shown=database.address.shown)
    return directory
