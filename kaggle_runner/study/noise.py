"""How far apart two runs of one configuration lie, where that is known from, and what is said of a confirmed winner.

What `show`, an agent and the report say of seeds is this.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.metrics import format_metric, metric_writer
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.ranking import is_complete, seed_of, value_of
from kaggle_runner.study.trial import (
    Measured,
    Status,
    Trial,
    TrialRecord,
    TrialResult,
    of_one_configuration,
    value_of_seed,
)
from kaggle_runner.wording import how_many

_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
          2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
          2.0518, 2.0484, 2.0452, 2.0423)
"""97.5 % points of Student's t for 1 to 30 degrees of freedom."""
CONFIRMED = "confirmed with several seeds"
_UPPER_OF_FEW = {1: 15.9, 2: 4.42}
"""The root of the degrees of freedom over the 5 % point of their chi-squared."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The complete trials that differ in nothing but the seed."""

    trial_ids: tuple[str, ...]
    """One for each seed."""
    duplicates: tuple[str, ...] = ()
    """Further trials with a seed that was there already: the same computation, which says nothing of the noise."""
    confirmed: tuple[str, ...] = ()
    """Its trainings with further seeds, which are no trials of the study."""
    uncounted: tuple[str, ...] = ()
    """Trials that have no part in the mean: those that it is compared with did not meet their seeds."""
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
    def all_ids(self) -> tuple[str, ...]:
        """All its trials, those with a seed that was there already too."""
        return (*self.trial_ids, *self.duplicates)

    @property
    def runs_ids(self) -> tuple[str, ...]:
        """The trials whose values the mean is made of."""
        return (*self.trial_ids, *(self.duplicates if self.runs > self.seeds else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Each seed once: trials, and trainings that confirmed them."""
        return (*self.trial_ids, *self.confirmed)

    @property
    def seeds(self) -> int:
        """Number of the seeds that its mean is made of."""
        return len(self.names) - len(self.uncounted)

    @property
    def made_of(self) -> str:
        """What the mean is made of, in words: `mean of 3 seeds`."""
        seeds = how_many(self.seeds, "seed")
        return f"mean of {seeds if self.runs == self.seeds else f'{self.runs} runs with {seeds}'}"


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


def find_configurations(trials: Sequence[Measured], further: Mapping[str, Mapping[str, float]] | None = None,
                        uncounted: Collection[str] = ()) -> tuple[Configuration, ...]:
    """Group (id, params, value) by everything but the seed, in the trials' order; `further` as `further_seeds` has it.

    The values of `uncounted` trials are left out of the means.

    Two trials with the same seed are the same computation and count as one seed; where they differ all the same, as
    runs of a program that names no seed do, the seed's value is their mean.
    """
    found = []
    for group in of_one_configuration(trials):
        more: Mapping[str, float] = next((further[name] for same in group for name, _, _ in same
                                          if further and name in further), {})
        counted = [same for same in group if not (more and same[0][0] in uncounted)]
        values = [*map(value_of_seed, counted), *more.values()]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        half = t_975(len(values) - 1) * deviation / math.sqrt(len(values)) if len(values) > 1 else math.inf
        found.append(Configuration(
            trial_ids=tuple(same[0][0] for same in group), params=group[0][0][1], deviation=deviation,
            duplicates=tuple(trial_id for same in group for trial_id, _, _ in same[1:]),
            uncounted=tuple(same[0][0] for same in group if same not in counted),
            confirmed=tuple(more), half_width=half, mean=statistics.fmean(values) if len(values) > 1 else values[0],
            runs=len(more) + sum(len(same) if len({value for _, _, value in same}) > 1 else 1 for same in counted)))
    return tuple(found)


def is_level(found: Sequence[Configuration]) -> bool:
    """Say whether there are several configurations, and all have the same value."""
    return len(found) > 1 and len({one.mean for one in found}) == 1


def find_repeats(trials: Sequence[Measured]) -> tuple[Configuration, ...]:
    """Return the configurations with two or more seeds."""
    return tuple(one for one in find_configurations(trials) if one.seeds > 1)


def noise_of_repeats(repeats: Sequence[Configuration], how: str = "trained with several seeds") -> Noise | None:
    """Pool the deviations of all repeated configurations; `how` they were repeated is named.

    None without a repeat, and where every seed gave the same value: then the seed was not what the values depend on.
    """
    freedom = sum(repeat.seeds - 1 for repeat in repeats)
    squares = sum(repeat.deviation ** 2 * (repeat.seeds - 1) for repeat in repeats)
    if not squares:
        return None
    configurations = "1 configuration" if len(repeats) == 1 else f"{len(repeats)} configurations"
    return Noise(deviation=math.sqrt(squares / freedom), freedom=freedom,
                 source=f"{configurations} {how}, {freedom + len(repeats)} trials")


def measured_noise(snapshot: Snapshot) -> tuple[Noise | None, tuple[Configuration, ...]]:
    """Return the noise that seeds of a study or of its confirmation show, and all configurations with several seeds.

    Of the seeds that the sweep trained and those that confirmed it the ones that tell more. Seeds that had no part in
    choosing a configuration tell more than the one that it was chosen by.
    """
    own = find_repeats(measured_trials(snapshot))
    further = find_repeats([(confirming_name(record), record.trial.params, value_of(record))
                            for record in snapshot.comparable.confirming if is_complete(record)])
    pooled = tuple(one for one in configurations_of(snapshot) if one.seeds > 1)
    named = {name for one in pooled for name in one.confirmed}
    noises = [noise for noise in (noise_of_repeats(own), noise_of_repeats(further, CONFIRMED)) if noise]
    noise = max(noises, key=lambda one: one.freedom) if noises else noise_of_repeats(pooled)
    return noise, (*pooled, *(one for one in further if not named & set(one.trial_ids)))


def configurations_of(snapshot: Snapshot) -> tuple[Configuration, ...]:
    """Return the configurations of the complete trials with all the seeds that they are compared by."""
    uncounted = {record.trial.id for one in snapshot.configurations if one.compared_seeds is not None
                 for record in one.records if seed_of(record.trial.params) not in one.compared_seeds}
    return find_configurations(measured_trials(snapshot), further_seeds(snapshot), uncounted)


def measured_trials(snapshot: Snapshot) -> list[Measured]:
    """Return the complete trials with what was measured."""
    return [(record.trial.id, record.trial.params, value_of(record)) for record in snapshot.comparable.records
            if is_complete(record)]


def further_seeds(snapshot: Snapshot) -> dict[str, dict[str, float]]:
    """Return for the best trial of each configuration that was confirmed what its further seeds came to, by name."""
    return {one.records[0].trial.id: {confirming_name(record): value_of(record) for record in one.further}
            for one in snapshot.configurations if one.further}


def failed_with_a_seed(snapshot: Snapshot) -> dict[str, str]:
    """Return the trials of the configurations that failed with a further seed, and what became of them."""
    return {record.trial.id: _came_to(one.failed[0])
            for one in snapshot.configurations if one.failed for record in one.records}


def confirming_name(record: TrialRecord) -> str:
    """Name a training that confirms a trial: `trial 0003 with seed 43`."""
    return f"{record.trial.origin or record.trial.id} with seed {record.trial.params.get('seed')}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration with its value in the sweep and those of its further seeds."""

    trial: Trial
    first: float
    """What the sweep measured, the mean of its seeds: chosen for being good, so too good on average."""
    further: tuple[float, ...]
    seeds: tuple[Any, ...] = ()
    """The further ones."""
    own: tuple[float, ...] | None = None
    """What it came to with the seeds of the sweep that all candidates met; none: `first`."""

    @property
    def mean(self) -> float:
        """Mean over the seeds that all candidates met."""
        return self.mean_with(self.further)

    def mean_with(self, further: Sequence[float]) -> float:
        """Return the mean over such seeds of the sweep and some further ones."""
        return statistics.fmean([*((self.first,) if self.own is None else self.own), *further] or [self.first])


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What confirming a sweep found."""

    candidates: tuple[Candidate, ...]
    """Best mean first: the first one is the winner."""
    lost: tuple[str, ...] = ()
    """Who was left out because trainings failed, and why, in words."""
    leads: str = ""
    """The trial that came later and leads until it is confirmed too; empty where the winner is the best."""
    stated: float
    """What is chosen so comes to with another seed: seeds judged whom the others chose, mostly the winner."""
    seeds: int
    noise: Noise | None
    means: tuple[float, ...]
    """Of all configurations: what tells these apart is written."""

    @property
    def winner(self) -> Candidate:
        """The configuration with the best mean over its seeds."""
        return self.candidates[0]

    @property
    def stated_of_best(self) -> float | None:
        """What is stated, where the winner is the best; none where a later trial leads."""
        return None if self.leads else self.stated

    @property
    def doubt(self) -> float | None:
        """Standard error of what is stated; none where one seed each tells nothing of the noise."""
        return None if self.noise is None else self.noise.deviation / math.sqrt(self.seeds)

    def as_lines(self, metric: str) -> list[tuple[str, str]]:
        """Say it as (label, text) lines for a person."""
        write = metric_writer(metric, self.means)
        doubt = "" if self.doubt is None else f" +- {self.doubt:.2g} standard error"
        later = f"; trial {self.leads} came later, and leads until it is confirmed too" if self.leads else ""
        lines = [("confirm" if later else "seeds",
                  f"trial {self.winner.trial.id} is chosen; what is chosen so comes to {metric} "
                  f"{write(self.stated)}{doubt} with another seed (the sweep measured "
                  f"{write(self.winner.first)}){later}")]
        lines += [("", f"trial {one.trial.id}: {write(one.first)} in the sweep, then "
                       f"{', '.join(map(write, one.further))}; mean "
                       f"{'' if one.own is None or one.own else 'of the latter '}{write(one.mean)}")
                  for one in self.candidates]
        if len({one.seeds for one in self.candidates}) > 1:
            lines.append(("", "each met other seeds, and some are hard; the same command with --confirm trains the "
                              "same ones for all"))
        return lines + [("", text) for text in self.lost]


def confirmed(snapshot: Snapshot) -> Confirmed | None:
    """Return what the confirmation of a sweep found; none while too little of it is complete."""
    found = snapshot.configurations
    candidates = [Candidate(trial=one.records[0].trial, first=statistics.fmean(one.own),
                            own=one.compared,
                            further=tuple(map(value_of, one.further)), seeds=tuple(sorted(
                                seed_of(record.trial.params) for record in one.further)))
                  for one in found if one.further]
    if not candidates:
        return None
    return Confirmed(
        candidates=tuple(candidates), stated=stated_mean(candidates, snapshot.metric.sign),
        seeds=min(len(one.further) for one in candidates), noise=measured_noise(snapshot)[0],
        means=tuple(one.mean for one in found), leads="" if found[0].further else found[0].records[0].trial.id,
        lost=tuple(f"trial {one.records[0].trial.id}: "
                   f"{format_metric(snapshot.info.metric, statistics.fmean(one.own))} in the sweep, but with seed "
                   f"{one.failed[0].trial.params.get('seed')} it {_came_to(one.failed[0])}"
                   for one in found if one.failed)
        + tuple(f"{confirming_name(record)} {came_to(record.result)}: {record.result.reason}; that seed does not "
                f"count until it is trained again"
                for one in found for record in one.cut_off if record.result is not None))


def stated_of_best(snapshot: Snapshot) -> float | None:
    """Return what is chosen as the best was comes to with another seed; none unless a confirmation chose it."""
    found = confirmed(snapshot)
    return None if found is None else found.stated_of_best


def stated_mean(candidates: Sequence[Candidate], sign: float) -> float:
    """Let each seed judge the one that the others would choose."""
    said = []
    for left_out in range(min(len(one.further) for one in candidates)):
        def rest(one: Candidate, out: int = left_out) -> float:
            return sign * one.mean_with([value for at, value in enumerate(one.further) if at != out])
        said.append(min(candidates, key=rest).further[left_out])
    return statistics.fmean(said)


def _came_to(record: TrialRecord) -> str:
    result = record.result
    if result is None or result.status is Status.COMPLETE:
        return "ended without a number"
    return f"{came_to(result)}: {result.reason or 'no reason was recorded'}"


def came_to(result: TrialResult) -> str:
    """Say what became of a training without a value, to follow its name: `failed`, `was preempted`."""
    return result.status.value if result.status is Status.FAILED else f"was {result.status.value}"


def t_975(freedom: int | None) -> float:
    """Return the 97.5 % point of Student's t; the normal's without a limit or above 30."""
    return _T_975[freedom - 1] if freedom is not None and freedom <= len(_T_975) else 1.96
