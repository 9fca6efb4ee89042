"""The studies that a database holds: found by their names, and made in both sets of tables."""

import json
import uuid
from dataclasses import asdict
from typing import Any

import optuna
import sqlalchemy as sql
from optuna.study import StudyDirection

from kaggle_runner.errors import StudyError
from kaggle_runner.run.shared.database import Database
from kaggle_runner.run.shared.tables import STUDIES, now
from kaggle_runner.study.journal import StudyInfo


def study_of(database: Database, name: str) -> tuple[int, Any] | None:
    """Return the number and the row of a study; none if it is not there.

    Raises:
        StudyError: it is another program's.
    """
    try:
        number = int(database.storage.get_study_id_from_name(name))
    except KeyError:
        return None
    with database.begin() as connection:
        row = _row_of(connection, number)
        if row is None and connection.execute(sql.text("SELECT count(*) FROM trials WHERE study_id = :s"),
                                              {"s": number}).scalar():
            raise StudyError(f"{database.address.shown} holds a study {name!r} of another program; give this one "
                             f"another name, behind the address: #NAME")
    return None if row is None else (number, row)


def make_study(database: Database, info: StudyInfo) -> tuple[int, Any]:
    """Make a study, unless somebody else has by now; return the number and the row of the one that is there.

    Raises:
        StudyError: another program has made it.
    """
    study = optuna.create_study(storage=database.storage, study_name=info.name, load_if_exists=True,
                                direction=StudyDirection[info.goal.upper()])
    if found := study_of(database, info.name):
        return found
    number = int(database.storage.get_study_id_from_name(info.name))
    try:
        with database.begin() as connection:
            created = connection.execute(sql.select(now(database.address.kind))).scalar()
            facts = {**asdict(info), "created": round(float(created), 3)}
            connection.execute(STUDIES.insert().values(study=number, uid=uuid.uuid4().hex, info=json.dumps(facts),
                                                       known="[]", baseline=None))
            row = _row_of(connection, number)
    except sql.exc.IntegrityError:  # somebody else made it in this moment
        return make_study(database, info)
    study.set_user_attr("kaggle_runner", {"metric": info.metric, "goal": info.goal, "method": info.sweep["method"]})
    return number, row


def _row_of(connection: Any, study: int) -> Any:
    return connection.execute(STUDIES.select().where(STUDIES.c.study == study)).first()
