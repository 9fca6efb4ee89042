"""The study as Optuna stores it, `optuna.journal`: for `optuna-dashboard` and for whoever goes on with Optuna alone.

A copy of the record in the units of the sweep file. It holds only losses that were measured: pruned trials are pruned,
infeasible ones failed, and what the sampler was told of them is an attribute. The record, `trials.jsonl`, is the truth;
a copy that is torn is mended, and one that is damaged or contradicts the record is put aside and written anew.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from kaggle_runner.errors import DamagedJournal
from kaggle_runner.files import cannot_write, digest_of
from kaggle_runner.study.journal import Snapshot, StudyInfo
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult
from kaggle_runner.sweep.distributions import Choice, Range
from kaggle_runner.sweep.spec import SweepSpec

FILE = "optuna.journal"
DIGESTED = ("trial", "told")
"""The attributes that the search reads back, where the record does not have them too."""
DIGEST_OF = "digest_of_"
ANEW = "; it is written anew from the record at the start of the sweep"


class OptunaJournal:
    """Write access to `optuna.journal`; only for the holder of the study's own lock."""

    def __init__(self, directory: Path, info: StudyInfo, spec: SweepSpec) -> None:
        """Open the journal, made if there is none, after cutting a torn last line and a lock whose holder was killed.

        Raises:
            DamagedJournal: a line before the last one is damaged, or the file is the journal of another study.
            StudyError: the file cannot be written.
        """
        self.path = directory / FILE
        self._distributions = {name: shown_as(parameter) for name, parameter in spec.searched.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with _at_the_border(self.path):
            _mend(self.path)
            self._storage = JournalStorage(JournalFileBackend(str(self.path)))
            names = [study.study_name for study in self._storage.get_all_studies()]
            if names not in ([], [info.name]):
                raise DamagedJournal(f"{self.path} is the journal of {', '.join(names)}{ANEW}")
            if names:  # creating it again would write a line to a journal that may have to be kept as it is
                self._study = optuna.load_study(storage=self._storage, study_name=info.name)
            else:
                self._study = optuna.create_study(storage=self._storage, study_name=info.name,
                                                  direction=StudyDirection[info.goal.upper()])
            if not self._study.user_attrs:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)  # of Optuna 3.2 to 5.0, for a label
                    self._study.set_metric_names([info.metric])
                self._study.set_user_attr("kaggle_runner", {"metric": info.metric, "goal": info.goal, "seed": info.seed,
                                                            "method": spec.method})

    @property
    def trials(self) -> list[Trial]:
        """Every trial in the journal, in the order of their numbers."""
        return [Trial(**trial.user_attrs["trial"]) for trial in self._study.get_trials(deepcopy=False)]

    def is_finished(self, number: int) -> bool:
        """Say whether the journal knows how a trial ended."""
        return self._study.get_trials(deepcopy=False)[number].state.is_finished()

    def told(self, number: int) -> float | None:
        """Return the value that the sampler was told for a trial that was pruned; none if it was told nothing yet."""
        return self._study.get_trials(deepcopy=False)[number].user_attrs.get("told")

    def check(self, snapshot: Snapshot) -> None:
        """Compare the journal with the record.

        Raises:
            DamagedJournal: it contradicts the record, and how.
        """
        try:
            trials = self.trials
        except (KeyError, TypeError) as error:
            raise DamagedJournal(f"{self.path} has a trial that this program did not write{ANEW}") from error
        records = {record.trial.number: record for record in snapshot.records}
        for number, trial in enumerate(trials):
            record = records.get(number)
            if record is not None and _plain(trial.params) != _plain(record.trial.params):
                raise DamagedJournal(f"{self.path}: trial {number} has other parameters than in the record{ANEW}")
            attributes = self._study.get_trials(deepcopy=False)[number].user_attrs
            damaged = [name for name in DIGESTED if DIGEST_OF + name in attributes
                       and attributes[DIGEST_OF + name] != _digest(attributes.get(name))]
            if damaged:
                raise DamagedJournal(f"{self.path}: trial {number} is damaged in {', '.join(damaged)}{ANEW}")
            if self.is_finished(number) and not (record and _is_over(record)):
                raise DamagedJournal(f"{self.path}: trial {number} is finished, but not in the record{ANEW}")

    def start(self, trial: Trial) -> None:
        """Add a running trial; its number is the next one. One line, so a kill leaves all of it or nothing."""
        params = {name: shown_value(trial.params[name], distribution)
                  for name, distribution in self._distributions.items()}
        chosen = {"id": trial.id, "number": trial.number, "params": dict(trial.params), "origin": trial.origin}
        with _at_the_border(self.path):
            self._study.add_trial(create_trial(
                state=TrialState.RUNNING, params=params, distributions=self._distributions,
                user_attrs={"trial": chosen, f"{DIGEST_OF}trial": _digest(chosen)}))

    def finish(self, trial: Trial, result: TrialResult, told: float | None) -> None:
        """Say how a running trial ended; may be repeated after a kill, the state is written last."""
        with _at_the_border(self.path):
            study_id = self._storage.get_study_id_from_name(self._study.study_name)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            attributes = {"told": told, f"{DIGEST_OF}told": None if told is None else _digest(told),
                          "status": result.status.value, "reason": result.reason}
            for name, value in attributes.items():
                if value is not None and value != "":
                    self._storage.set_trial_user_attr(trial_id, name, value)
            for step, loss in result.evaluations:
                self._storage.set_trial_intermediate_value(trial_id, step, loss)
            if result.status is Status.COMPLETE and result.metric is not None:
                self._study.tell(trial.number, result.metric)
            else:
                pruned = result.status is Status.PRUNED
                self._study.tell(trial.number, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def put_aside(directory: Path) -> Path:
    """Rename a damaged journal to `optuna.journal.damaged-N` and return its new path."""
    path = directory / FILE
    count = 1
    while (aside := directory / f"{FILE}.damaged-{count}").exists():
        count += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise cannot_write(path, error) from error
    return aside


def shown_as(parameter: Choice | Range) -> BaseDistribution:
    """Return a parameter as Optuna's distribution in the units of the sweep file.

    Optuna has no normal, beta or inverse distributions: those are shown by their smallest and largest value.
    """
    if isinstance(parameter, Choice):
        return CategoricalDistribution(tuple(shown_value(value) for value in parameter.values))
    low, high = parameter.from_unit(0.0), parameter.from_unit(1.0)
    if parameter.is_integer:
        return IntDistribution(int(low), int(high), log=parameter.is_logarithmic and low >= 1)
    return FloatDistribution(low, high, log=(parameter.is_logarithmic or "log_normal" in parameter.distribution)
                             and low > 0)


def shown_value(value: Any, distribution: BaseDistribution | None = None) -> Any:
    """Return a value as Optuna can store it: lists become text, and a bound is not missed by its last digit."""
    if isinstance(distribution, FloatDistribution):
        return max(distribution.low, min(value, distribution.high))
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _digest(value: Any) -> str:
    return digest_of(json.dumps(value).encode())


def _is_over(record: TrialRecord) -> bool:
    return record.result is not None and record.result.status is not Status.PREEMPTED


def _plain(params: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(params)))


def _mend(path: Path) -> None:
    """Cut what follows the last newline, and drop a lock: its holder is gone, for the study's own lock is ours.

    Source: measured with Optuna 5.0: a cut last line makes every later write fail, a lock left by a kill blocks 30.1 s.
    """
    for lock in path.parent.glob(f"{FILE}.lock*"):
        lock.unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        keep = content.rfind(b"\n") + 1
        if keep < len(content):
            os.truncate(path, keep)


@contextlib.contextmanager
def _at_the_border(path: Path) -> Iterator[None]:
    """Translate what Optuna raises over its journal."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        # Optuna replays the lines without checking them, so a damaged one raises whatever it happens to.
        raise DamagedJournal(f"{path} is damaged ({type(error).__name__}: {error}){ANEW}") from error
