"""How far apart two runs of one configuration lie, where that is known from, and which trials are one configuration.

The only place where seeds are pooled: what `show`, an agent and the report say of noise is this.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.study.journal import JOURNAL, Snapshot, confirm_directory, read_study
from kaggle_runner.study.trial import Measured, Status, of_one_configuration, value_of_configuration, value_of_seed
from kaggle_runner.wording import how_many

_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
          2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
          2.0518, 2.0484, 2.0452, 2.0423)
"""97.5 % points of Student's t for 1 to 30 degrees of freedom."""
_UPPER_OF_FEW = {1: 15.9, 2: 4.42}
"""The root of the degrees of freedom over the 5 % point of their chi-squared."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The complete trials that differ in nothing but the seed."""

    trial_ids: tuple[str, ...]
    """One for each seed."""
    duplicates: tuple[str, ...] = ()
    """Further trials with a seed that was there already: the same computation, which says nothing of the noise."""
    params: Mapping[str, Any]
    """The first trial's, its seed included."""
    mean: float
    """Over the seeds; what one seed came to is the mean of its runs."""
    deviation: float
    """Standard deviation of the values around their mean, one degree of freedom less than values; 0 for one seed."""
    half_width: float
    """Half of the mean's 95 % interval, from this configuration's values alone; infinite for one seed."""
    runs: int = 1
    """Number of values that the mean is made of: duplicates count where they differ."""

    @property
    def runs_ids(self) -> tuple[str, ...]:
        """The trials whose values the mean is made of."""
        return (*self.trial_ids, *(self.duplicates if self.runs > len(self.trial_ids) else ()))

    @property
    def made_of(self) -> str:
        """What the mean is made of, in words: `mean of 3 seeds`."""
        seeds = how_many(len(self.trial_ids), "seed")
        return f"mean of {seeds if self.runs == len(self.trial_ids) else f'{self.runs} runs with {seeds}'}"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The standard deviation of one trial's metric, everything but chance being equal."""

    deviation: float
    source: str
    """Where it comes from, to follow "from": `2 configurations repeated with other seeds`."""
    freedom: int
    """Degrees of freedom behind it."""

    @property
    def upper(self) -> float:
        """What the true deviation stays under in nine of ten studies and more.

        Source: measured by benchmarks/truth.py for normal, uniform, exponential, log-normal and Student's noise and
        for noise with outliers; the chi-squared bound alone covers the normal one only.
        """
        return self.deviation * _UPPER_OF_FEW.get(self.freedom, 1 + 6.5 / math.sqrt(self.freedom + 1))


def find_configurations(trials: Sequence[Measured]) -> tuple[Configuration, ...]:
    """Group (id, params, value) by everything but the seed, in the trials' order.

    Two trials with the same seed are the same computation and count as one seed; where they differ all the same, as
    runs of a program that names no seed do, the seed's value is their mean.
    """
    found = []
    for group in of_one_configuration(trials):
        values = [value_of_seed(same) for same in group]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        half = t_975(len(values) - 1) * deviation / math.sqrt(len(values)) if len(values) > 1 else math.inf
        found.append(Configuration(
            trial_ids=tuple(same[0][0] for same in group), params=group[0][0][1], deviation=deviation,
            duplicates=tuple(trial_id for same in group for trial_id, _, _ in same[1:]),
            runs=sum(len(same) if len({value for _, _, value in same}) > 1 else 1 for same in group),
            mean=value_of_configuration(group), half_width=half))
    return tuple(found)


def find_repeats(trials: Sequence[Measured]) -> tuple[Configuration, ...]:
    """Return the configurations with two or more seeds."""
    return tuple(one for one in find_configurations(trials) if len(one.trial_ids) > 1)


def noise_of_repeats(repeats: Sequence[Configuration], how: str = "trained with several seeds") -> Noise | None:
    """Pool the deviations of all repeated configurations; `how` they were repeated is named.

    None without a repeat, and where every seed gave the same value: then the seed was not what the values depend on.
    """
    freedom = sum(len(repeat.trial_ids) - 1 for repeat in repeats)
    squares = sum(repeat.deviation ** 2 * (len(repeat.trial_ids) - 1) for repeat in repeats)
    if not squares:
        return None
    configurations = "1 configuration" if len(repeats) == 1 else f"{len(repeats)} configurations"
    return Noise(deviation=math.sqrt(squares / freedom), freedom=freedom,
                 source=f"{configurations} {how}, {freedom + len(repeats)} trials")


def measured_noise(snapshot: Snapshot) -> tuple[Noise | None, tuple[Configuration, ...]]:
    """Return the noise that seeds of a study or of its confirmation show, and all configurations with several seeds."""
    repeats = find_repeats(measured_trials(snapshot))
    confirmed = _confirmed(snapshot)
    noise = noise_of_repeats(repeats) or noise_of_repeats(confirmed, "confirmed with several seeds")
    return noise, (*repeats, *confirmed)


def measured_trials(snapshot: Snapshot) -> list[Measured]:
    """Return the complete trials with what was measured."""
    return [(record.trial.id, record.trial.params, record.result.metric) for record in snapshot.finished
            if record.result and record.result.metric is not None and record.result.status is Status.COMPLETE]


def _confirmed(snapshot: Snapshot) -> tuple[Configuration, ...]:
    """Return the repeats of the confirmation that a tuning plan's sweep has in its directory; none without one."""
    directory = confirm_directory(snapshot.directory)
    if not (directory / JOURNAL).is_file():
        return ()
    other = read_study(directory)
    if (other.info.metric, other.info.goal) != (snapshot.info.metric, snapshot.info.goal):
        return ()
    return find_repeats([(f"{record.trial.origin or record.trial.id} with seed {record.trial.params.get('seed')}",
                          record.trial.params, record.result.metric)
                         for record in other.records if record.result and record.result.metric is not None
                         and record.result.status is Status.COMPLETE])


def t_975(freedom: int | None) -> float:
    """Return the 97.5 % point of Student's t; the normal's without a limit or above 30."""
    return _T_975[freedom - 1] if freedom is not None and freedom <= len(_T_975) else 1.96
