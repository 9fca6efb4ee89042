"""Run a sweep with an embedded Optuna study: ask for a point, have it run, tell what became of it.

Order of writes: the point in `optuna.journal`, its start and its end in `trials.jsonl` (by whoever runs it), then its
end in `optuna.journal`. So a kill at any moment loses nothing: the next session mends the copy from the record, and
runs a trial that was cut off again, the same number with the same parameters.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config import TRAINERS
from kaggle_runner.errors import DamagedJournal, StudyError, SweepError
from kaggle_runner.events import Note, Notify
from kaggle_runner.metrics import format_metric
from kaggle_runner.run.failures import FailureBudget, alike
from kaggle_runner.run.optuna_journal import OptunaJournal, put_aside
from kaggle_runner.run.points.next_point import NextPoint
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.prior import known_of, observations
from kaggle_runner.run.points.propose import propose, warm_up
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study
from kaggle_runner.study.scoring import on_other_data, read_by_most
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.sweep.study_settings import Sampler
from kaggle_runner.wording import how_many

__all__ = ["OptunaSearch", "Search", "SearchEnd", "run_sweep", "warm_up"]

LONG = 15
"""Trials of a sweep beyond which it may end early, and before which it never does: at fewer, no rule pays."""
LOOK_S = 0.5
"""Between two looks of a thread that waits for the others at whether the session ends."""
STOP_SHARE = 0.25
"""Of the noise, that the expected improvement must fall under. Source: over six noisy problems of 30 trials it saves a
seventh to a third of them for 0 to 0.025 of regret; a larger share costs more."""


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """Why a session ended."""

    reason: str
    """Why the session ended, in a sentence."""
    trials_run: int
    """Number of trials that this loop brought to an end."""
    cut_short: bool = False
    """Whether there is more to do, in a later session."""
    gave_up: bool = False
    """Whether the same failure came again and again, so that the sweep is not done."""


class Search(ABC):
    """The trials of a study, what is known of them and what comes next; where they are kept is a subclass's matter."""

    def __init__(self, snapshot: Snapshot, spec: SweepSpec, *, defaults: Mapping[str, Any] | None = None,
                 told_value: Callable[[TrialResult], float | None] = lambda result: result.metric,
                 sampler: Sampler | None = None, failures: FailureBudget | None = None,
                 stops_early: bool = False) -> None:
        """Begin with what a study knows besides its trials.

        `defaults` is the configuration that trial 0 is made of, the config's own if none is given; `told_value`
        is what the sampler shall learn from a pruned trial, its measured metric if nothing better is known; `sampler`
        says who chooses the points of a `bayes` sweep, in place of the file; `stops_early` ends a long one when
        little is expected of another trial.
        """
        self._spec = spec
        self._points = None if spec.method == "random" else spec.count
        self._defaults = TRAINERS[spec.trainer]().as_dict() if defaults is None else defaults
        self._told_value = told_value
        self._sampler: Sampler = spec.sampler if sampler is None else sampler
        self._lock = threading.Lock()
        self._trials: dict[int, Trial] = {}
        self._results: dict[int, TrialResult] = {}
        self._told: dict[int, float | None] = {}
        self._held: set[int] = set()
        self.failures = FailureBudget() if failures is None else failures
        """Counted by whoever runs the trials; its verdict ends the sweep."""
        self._end: str | None = None
        self._stops_early = stops_early
        self._expected: NextPoint | None = None
        self._change = threading.Condition(self._lock)
        self._changes, self._handed_back = 0, False
        self._asked = threading.local()
        self.gave_up = False
        self._apart = frozenset[int]()
        self._know(snapshot)

    def _know(self, snapshot: Snapshot) -> None:
        """Take over a study's seed, and what is known besides its trials."""
        self._seed, known = snapshot.info.seed, known_of(snapshot)
        self._lessons, self._prior = known.lessons, observations(known.lessons, self._spec)
        self._is_given = bool(known.start)
        self._defaults = {**self._defaults, **known.start}

    def total(self, count: int | None) -> int:
        """Return how many trials the study shall have in the end: `count`, else the file's `run_cap`, else the grid.

        Raises:
            SweepError: nothing says when the sweep ends.
        """
        require_end(self._spec, count)
        wanted = self._spec.run_cap if count is None else count
        return min(n for n in (wanted, self._points) if n is not None)

    def first_params(self) -> Mapping[str, Any]:
        """Return the parameters of trial 0, whether it has been run or not."""
        first = self._trials.get(0) or self._propose(0)
        return first.params if first else {}

    @property
    def reason(self) -> str:
        """Why there is no further trial."""
        finished = len(self._results)
        if finished == self._points:
            return self._end or f"every point of the sweep has been tried, {finished} in all"
        return self._end or f"{how_many(finished, 'trial')} {'is' if finished == 1 else 'are'} finished"

    def is_complete(self, total: int) -> bool:
        """Say whether no further trial will be handed out; trials may still be running in other threads."""
        taken = len(self._results) + len(self._held)
        return self._end is not None or taken >= total or taken == self._points

    @property
    def is_unfinished(self) -> bool:
        """Say whether there is more to do, though nothing more for this session."""
        return False

    def end_asked(self) -> str | None:
        """Say that the trial of the calling thread shall end, for a reason of the search; none else."""
        return None

    def was_lost(self, trial: Trial) -> bool:
        """Say whether a trial was given to another machine while it ran here."""
        return False

    @abstractmethod
    def ask(self, total: int) -> Trial | None:
        """Return the next trial to run; none when there is none for this session."""

    @abstractmethod
    def tell(self, trial: Trial, result: TrialResult) -> bool:
        """Take in how a trial ended, and say whether it counts; one that was preempted does not."""

    def _propose(self, number: int) -> Trial | None:
        self._compare_data()
        past = [self._observation(earlier) for earlier in self._trials if earlier != number]
        proposal = propose(self._spec, seed=self._seed, number=number, past=past, defaults=self._defaults,
                           sampler=self._sampler, prior=self._prior, is_given=self._is_given)
        if proposal is None:
            return None
        self._expected = proposal.expected
        return Trial(id=f"{number:04d}", number=number, params=proposal.params, origin=proposal.origin)

    def _compare_data(self) -> None:
        """Find out which trials, of this study and of others, read other data than this search does."""
        records = [TrialRecord(trial=trial, result=self._results[number], attempts=1, started=0.0)
                   for number, trial in self._trials.items() if number in self._results]
        self._apart = frozenset(record.trial.number for record in on_other_data(records))
        if any(lesson.hashes for lesson in self._lessons):
            self._prior = observations(self._lessons, self._spec, read_by_most(records))

    def await_others(self, may_start: Callable[[], str | None]) -> bool:
        """Wait, where little is expected of a trial beside those that run, until one has ended; say whether to ask on.

        Only for a thread that was just given no trial.
        """
        with self._change:
            while self._end is None and self._held and not self._handed_back and (
                    self._changes == getattr(self._asked, "at", None)) and may_start() is None:
                self._change.wait(LOOK_S)
            return self._end is None and not self._handed_back and hasattr(self._asked, "at")

    def _is_needless(self, total: int, *, is_last: bool) -> bool:
        """Say whether the model expects less of another trial than the noise can hide.

        Then the search ends, or, while others run, nothing is begun beside them: they may tell another tale.
        """
        expected = self._expected
        if not self._stops_early or total <= LONG or len(self._results) < LONG or expected is None \
                or expected.gain >= STOP_SHARE * expected.noise:
            return False
        if is_last:
            # what breaks a tie has no unit that means anything to a reader
            gain = (", its ties broken by the loss, by" if self._spec.judged_by.has_ties else
                    f" by {expected.gain * expected.unit:.2g},")
            self._end = (f"after {len(self._results)} trials another one is expected to improve {self._spec.metric}"
                         f"{gain} less than a quarter of what chance is to the search's model, which takes a part of "
                         f"the noise for an effect; --no-early-end goes on")
        return True

    def _observation(self, number: int) -> Observation:
        """Say what the sampler is to learn from a trial."""
        trial, result = self._trials[number], self._results.get(number)
        if result is None:
            return Observation(params=trial.params, told=Told.RUNNING)
        if number in self._apart:
            return Observation(params=trial.params, told=Told.NOTHING)
        kind = result.notes.get("kind")
        value = self._told[number] if result.status is Status.PRUNED else result.metric
        if result.status in (Status.COMPLETE, Status.PRUNED) and value is not None:
            value = self._spec.judged_by.for_search(value, result.loss)
            if math.isfinite(value):
                return Observation(params=trial.params, told=Told.VALUE, value=value)
            return Observation(params=trial.params, told=Told.BAD)
        if result.status is Status.INFEASIBLE or kind == "out_of_memory":
            return Observation(params=trial.params, told=Told.INFEASIBLE)
        # a run that somebody deleted on W&B says nothing of its point
        bad = kind == "not_finite" or (kind != "lost" and self._failed_alike(number))
        return Observation(params=trial.params, told=Told.BAD if bad else Told.NOTHING)

    def _failed_alike(self, number: int) -> bool:
        """Say whether another point failed for the same reason: then it may be where they lie, and not chance."""
        reason = alike(self._results[number].reason)
        return any(other != number and other not in self._apart and result.status is Status.FAILED
                   and alike(result.reason) == reason and self._trials[other].params != self._trials[number].params
                   for other, result in self._results.items())

    def _learn(self, trial: Trial, result: TrialResult, told: float | None) -> None:
        """Take in a result, and what the sampler is told of it if it was pruned."""
        self._results[trial.number], self._told[trial.number] = result, told
        target, metric = self._spec.target, result.metric
        if target is not None and metric is not None and result.status is Status.COMPLETE and (
                not self._spec.judged_by.is_better(target, metric)):
            self._end = (f"trial {trial.id} reached the target: {self._spec.metric} "
                         f"{format_metric(self._spec.metric, metric)}")


class OptunaSearch(Search):
    """The search of a study on this machine, with Optuna's copy beside it; several threads may ask and tell at once."""

    def __init__(self, study: Study, spec: SweepSpec, *, notify: Notify = lambda event: None,
                 elsewhere: Collection[str] = (), **known: Any) -> None:
        """Open the study's search and bring Optuna's copy in line with the record; `known` is as `Search` has it.

        Trials without an end that run `elsewhere`, by name, were not cut off.

        Raises:
            StudyError: the copy cannot be written, or the record holds a trial that the sweep cannot have made.
        """
        snapshot = study.snapshot()
        super().__init__(snapshot, spec, **known)
        self._journal = self._open(snapshot, notify)
        self._adopt(snapshot, notify, elsewhere)

    def ask(self, total: int) -> Trial | None:
        """Return the next trial to run, one that was cut off before a new one; none when the sweep is at its end.

        Raises:
            StudyError: Optuna's copy cannot be written.
        """
        with self._lock:
            if self.is_complete(total):
                return None
            number = next(n for n in range(len(self._trials) + 1) if n not in self._results and n not in self._held)
            if number not in self._trials:
                trial = self._propose(number)
                if trial is None:
                    self._points = number
                    return None
                if self._is_needless(total, is_last=not self._held):
                    self._asked.at = self._changes
                    return None
                self._journal.start(trial)
                self._trials[number] = trial
            self._held.add(number)
            return self._trials[number]

    def tell(self, trial: Trial, result: TrialResult) -> bool:
        """Take in how a trial ended; a preempted one stays open for the next session.

        Raises:
            StudyError: Optuna's copy cannot be written; the record has the result already.
        """
        with self._change:
            self._changes += 1
            self._change.notify_all()
            if result.status is Status.PREEMPTED:
                self._handed_back = True
                return False
            self._take(trial, result)
            self._held.discard(trial.number)
            if self.failures.verdict is not None:  # the same bug strikes again and again
                self._end, self.gave_up = self.failures.verdict, True
        return True

    def _open(self, snapshot: Snapshot, notify: Notify) -> OptunaJournal:
        """Open Optuna's copy; one that cannot be used is put aside and begun anew."""
        foreign = [record.trial.id for record in snapshot.records if not self._spec.contains(record.trial.params)]
        if foreign:
            raise StudyError(f"{snapshot.directory} holds trials that this sweep cannot have made: "
                             f"{', '.join(foreign)}; choose another directory with --study, or restore the file")
        try:
            journal = OptunaJournal(snapshot.directory, snapshot.info, self._spec)
            journal.check(snapshot)
        except DamagedJournal as error:
            aside = put_aside(snapshot.directory)
            notify(Note(text=f"{error}; the old one is kept as {aside.name}"))
            journal = OptunaJournal(snapshot.directory, snapshot.info, self._spec)
        return journal

    def _adopt(self, snapshot: Snapshot, notify: Notify, elsewhere: Collection[str]) -> None:
        """Learn from the record and from points that were chosen and never started; add to the copy what it lacks."""
        known = dict(enumerate(self._journal.trials))
        records = {record.trial.number: record for record in snapshot.records}
        added = 0
        for number in range(max([*known, *records], default=-1) + 1):
            record = records.get(number)
            trial = known.get(number) or (record.trial if record else self._propose(number))
            if trial is None:
                raise StudyError(f"{snapshot.directory / JOURNAL} lacks trial {number}, and the sweep has no point "
                                 f"left to take its place; restore the file from a copy")
            if number not in known:
                self._journal.start(trial)
                added += 1
            self._trials[number] = trial
            if record and record.result and record.result.status is not Status.PREEMPTED:
                self._take(trial, record.result)
            elif record and trial.id not in elsewhere:
                notify(Note(text=f"trial {trial.id} was cut off and is run again"))
        if added:
            notify(Note(text=f"{how_many(added, 'trial')} of the record added to {self._journal.path.name}"))

    def _take(self, trial: Trial, result: TrialResult) -> None:
        if self._journal.is_finished(trial.number):
            told = self._journal.told(trial.number)
        else:
            told = self._journal.told(trial.number)  # of a session that was killed while it told it
            if told is None and result.status is Status.PRUNED:
                told = self._told_value(result)
            self._journal.finish(trial, result, told)
        self._learn(trial, result, told)


def require_end(spec: SweepSpec, count: int | None) -> None:
    """Refuse a sweep that would never end.

    Raises:
        SweepError: neither it nor somebody's `count` says when.
    """
    if count is None and spec.run_cap is None and spec.method != "grid":
        raise SweepError(spec.source, [f"run_cap: missing, and a {spec.method} sweep has no end of its own; write "
                                       f"run_cap: 8 into the file or give --count 8"])


def run_sweep(search: Search, *, run_trial: Callable[[Trial], TrialResult], count: int | None = None,
              may_start: Callable[[], str | None] = lambda: None) -> SearchEnd:
    """Run trials until the study has as many as it shall have, or something ends the session.

    `run_trial` trains, and writes start and end into the record. `may_start` gives a reason not to start another trial.
    Several threads may do this with one search, each with a `run_trial` of its own.

    Raises:
        SweepError: nothing says when the sweep ends.
        StudyError: Optuna's copy of the study cannot be written.
    """
    total, trials_run = search.total(count), 0
    while not search.is_complete(total):
        refusal = may_start()
        if refusal is not None:
            return SearchEnd(reason=refusal, trials_run=trials_run, cut_short=True)
        trial = search.ask(total)
        if trial is None:
            if search.is_unfinished:
                return SearchEnd(reason=search.reason, trials_run=trials_run, cut_short=True)
            if search.await_others(may_start):
                continue
            break
        result = run_trial(trial)
        counts = search.tell(trial, result)
        if result.status is Status.PREEMPTED and not search.was_lost(trial):
            return SearchEnd(reason=result.reason or f"trial {trial.id} was preempted", trials_run=trials_run,
                                cut_short=True)
        trials_run += counts
    return SearchEnd(reason=search.reason, trials_run=trials_run, gave_up=search.gave_up)

