"""Two tables beside Optuna's: what a shared study was made with, and each trial with its lease and its exact record."""

from sqlalchemy import Boolean, Column, Float, Integer, MetaData, String, Table, Text, UniqueConstraint, literal_column
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.sql.elements import ColumnElement

META = MetaData()
_LONG = Text().with_variant(MEDIUMTEXT, "mysql", "mariadb")
_DOUBLE = Float(53)

STUDIES = Table(
    "kaggle_runner_studies", META,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("uid", String(32), nullable=False),
    Column("info", _LONG, nullable=False),
    Column("known", _LONG, nullable=False),
    Column("baseline", _LONG))

TRIALS = Table(
    "kaggle_runner_trials", META,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(32), nullable=False),
    Column("machine", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("expires", _DOUBLE, nullable=False),
    Column("started", _DOUBLE, nullable=False),
    Column("point", String(64)),
    Column("trial", _LONG),
    Column("result", _LONG),
    Column("told", _DOUBLE),
    Column("copied", Boolean, nullable=False),
    UniqueConstraint("study", "point"))
"""`holder` is a study's directory on some machine; `point` keeps two trials from the same configuration."""


def now(kind: str) -> ColumnElement[float]:
    """Return the time by the database's own clock, the only one that all machines share."""
    return literal_column("extract(epoch from clock_timestamp())" if kind == "postgresql" else "unix_timestamp(now(6))",
                          Float(53))
