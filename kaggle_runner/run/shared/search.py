"""The search of a study that any number of machines share, and the leases of those trials that run on this one.

The embedded search on a record that lies in a database: one worker alone gets the same points. A thread renews the
leases; a trial that was lost meanwhile ends here as preempted, with the reason, and counts where it was run.
"""

import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kaggle_runner.errors import StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.files import json_lines, make_directory
from kaggle_runner.run.points.space import SearchSpace
from kaggle_runner.run.rungs import extrapolated
from kaggle_runner.run.search import Search
from kaggle_runner.run.shared.checkpoints import bring
from kaggle_runner.run.shared.copy import COPY, write_copy
from kaggle_runner.run.shared.record import Claim, SharedRecord
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study, read_study
from kaggle_runner.study.lock import typed_command
from kaggle_runner.study.trial import LOST_TO, Status, Trial, TrialResult, goes_on
from kaggle_runner.sweep.spec import SweepSpec

_SILENT = "for this machine gave no sign of life"
"""After which a trial is another machine's."""
POLL_S = 5.0
"""Between two looks at trials that run elsewhere, at most."""


class SharedSearch(Search):
    """Ask for the next trial of a shared study and tell how it ended; several threads may at once."""

    def __init__(self, record: SharedRecord, study: Study, spec: SweepSpec, *, checkpoints: Path | None = None,
                 notify: Notify = lambda event: None, ends: Callable[[], str | None] = lambda: None,
                 **known: Any) -> None:
        """Join; tell what this directory still owes, and begin to show signs of life.

        Raises:
            StudyError: the database went away, or the directory is of another study.
        """
        self._record, self._study, self._notify, self._ends = record, study, notify, ends
        self._checkpoints = checkpoints
        self._owed: dict[int, tuple[Trial, int, TrialResult]] = {}
        self._given_back: dict[int, TrialResult] = {}
        record.holder = own_holder(study, record)
        if record.is_made:
            note_holder(study, record)
        self._do(record.read)
        super().__init__(record.snapshot(study.directory), spec, **known,
                         told_value=lambda result: extrapolated(result, self.snapshot()))
        self._claims: dict[int, int] = {}
        self._lost: dict[int, str] = {}
        self._at_work = threading.local()
        self._is_unfinished = False
        self._needless_at = -1
        self._take_in()
        self._tell_late()
        self._closed = threading.Event()
        self._pulse = threading.Thread(target=self._show_life, name="leases", daemon=True)
        self._pulse.start()

    def __enter__(self) -> "SharedSearch":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._pulse.join()
        self._rest()

    def close(self) -> Snapshot:
        """Share the untouched base's metric, and leave a copy of the whole study beside what ran here; return it.

        What the database did not hear of is tried once more, and else said.
        """
        directory = self._study.directory / COPY
        self._pay()
        baseline = self._study.snapshot().baseline
        if baseline is not None and self._record.baseline is None and not self._owed:
            with contextlib.suppress(*self._record.database.failures):  # another machine will
                self._record.add_baseline(baseline)
        make_directory(directory)
        if not (directory / "trials").is_symlink():
            (directory / "trials").symlink_to(Path("..") / "trials", target_is_directory=True)
        write_copy(self._as_seen_here(), directory, uid=self._record.uid, shown=self._record.database.address.shown)
        return read_study(directory)

    def _as_seen_here(self) -> Snapshot:
        """Return the whole study, with the ends that this machine knows and that no database keeps, or has heard of."""
        whole = self._last_seen() if self._owed else self.snapshot()
        known = self._given_back | {number: result for number, (_, _, result) in self._owed.items()}
        return dataclasses.replace(whole, records=tuple(
            record if record.result or record.is_held else
            dataclasses.replace(record, result=known.get(record.trial.number)) for record in whole.records))

    def snapshot(self) -> Snapshot:
        """Return the shared study as it stands, or as it was last seen where the database is away."""
        if self._lock.acquire(blocking=False):  # else another thread is about it, perhaps for as long as it is away
            try:
                self._record.read()
            except self._record.database.failures as error:
                self._record.database.is_away(error)
            finally:
                self._lock.release()
                self._rest()
        return self._last_seen()

    def _last_seen(self) -> Snapshot:
        whole = self._record.snapshot(self._study.directory)
        # held by this directory's name, and run by nobody
        idle = {number for number, row in self._record.rows.items() if number not in self._claims
                and (row.holder, row.machine) == (self._record.holder, self._record.machine)}
        return dataclasses.replace(whole, records=tuple(
            dataclasses.replace(record, is_held=record.is_held and record.trial.number not in idle)
            for record in whole.records))

    def is_complete(self, total: int) -> bool:
        """Say whether every trial has ended, as far as is known here and told."""
        return not self._owed and (
            self._end is not None or len(self._results) >= total or len(self._results) == self._points)

    @property
    def is_unfinished(self) -> bool:
        """Say whether this session ends while trials run elsewhere."""
        return self._is_unfinished

    @property
    def reason(self) -> str:
        """Why there is no further trial."""
        if self._owed:
            return "ended while the database was away"
        return "ended while trials run elsewhere" if self._is_unfinished else super().reason

    def was_lost(self, trial: Trial) -> bool:
        """Say whether a trial was given to another machine while it ran here."""
        return trial.number in self._lost

    def _make(self) -> None:
        """Make the study, or join the one that another machine has made since this one began, and knows more of."""
        is_given = self._is_given
        self._do(self._record.make)
        own, seed = self._study.snapshot().info, self._record.info.seed
        if own.seed != seed:
            begun = {name: fact for name, fact in dataclasses.asdict(own).items() if name != "created"}
            self._study.append({"event": "study", **begun, "seed": seed})
            self._notify(Note(text=f"another machine has made the study meanwhile, with seed {seed}, which is taken "
                                   f"over"))
        note_holder(self._study, self._record)
        self._know(self._record.snapshot(self._study.directory))
        self._do(self._record.read)
        first = self._record.rows.get(0)
        if is_given and first is not None and first.trial is not None and first.trial.origin != "given":
            self._notify(Note(text=f"--start is not tried: {first.machine} has begun the study meanwhile, with another "
                                   f"first trial"))

    def end_asked(self) -> str | None:
        """Say that the trial of the calling thread ends, because it was lost."""
        return "preempt" if getattr(self._at_work, "number", None) in self._lost else None

    def ask(self, total: int) -> Trial | None:
        """Return the next trial; wait while the last ones run elsewhere, for one of them may come back."""
        said = False
        while True:
            if self._owed:  # and the session must end
                self._is_unfinished = True
                return None
            with self._lock:
                if not self._record.is_made:  # with the first trial, so a start that is refused leaves none
                    self._make()
                self._do(self._record.read)
                self._take_in()
                if self.is_complete(total):
                    return None
                # while little is expected of a new trial, only what another machine gave back is taken
                known = 1 + max((number for number, row in self._record.rows.items() if row.trial), default=-1)
                limit = min(total, known) if self._needless_at == len(self._results) else total
                claim = self._do(partial(self._record.claim, limit, self._claims))
                if claim is not None:
                    self._claims[claim.number] = claim.attempt
                    self._lost.pop(claim.number, None)
                    self._given_back.pop(claim.number, None)
                    self._at_work.number = claim.number
                    trial = claim.trial or self._choose(claim, total)
                    if trial is not None:
                        self._trials[trial.number] = trial
                        self._record.note_held(claim, trial)
                        self._bring_checkpoint(trial, claim.attempt)
                    if trial is not None or self._end is not None:
                        self._rest()
                        return trial
            self._rest()
            elsewhere = {row.machine for number, row in self._record.rows.items()
                         if row.is_open and number not in self._claims}
            if not said and elsewhere:
                said = True
                self._notify(Note(text=f"waiting for the last trials, which run on {', '.join(sorted(elsewhere))}; "
                                       f"one that dies gives its trial back after {self._record.lease_s:g} s"))
            if self._ends() or self._closed.wait(min(POLL_S, self._record.lease_s / 4)):
                self._is_unfinished = True
                return None

    def tell(self, trial: Trial, result: TrialResult) -> bool:
        """Take in how a trial ended, and say whether it counts; the database may be away for a while."""
        self._at_work.number = None
        with self._lock:
            attempt = self._claims[trial.number]
        lost = self._lost.get(trial.number)
        if lost is None and result.status is Status.PREEMPTED:
            self._given_back[trial.number] = result
            if not self._drop(trial.number, attempt):
                self._owed[trial.number] = trial, attempt, result
            return False
        if lost is None or not goes_on(result):  # who has taken it may have given it back
            told = self._told_value(result) if result.status is Status.PRUNED else None
            try:
                lost = self._do(lambda: self._record.tell(trial, attempt, result, told))
            except StudyError:
                self._owed[trial.number] = trial, attempt, result
                if not self._ends():
                    self._say_owed()
                    raise
        self._rest()
        with self._lock:
            self._claims.pop(trial.number, None)
            if lost is not None:
                self._lost[trial.number] = lost
                self._record_lost(result, lost)
                return False
            self._lost.pop(trial.number, None)
            self._learn(trial, result, told)
            if self.failures.verdict is not None:
                self._end, self.gave_up = self.failures.verdict, True
            return True

    def _choose(self, claim: Claim, total: int) -> Trial | None:
        """Choose the point of a new trial; none, and the trial given back, where there is none or little to expect.

        While others run, these may tell another tale: then the search has not ended.
        """
        while True:
            trial = self._propose(claim.number)
            if trial is None:
                self._end = f"every point of the sweep has been tried, {len(self._results)} in all"
            elif self._is_needless(total, is_last=not any(
                    row.is_open and row.trial for number, row in self._record.rows.items() if number != claim.number)):
                self._needless_at, trial = len(self._results), None
            if trial is None:
                self._drop(claim.number, claim.attempt)
                return None
            key = SearchSpace.of(self._spec).key(trial.params) if self._spec.method == "bayes" else claim.number
            if self._do(partial(self._record.choose, claim, trial, key, self._spec)):
                return trial
            self._do(self._record.read)  # another machine has chosen the same point
            self._take_in()

    def _take_in(self) -> None:
        for number, row in self._record.rows.items():
            if row.trial is not None:
                self._trials[number] = row.trial
                if row.result is not None and number not in self._results:
                    self._learn(row.trial, row.result, row.told)
        self._trials = dict(sorted(self._trials.items()))

    def _tell_late(self) -> None:
        """Tell what ended here while the database was away; what was given to others meanwhile is lost."""
        for record in self._study.snapshot().records:
            row, trial, result = self._record.rows.get(record.trial.number), record.trial, record.result
            if row is None or (result and result.is_of_the_machine and row.holder != self._record.holder):
                continue  # what this machine ended, another one may train: nothing is lost
            is_mine, has_end = row.holder == self._record.holder, result is not None and not goes_on(result)
            if result is not None and has_end and not (is_mine and row.result):
                told = self._told_value(result) if result.status is Status.PRUNED else None
                lost = self._do(partial(self._record.tell, trial, row.attempt, result, told))
                if lost is None:
                    self._learn(trial, result, told)
                    self._notify(Note(text=f"trial {trial.id} ended here earlier, and is told now"))
                else:
                    self._record_lost(result, lost, f"lost to {lost}, {_SILENT}")
            elif is_mine or not (row.is_open or row.result):
                continue  # nobody else has it
            elif result is None:
                self._record_lost(self._study.cut_off(trial.id, ""), row.machine, f"lost to {row.machine}, {_SILENT}")
            elif not record.is_lost:  # it may have been given back
                self._record_lost(result, row.machine, f"{result.reason}; {row.machine} has taken it since")
        if self._record.is_made:
            self._do(self._record.mend)
        self._rest()

    def _record_lost(self, result: TrialResult, machine: str, why: str = "") -> None:
        reason = why or f"lost to {machine}, {_SILENT} for {self._record.lease_s:g} s"
        self._study.record_end(dataclasses.replace(result, status=Status.PREEMPTED, metric=None, reason=reason,
                                                   notes={**result.notes, LOST_TO: machine}))
        self._notify(Note(text=f"trial {result.id} does not count here: {reason}"))

    def _drop(self, number: int, attempt: int) -> bool:
        """Give a trial back; say whether the database heard of it: else its lease runs out."""
        self._claims.pop(number, None)
        try:
            self._record.release(number, attempt)
        except self._record.database.failures as error:
            self._record.database.is_away(error)
            return False
        return True

    def _pay(self) -> None:
        """Tell the database what it has not heard of, if it is back; what it still lacks is said."""
        try:
            for number, (trial, attempt, result) in list(self._owed.items()):
                if goes_on(result):
                    self._record.release(number, attempt)
                else:
                    told = self._told_value(result) if result.status is Status.PRUNED else None
                    machine = self._record.tell(trial, attempt, result, told)
                    if machine is not None:
                        self._record_lost(result, machine)
                del self._owed[number]
        except self._record.database.failures:
            self._say_owed()
        self._rest()

    def _say_owed(self) -> None:
        trials = ", ".join(trial.id for trial, _, _ in self._owed.values())
        self._notify(Note(text=f"the database has not heard how this session left trial {trials}, and another machine "
                               f"may take what it thinks is lost; tell it with: "
                               f"{typed_command() or 'the same command again'}"))

    def _show_life(self) -> None:
        while not self._closed.wait(self._record.lease_s / 4):
            held = dict(self._claims)
            if not held:
                continue
            try:
                lost = self._record.renew(held)
            except self._record.database.failures as error:
                self._record.database.is_away(error)
                continue
            self._rest()
            self._record.database.is_back()
            self._lost |= {number: machine for number, machine in lost.items() if number in self._claims}

    def _do(self, action: Callable[[], Any]) -> Any:
        return self._record.database.patiently(action, self._ends)

    def _rest(self) -> None:
        self._record.database.rest()

    def _bring_checkpoint(self, trial: Trial, attempt: int) -> None:
        """Keep the trial's folder where every machine sees it, and go on from the one of the attempt before."""
        if self._checkpoints is None:
            return
        bring(self._checkpoints / self._record.uid, self._study.directory / "trials" / trial.id, trial.id, attempt)


def own_holder(study: Study, record: SharedRecord) -> str:
    """Return the name under which a study's directory holds trials, a new one where it has none yet.

    Raises:
        StudyError: the directory has trials of its own, or of another shared study.
    """
    noted = shared_with(study.directory)
    shown = record.database.address.shown
    if noted is None:
        if study.snapshot().records:
            raise StudyError(f"{study.directory} holds trials of a sweep of its own, which {shown} does not know; "
                             f"choose another directory with --study")
        return uuid.uuid4().hex
    if not noted["holder"]:
        raise StudyError(f"{study.directory} is a copy of the study that is shared in {noted['database']}; choose "
                         f"another directory with --study")
    if noted["study"] != record.uid:
        raise StudyError(f"{study.directory} belongs to another shared study, in {noted['database']}; choose another "
                         f"directory with --study")
    return str(noted["holder"])


def note_holder(study: Study, record: SharedRecord) -> None:
    """Write the name under which a directory holds trials into its journal, the first time."""
    if shared_with(study.directory) is None:
        study.append({"event": "shared", "study": record.uid, "database": record.database.address.shown,
                      "holder": record.holder})


def shared_with(directory: Path) -> Mapping[str, Any] | None:
    """Return what a directory's journal says of the shared study that it belongs to; none if it belongs to none."""
    if not (directory / JOURNAL).is_file():
        return None
    return next((event for event in json_lines(directory / JOURNAL) if event.get("event") == "shared"), None)
