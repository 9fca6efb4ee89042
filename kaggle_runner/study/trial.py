"""A trial: what is to be trained, how it ended, what the journal knows of it, and which are one configuration."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from kaggle_runner.config import Config, config_from_params
from kaggle_runner.metrics import LOSS

RUNNING, OUT, STOPPED = "running", "out", "stopped"
"""Status words of a trial without a result; one that is out was given to agents of W&B."""
OPEN = (RUNNING, OUT, STOPPED)
_WITHOUT_AN_END = "stopped without an end; the next start goes on with it"
LOST_TO = "lost_to"
"""The note that names who has taken a trial that was cut off here."""
SEED = "seed"
"""The hyperparameter in which the trials of one configuration differ."""
OF_THE_MACHINE = ("crash", "hung", "error", "out_of_memory", "lost")
"""Kinds of failure that say nothing against a configuration which was trained before."""
Measured = tuple[str, Mapping[str, Any], float]
"""A complete trial: its id, its hyperparameters and what was measured."""


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    PREEMPTED = "preempted"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the search space, to be trained once."""

    id: str
    """Name of the trial in its study and of its directory: `0003`, or a W&B run id."""
    number: int
    """Position in the study, from 0."""
    params: Mapping[str, Any]
    """What the sweep chose, fixed settings included: fields of the trial's config."""
    origin: str = ""
    """Where it came from: `defaults`, `given`, `prior`, `start`, `model`, `gp`, `tpe`, `random`, `grid`, `wandb`."""

    @functools.cached_property
    def config(self) -> Config:
        """The hyperparameters it is trained with, of the trainer that `params` names.

        Raises:
            ConfigError: an unknown trainer, a name that is no hyperparameter of it, or a value that cannot work.
        """
        return config_from_params(self.params)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What became of one trial; holds only losses that were measured."""

    id: str
    status: Status
    metric: float | None
    """The best value of the sweep's metric that was measured, none if none was."""
    reason: str = ""
    """Why it ended as it did, in a sentence; empty for a complete trial."""
    steps: int = 0
    """Number of optimizer steps that were done."""
    seconds: float = 0.0
    """Wall time from the request to the result."""
    peak_device_bytes: int | None = None
    """Most device bytes allocated at once; the process's resident bytes on a CPU."""
    evaluations: tuple[tuple[int, float], ...] = ()
    """Every evaluation as (step, value of the study's metric), in order."""
    losses: tuple[float, ...] = ()
    """`eval/loss` of every evaluation where it breaks the ties of the metric; else empty."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Everything that was measured where the metric was best, by name; empty in studies of earlier versions."""
    tokens: int = 0
    """Training tokens seen, padding not counted."""
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: load, data, attach, train, eval, save."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that took part."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the config, the rows, the base and the trained adapter."""
    attempts: int = 1
    """How often the trial was started, this time included."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Facts of this run under their own names, such as an effective micro-batch."""

    @property
    def loss(self) -> float | None:
        """Its `eval/loss` where the metric was best; none where only the metric is known."""
        return self.metrics.get(LOSS)

    @property
    def is_of_the_machine(self) -> bool:
        """Whether the machine was at fault, so that a configuration which was trained before may be tried again."""
        return self.status is Status.INFEASIBLE or (
            self.status is Status.FAILED and self.notes.get("kind") in OF_THE_MACHINE)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as the journal knows it."""

    trial: Trial
    result: TrialResult | None
    """None while it runs, or after the process that ran it was killed."""
    attempts: int
    started: float
    """Unix time of the last start."""
    is_held: bool = True
    """Whether somebody runs it, if it goes on: nobody does after a kill or a power cut."""
    holder: Mapping[str, Any] = field(default_factory=dict)
    """Who started it last, as `study.lock.this_process` tells it; empty where nobody wrote that down."""
    run: str = ""
    """Its run on W&B, where a search that chooses points here gives it to agents."""

    @property
    def status_word(self) -> str:
        """How it ended, or one of `OPEN`: `stopped` where nothing runs it and no end was written."""
        return self.result.status.value if self.result else RUNNING if self.is_held else OUT if self.run else STOPPED

    @property
    def has_own_end(self) -> bool:
        """Whether it ended by itself: it does not go on later, nor is it called failed because its run was lost."""
        return not goes_on(self.result) and self.result is not None and self.result.notes.get("kind") != "lost"

    @property
    def is_lost(self) -> bool:
        """Whether it was cut off here and is another machine's by now."""
        return self.result is not None and LOST_TO in self.result.notes

    @property
    def reason(self) -> str:
        """Why it ended as it did, empty where there is nothing to say."""
        out = self.run and f"given out as run {self.run}; agents go on with it, and its search takes its end in"
        return self.result.reason if self.result else "" if self.is_held else out or _WITHOUT_AN_END


def goes_on(result: TrialResult | None) -> bool:
    """Say whether a trial goes on later, or at this moment: it has no end, or was preempted."""
    return result is None or result.status is Status.PREEMPTED


def result_from_dict(values: Mapping[str, Any]) -> TrialResult:
    """Read a result from a line of the journal; fields of a newer version are left out."""
    known = {f.name for f in fields(TrialResult)}
    kept = {name: value for name, value in values.items() if name in known}
    kept["status"] = Status(kept["status"])
    kept["evaluations"] = tuple((int(step), float(loss)) for step, loss in kept.get("evaluations", ())
                                if loss is not None)
    kept["losses"] = tuple(kept.get("losses", ()))
    return TrialResult(**kept)


def of_one_configuration(trials: Sequence[Measured]) -> list[list[list[Measured]]]:
    """Group trials by everything but the seed, and within a configuration by the seed, all in the trials' order."""
    groups: dict[str, dict[str, list[Measured]]] = {}
    for trial in trials:
        own = repr(sorted((name, repr(chosen)) for name, chosen in trial[1].items() if name != SEED))
        groups.setdefault(own, {}).setdefault(repr(trial[1].get(SEED)), []).append(trial)
    return [list(group.values()) for group in groups.values()]


def value_of_seed(same: Sequence[Measured]) -> float:
    """Return what one seed of a configuration came to: the mean of its runs, which are alike unless chance has more
    doors than the seed."""
    return statistics.fmean(value for _, _, value in same) if len(same) > 1 else same[0][2]


def value_of_configuration(group: Sequence[Sequence[Measured]]) -> float:
    """Return what a configuration is ranked by: the mean over its seeds."""
    return statistics.fmean(map(value_of_seed, group)) if len(group) > 1 else value_of_seed(group[0])
