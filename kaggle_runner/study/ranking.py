"""Which configuration of a study is best: by the mean over its seeds, those that further seeds have confirmed first.

The best of many single values is the luckiest. So a configuration that met others with further seeds is judged by all
of the seeds that they share, and goes before those that one seed each has put where they are; one that came later, and
whose value is better than all that the confirmed ones had in the sweep, leads until it is confirmed too.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError
from kaggle_runner.metrics import Metric
from kaggle_runner.study.trial import (
    SEED,
    Status,
    TrialRecord,
    of_one_configuration,
    value_of_configuration,
    value_of_seed,
)

OF_TRIAL = "trial "
"""What the origin of a training begins with, before the name of the trial that it confirms."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A configuration: its complete trials, and the trainings with further seeds that confirm it."""

    records: tuple[TrialRecord, ...]
    """Best first."""
    own: tuple[float, ...]
    """One value for each seed of the sweep."""
    own_seeds: tuple[Any, ...] = ()
    further: tuple[TrialRecord, ...] = ()
    """Complete trainings with seeds that the sweep has not, if it was compared by them."""
    failed: tuple[TrialRecord, ...] = ()
    """Trainings with further seeds that ended without a value: with these it cannot win by luck."""
    cut_off: tuple[TrialRecord, ...] = ()
    """Trainings with further seeds that the machine ended: they count neither way until they are trained again."""
    compared_seeds: frozenset[Any] | None = None
    """Those that all met that are compared by further ones; none: it is judged by all of its own."""

    @property
    def compared(self) -> tuple[float, ...]:
        """Its own values that count where it is compared."""
        return tuple(value for seed, value in zip(self.own_seeds, self.own, strict=True)
                     if self.compared_seeds is None or seed in self.compared_seeds)

    @property
    def judged_by(self) -> tuple[float, ...]:
        """The values that it is compared by."""
        return (*self.compared, *map(value_of, self.further))

    @property
    def mean(self) -> float:
        """Mean over the seeds that it is compared by."""
        return statistics.fmean(self.judged_by) if len(self.judged_by) > 1 else self.judged_by[0]


def value_of(record: TrialRecord) -> float:
    """Return what a complete trial came to."""
    assert record.result is not None
    assert record.result.metric is not None
    return record.result.metric


def is_complete(record: TrialRecord) -> bool:
    """Say whether a trial was trained to its end and has a value."""
    result = record.result
    return result is not None and result.status is Status.COMPLETE and result.metric is not None


def rank(records: Sequence[TrialRecord], confirming: Sequence[TrialRecord], metric: Metric) -> tuple[Ranked, ...]:
    """Return the configurations of a study's complete trials, the best one first; `confirming` have further seeds."""
    by_id = {record.trial.id: record for record in records if is_complete(record)}
    found = []
    for group in of_one_configuration([(name, one.trial.params, value_of(one)) for name, one in by_id.items()]):
        own = sorted((by_id[name] for same in group for name, _, _ in same), key=lambda one: own_rank(one, metric))
        seeds = {seed_of(record.trial.params) for record in own}
        names = {OF_TRIAL + record.trial.id for record in own}
        more = {seed: record for record in confirming if record.trial.origin in names
                and (seed := seed_of(record.trial.params)) not in seeds}.values()
        found.append((value_of_configuration(group), Ranked(
            records=tuple(own), own=tuple(map(value_of_seed, group)), further=tuple(filter(is_complete, more)),
            own_seeds=tuple(seed_of(same[0][1]) for same in group),
            failed=tuple(record for record in more if record.result is not None and not is_complete(record)
                         and record.result.status is not Status.PREEMPTED and not record.result.is_of_the_machine),
            cut_off=tuple(record for record in more
                          if record.result is not None and record.result.is_of_the_machine))))

    def key(value: float, one: Ranked) -> tuple[float, float, int]:
        return metric.sign * value, own_rank(one.records[0], metric)[0][1], one.records[0].trial.number

    swept = _with_shared_own(_with_shared_seeds([one for _, one in sorted(found, key=lambda pair: key(*pair))]))
    whole = [one for one in swept if one.further and not one.failed]
    tried = [one for one in swept if one.further or one.failed]
    if not whole or len(whole) + sum(bool(one.failed) for one in swept) < 2:
        return tuple(replace(one, further=(), compared_seeds=None) for one in swept)
    later = swept[:swept.index(tried[0])]
    rest = [replace(one, further=(), compared_seeds=None) for one in swept if one not in whole and one not in later]
    return (*later, *sorted(whole, key=lambda one: key(one.mean, one)), *rest)


def _with_shared_seeds(found: Sequence[Ranked]) -> list[Ranked]:
    """Keep of the trainings that confirm configurations those with seeds that all of these met: some are hard."""
    seeds = [_further_seeds(one) for one in found if one.further and not one.failed]
    shared = set.intersection(*seeds) if seeds else set()
    if not shared:  # an earlier version gave each the seeds after its own
        return list(found)
    return [replace(one, further=tuple(record for record in one.further if seed_of(record.trial.params) in shared))
            for one in found]


def _with_shared_own(found: Sequence[Ranked]) -> list[Ranked]:
    """Have configurations that are compared by further seeds judged by those own ones that all of them met.

    Where the sweep searched the seed, each has its own: then only the further ones compare.
    """
    judged = [one for one in found if one.further and not one.failed]
    met = [{*one.own_seeds, *_further_seeds(one)} for one in judged]
    shared = set.intersection(*met) if met else set()
    if not shared:
        return list(found)
    return [replace(one, compared_seeds=frozenset(shared)) if one in judged else one for one in found]


def _further_seeds(one: Ranked) -> set[Any]:
    return {seed_of(record.trial.params) for record in one.further}


def own_rank(record: TrialRecord, metric: Metric) -> tuple[tuple[float, float], int]:
    """Return what sorts single complete trials, the earlier one of two equals first."""
    assert record.result is not None
    return metric.rank(value_of(record), record.result.loss), record.trial.number


def seed_of(params: Mapping[str, Any]) -> Any:
    """Return the seed that a trial was trained with; none where it is not known."""
    if SEED in params:
        return params[SEED]
    try:
        return config_from_params(params).seed
    except ConfigError:
        return None
