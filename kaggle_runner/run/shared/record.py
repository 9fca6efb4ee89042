"""The record of a shared study: every trial once, held by one machine at a time, told once.

A machine holds a trial by a lease that it renews; the database's clock says when it is over. Whoever takes a trial
raises its attempt, and a result counts only from the attempt that holds it.
"""

import contextlib
import hashlib
import json
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sql
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.run.optuna_journal import shown_as, shown_value
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.checkpoints import require_shelf
from kaggle_runner.run.shared.database import Database
from kaggle_runner.run.shared.studies import make_study, study_of
from kaggle_runner.run.shared.tables import STUDIES, TRIALS, now
from kaggle_runner.study.journal import Snapshot, StudyInfo, changed_keys
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult, result_from_dict
from kaggle_runner.sweep.spec import SweepSpec

CONFIRMED = " confirmed "
"""In the name of a study that confirms another one, behind that one's name."""
DEFAULT_LEASE_S = 120.0
"""Without a sign of life for so long, a machine's trial is given to another one."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to run a trial."""

    number: int
    attempt: int
    trial: Trial | None
    """None while nobody has chosen its point."""


@dataclass(kw_only=True)
class Row:
    """A trial as the database has it."""

    attempt: int
    holder: str
    machine: str
    started: float
    is_open: bool
    """It has no result, and somebody held it when it was read."""
    trial: Trial | None = None
    result: TrialResult | None = None
    told: float | None = None


class SharedRecord:
    """The trials of one study in a database, as one study directory sees and changes them."""

    def __init__(self, database: Database, study: int | None, row: Any, *, holder: str = "",
                 lease_s: float = DEFAULT_LEASE_S) -> None:
        """Take over what the database has; a `study` of none is not there yet, and `row` is what it will be."""
        self.database, self._study, self.holder, self.lease_s = database, study, holder, lease_s
        self.uid: str = row.uid
        self.info = StudyInfo(**json.loads(row.info))
        self.rows: dict[int, Row] = {}
        self.known: tuple[Mapping[str, Any], ...] = tuple(json.loads(row.known))
        self.baseline: float | None = json.loads(row.baseline) if row.baseline else None
        self.machine = socket.gethostname()[:200]
        self._now = now(database.address.kind)
        self._optuna: dict[int, int] = {}
        self._asked_seed: int | None = None

    @classmethod
    def join(cls, database: Database, spec: SweepSpec, seed: int | None, lease_s: float) -> "SharedRecord":
        """Join the study of a sweep file; where there is none, `make` makes it, with the first trial.

        Raises:
            StudyError: the study there was made from another file or with another seed, or by another program.
        """
        name = database.address.study or spec.name
        try:
            found = study_of(database, name)
        except database.failures as error:
            raise database.refused(error) from None
        finally:
            database.rest()
        info = {"name": name, "metric": spec.metric, "goal": spec.goal, "seed": seed or 0, "sweep": spec.raw,
                "created": round(time.time(), 3)}
        number, row = found or (None, SimpleNamespace(uid="", known="[]", baseline=None, info=json.dumps(info)))
        record = cls(database, number, row, lease_s=lease_s)
        record.refuse_another(spec.raw, seed)
        record._asked_seed = seed
        return record

    def refuse_another(self, sweep: Mapping[str, Any], seed: int | None) -> None:
        """See that the study is that of a sweep and a seed.

        Raises:
            StudyError: it is not.
        """
        name, shown = self.info.name, self.database.address.shown
        if changed := changed_keys(self.info.sweep, sweep):
            raise StudyError(f"the study {name!r} in {shown} was made from another sweep file: {', '.join(changed)} "
                             f"differ; restore the file, or name a new study behind the address, #NAME, with --study "
                             f"where the directory here has the old one")
        if seed is not None and seed != self.info.seed:
            raise StudyError(f"the study {name!r} in {shown} was made with seed {self.info.seed}, not {seed}; leave "
                             f"--seed out, or name a new study behind the address, #NAME, with --study where the "
                             f"directory here has the old one")

    @property
    def is_made(self) -> bool:
        """Whether the study is in the database."""
        return self._study is not None

    def make(self) -> None:
        """Make the study, unless it is there by now.

        Raises:
            StudyError: another machine made one of this name meanwhile, from another file or with another seed.
        """
        mine = self.info
        self._study, row = make_study(self.database, mine)
        self.uid, self.info = row.uid, StudyInfo(**json.loads(row.info))
        self.refuse_another(mine.sweep, self._asked_seed)
        own, self.known = self.known, tuple(json.loads(row.known))
        for event in own:
            self.add_known(event)

    @classmethod
    def find(cls, database: Database) -> "SharedRecord":
        """Open the study that an address names, or the only one there is, to read it.

        Raises:
            StudyError: there is none, or there are several.
        """
        shown, wanted = database.address.shown, database.address.study
        try:
            with database.begin() as connection:
                rows = {json.loads(row.info)["name"]: row for row in connection.execute(STUDIES.select())}
        except database.failures as error:
            raise database.refused(error) from None
        finally:
            database.rest()
        if not wanted:  # what confirms a study is no study that people mean
            rows = {name: row for name, row in rows.items() if name.partition(CONFIRMED)[0] == name
                    or name.partition(CONFIRMED)[0] not in rows}
        if (wanted and wanted not in rows) or not rows:
            raise StudyError(f"{shown} holds no study{f' {wanted!r}' if wanted else ''}; it has: "
                             f"{', '.join(sorted(rows)) or 'none'}")
        if not wanted and len(rows) > 1:
            raise StudyError(f"{shown} holds {len(rows)} studies; name one behind the address: "
                             f"{', '.join(f'#{name}' for name in sorted(rows))}")
        row = rows[wanted] if wanted else next(iter(rows.values()))
        return cls(database, row.study, row)

    def confirmation(self) -> "SharedRecord | None":
        """Return the newest study that confirms this one; none if nothing does."""
        with self.database.begin() as connection:
            rows = [row for row in connection.execute(STUDIES.select())
                    if json.loads(row.info)["name"].startswith(f"{self.info.name}{CONFIRMED}")]
        newest = max(rows, key=lambda row: float(json.loads(row.info)["created"]), default=None)
        return None if newest is None else SharedRecord(self.database, newest.study, newest)

    def add_known(self, event: Mapping[str, Any]) -> None:
        """Add what the search is to know besides its trials, unless it is known."""
        plain = json.loads(json.dumps(event))
        if not self.is_made:
            self.known = (*self.known, plain)
            return
        with self.database.begin() as connection:
            known = json.loads(self._lock_study(connection).known)
            if plain not in known:
                known.append(plain)
                connection.execute(STUDIES.update().where(STUDIES.c.study == self._study)
                                   .values(known=json.dumps(known)))
        self.known = tuple(known)

    def add_baseline(self, value: float) -> None:
        """Record the metric of the untouched base, unless another machine did, or no trial was begun."""
        if not self.is_made:
            return
        with self.database.begin() as connection:
            connection.execute(STUDIES.update().where(STUDIES.c.study == self._study, STUDIES.c.baseline.is_(None))
                               .values(baseline=json.dumps(value)))
        self.baseline = value if self.baseline is None else self.baseline

    def read(self) -> None:
        """Take in what has changed since the last time."""
        if not self.is_made:
            return
        done = {number for number, row in self.rows.items() if row.result is not None}
        low = next(number for number in range(len(self.rows) + 1) if number not in done)
        columns = TRIALS.c
        mine = columns.study == self._study
        with self.database.begin() as connection:
            seen = list(connection.execute(
                sql.select(columns.number, columns.attempt, columns.holder, columns.machine, columns.started,
                           columns.result.is_not(None).label("ended"), columns.trial.is_not(None).label("chosen"),
                           sql.and_(columns.holder != "", columns.expires >= self._now).label("held"))
                .where(mine, columns.number >= low)))
            wanted = [row.number for row in seen if (row.ended and row.number not in done) or (
                row.chosen and (row.number not in self.rows or self.rows[row.number].trial is None))]
            texts: dict[int, Any] = {}
            for start in range(0, len(wanted), 500):
                part = wanted[start:start + 500]
                texts |= {row.number: row for row in connection.execute(
                    sql.select(columns.number, columns.trial, columns.result, columns.told)
                    .where(mine, columns.number.in_(part)))}
        rows = dict(self.rows)
        for row in seen:
            known = rows.get(row.number)
            text = texts.get(row.number)
            trial, result = (known.trial, known.result) if known else (None, None)
            if text is not None:
                trial = Trial(**json.loads(text.trial)) if text.trial else trial
                result = result_from_dict(json.loads(text.result)) if text.result else result
            rows[row.number] = Row(attempt=row.attempt, holder=row.holder, machine=row.machine, trial=trial,
                                   result=result, told=text.told if text else known.told if known else None,
                                   is_open=not row.ended and bool(row.held), started=row.started)
        self.rows = dict(sorted(rows.items()))

    def snapshot(self, directory: Path) -> Snapshot:
        """Return the study as it was last read; `directory` is where its copy lies."""
        records = tuple(TrialRecord(trial=row.trial, result=row.result, attempts=row.attempt, started=row.started,
                                    is_held=row.is_open)
                        for row in self.rows.values() if row.trial is not None)
        return Snapshot(directory=directory, info=self.info, baseline=self.baseline, records=records, sessions=(),
                        known=self.known)

    def claim(self, total: int, held: Mapping[int, int]) -> Claim | None:
        """Take the first trial that nobody runs, a new one if there is none; none when all are handed out."""
        columns = TRIALS.c
        # left behind here, too; a copy of this directory on another machine has the same name
        free = self._left() | sql.and_(columns.holder == self.holder, columns.machine == self.machine)
        with self.database.begin() as connection:
            row = connection.execute(
                sql.select(columns.number, columns.attempt, columns.trial)
                .where(columns.study == self._study, columns.result.is_(None), columns.number < total, free,
                       columns.number.not_in(list(held) or [-1]))
                .order_by(columns.number).limit(1).with_for_update(skip_locked=True)).first()
            lease = {"holder": self.holder, "machine": self.machine, "expires": self._now + self.lease_s,
                     "started": self._now}
            if row is not None:
                connection.execute(TRIALS.update().where(columns.study == self._study, columns.number == row.number)
                                   .values(**lease, attempt=row.attempt + 1))
                return Claim(number=row.number, attempt=row.attempt + 1,
                             trial=Trial(**json.loads(row.trial)) if row.trial else None)
            self._lock_study(connection)
            count = connection.execute(sql.select(sql.func.count()).where(columns.study == self._study)).scalar()
            if count >= total:
                return None
            connection.execute(TRIALS.insert().values(study=self._study, number=count, attempt=1, copied=False,
                                                      **lease))
            made = connection.execute(sql.text("SELECT count(*) FROM trials WHERE study_id = :s"),
                                      {"s": self._study}).scalar()
            for _ in range(count + 1 - made):  # Optuna numbers its trials as they come, so they come in our order
                self.database.storage.create_new_trial(self._study)
        return Claim(number=count, attempt=1, trial=None)

    def choose(self, claim: Claim, trial: Trial, key: object, spec: SweepSpec) -> bool:
        """Write the point of a claimed trial; false if another trial has it."""
        point = hashlib.sha256(repr(key).encode()).hexdigest()
        try:
            with self.database.begin() as connection:
                connection.execute(TRIALS.update().where(*self._held(claim.number, claim.attempt))
                                   .values(trial=json.dumps(asdict(trial)), point=point))
        except sql.exc.IntegrityError:
            return False
        storage, number = self.database.storage, self._optuna_id(trial.number)
        known = storage.get_trial(number).params if claim.attempt > 1 else {}
        for name, parameter in spec.searched.items():
            if name not in known:
                distribution = shown_as(parameter)
                value = shown_value(trial.params[name], distribution)
                storage.set_trial_param(number, name, distribution.to_internal_repr(value), distribution)
        storage.set_trial_user_attr(number, "trial", {"id": trial.id, "origin": trial.origin})
        return True

    def note_held(self, claim: Claim, trial: Trial) -> None:
        """Keep in mind what was claimed, as the next reading will bring it: the database may be away by then."""
        self.rows[claim.number] = Row(attempt=claim.attempt, holder=self.holder, machine=self.machine, trial=trial,
                                      started=time.time(), is_open=True)

    def renew(self, held: Mapping[int, int]) -> dict[int, str]:
        """Show a sign of life; return the trials that were lost, and who has them."""
        columns = TRIALS.c
        with self.database.begin() as connection:
            connection.execute(TRIALS.update().where(
                columns.study == self._study, columns.number.in_(list(held)), columns.holder == self.holder,
                columns.result.is_(None)).values(expires=self._now + self.lease_s))
            rows = connection.execute(sql.select(columns.number, columns.attempt, columns.holder, columns.machine)
                                      .where(columns.study == self._study, columns.number.in_(list(held))))
            return {row.number: row.machine for row in rows
                    if row.holder != self.holder or row.attempt != held[row.number]}

    def release(self, number: int, attempt: int) -> None:
        """Give a trial back, for whoever comes next."""
        with self.database.begin() as connection:
            connection.execute(TRIALS.update().where(*self._held(number, attempt)).values(holder=""))

    def tell(self, trial: Trial, attempt: int, result: TrialResult, told: float | None) -> str | None:
        """Record how a trial ended; return who has it if it was lost, and not given back since. May be repeated."""
        columns = TRIALS.c
        held = sql.and_(columns.holder == self.holder, columns.attempt == attempt)
        left = sql.false() if result.is_of_the_machine else self._left()
        end = {"result": json.dumps(asdict(result)), "told": told, "holder": self.holder, "machine": self.machine}
        with self.database.begin() as connection:
            written = connection.execute(TRIALS.update().where(
                columns.study == self._study, columns.number == trial.number, columns.result.is_(None), held | left)
                .values(**end)).rowcount
            if not written:
                row = connection.execute(sql.select(columns.holder, columns.attempt, columns.machine).where(
                    columns.study == self._study, columns.number == trial.number)).one()
                if row.holder != self.holder or row.attempt != attempt:
                    return str(row.machine)
        self._copy(trial, result, told)
        return None

    def reopen(self, number: int, attempt: int) -> None:
        """Have a trial trained once more that ended in this attempt; another machine may have reopened it already."""
        columns = TRIALS.c
        with self.database.begin() as connection:
            connection.execute(TRIALS.update().where(
                columns.study == self._study, columns.number == number, columns.attempt == attempt,
                columns.result.is_not(None)).values(result=None, told=None, holder=""))
        self.rows[number].result = None

    def mend(self) -> None:
        """Bring Optuna's copy in line where a kill came between a result and its copy."""
        columns = TRIALS.c
        with self.database.begin() as connection:
            rows = list(connection.execute(sql.select(columns.trial, columns.result, columns.told).where(
                columns.study == self._study, columns.result.is_not(None), columns.copied.is_(False))))
        for row in rows:
            self._copy(Trial(**json.loads(row.trial)), result_from_dict(json.loads(row.result)), row.told)

    def _copy(self, trial: Trial, result: TrialResult, told: float | None) -> None:
        storage, number = self.database.storage, self._optuna_id(trial.number)
        value = result.metric if result.status is Status.COMPLETE else None
        is_measured = value is not None and math.isfinite(value)
        state = TrialState.COMPLETE if is_measured else (
            TrialState.PRUNED if result.status is Status.PRUNED else TrialState.FAIL)
        facts = {"status": result.status.value, "reason": result.reason, "told": told}
        with contextlib.suppress(UpdateFinishedTrialError):  # somebody mends the copy at this moment, in the same words
            for step, loss in result.evaluations:
                storage.set_trial_intermediate_value(number, step, loss)
            storage.set_trial_user_attr(number, "result", {name: fact for name, fact in facts.items()
                                                           if fact is not None and fact != ""})
            storage.set_trial_state_values(number, state, [value] if value is not None and is_measured else None)
        with self.database.begin() as connection:
            connection.execute(TRIALS.update().where(TRIALS.c.study == self._study, TRIALS.c.number == trial.number)
                               .values(copied=True))

    def _left(self) -> Any:
        return sql.or_(TRIALS.c.holder == "", TRIALS.c.expires < self._now)

    def _held(self, number: int, attempt: int) -> tuple[Any, ...]:
        columns = TRIALS.c
        return (columns.study == self._study, columns.number == number, columns.holder == self.holder,
                columns.attempt == attempt, columns.result.is_(None))

    def _lock_study(self, connection: Any) -> Any:
        return connection.execute(STUDIES.select().where(STUDIES.c.study == self._study).with_for_update()).one()

    def _optuna_id(self, number: int) -> int:
        if number not in self._optuna:
            self._optuna[number] = self.database.storage.get_trial_id_from_study_id_trial_number(self._study, number)
        return self._optuna[number]


def join(address: str, spec: SweepSpec, seed: int | None, known: Mapping[str, Any] | None, notify: Notify, *,
         lease_s: float | None, checkpoints: Path | None) -> SharedRecord:
    """Join the study at an address, or prepare to make it, and add what is `known` before its first trial.

    Raises:
        StudyError: the database, its study or the folder of the checkpoints cannot be used; says why.
    """
    if checkpoints is not None:
        require_shelf(checkpoints)
    record = SharedRecord.join(Database(read_address(address), notify=notify), spec, seed, lease_s or DEFAULT_LEASE_S)
    if known is not None:
        record.database.patiently(lambda: record.add_known({**known}))
        record.database.rest()
    notify(Note(text=f"sharing the study {record.info.name!r} in {record.database.address.shown}; without a sign of "
                     f"life for {record.lease_s:g} s a machine's trial is given to another one"))
    return record
