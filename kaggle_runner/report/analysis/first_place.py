"""Who shares first place: the configurations that chance alone may have put behind the best.

The best of n is the luckiest of n, so what must lie between two of them to tell them apart grows with n. Until the
numbers say otherwise, all of them share it. Those beyond a gap that is too wide for chance, as diverged trials are, do
not, and say nothing of how those before it scatter.
Source: Tukey's honestly significant difference, with Kramer's means of unequal size: Miller, "Simultaneous Statistical
Inference", 1981, chapter 2. Rates of being wrong: benchmarks/truth.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kaggle_runner.report.analysis.gap import Measure, before_gap
from kaggle_runner.report.analysis.importance import Effects
from kaggle_runner.study.noise import Configuration, Noise, is_level
from kaggle_runner.wording import how_many

MIN_FOR_NOISE = 8
"""Configurations from which on their own scatter says something of the noise."""
_LEVEL, _DRAWS, _FEW = 0.03, 4000, 4


@dataclass(frozen=True, kw_only=True)
class FirstPlace:
    """What is known of the best configuration."""

    ranked: tuple[Configuration, ...] = ()
    """All configurations, the best one first."""
    shared: tuple[Configuration, ...] = ()
    """Those that may be the best, the best one first."""
    near: tuple[Configuration, ...] = ()
    """Those before a gap that is too wide for chance; all without one."""
    noise: Noise | None = None
    distance: float | None = None
    """How far two single trials must lie apart to be told apart; none if the noise is not known."""
    apart: int = 0
    """How many lie beyond a gap, and were left out of the noise."""
    told_by: Noise | None = None
    """What the distance is made of, where that is another noise than the one that is stated."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Trials that failed with a further seed, so that they share nothing, and why."""
    expected: float | None = None
    """What is chosen as the best was comes to with another seed, where a confirmation chose it."""

    @property
    def places(self) -> tuple[Configuration, ...]:
        """All configurations, those that share first place before the others."""
        shared = set(self.trial_ids)
        return (*self.shared, *(one for one in self.ranked if one.trial_ids[0] not in shared))

    @property
    def has_means(self) -> bool:
        """Whether some configuration is compared by the mean of several runs."""
        return any(one.runs > 1 for one in self.ranked)

    @property
    def is_level(self) -> bool:
        """Whether several configurations are complete, and all have the same value."""
        return is_level(self.ranked)

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """The trials of the configurations that share first place."""
        return tuple(trial_id for one in self.shared for trial_id in one.all_ids)

    def limit(self, seeds: int) -> float | None:
        """Return how far behind the best a mean over so many seeds is known to be worse."""
        return None if self.distance is None else between(self.distance, seeds, self.ranked[0].seeds)


def between(distance: float, seeds: int, others: int) -> float:
    """Return how far two means over so many seeds must lie apart, of what two single trials must."""
    return distance * math.sqrt((1 / seeds + 1 / others) / 2)


def why_unknown(first: FirstPlace, repeats: Sequence[Configuration]) -> str:
    """Say why the noise is not known; empty where it is."""
    count = len(first.ranked) - first.apart
    if first.noise is not None and first.distance is not None:
        return ""
    if not count:
        return "no configuration is complete"
    before = " before a wide gap" if first.apart else ""
    why = (f"{how_many(count, 'complete configuration')}{before} cannot give an estimate ({MIN_FOR_NOISE} that differ "
           f"are the least)" if count < MIN_FOR_NOISE else
           f"the {count} complete configurations{before} leave no scatter to estimate it from")
    seeds = "no configuration was trained with a second seed" if not repeats else "further seeds gave the same value"
    return f"{seeds}, and {why}"


def first_place(configurations: Sequence[Configuration], goal: str, measured: Noise | None, effects: Effects,
                effects_of: Callable[[Sequence[Configuration]], Effects], measures: Sequence[Measure],
                failed: Mapping[str, str] | None = None, expected: float | None = None) -> FirstPlace:
    """Find those of some configurations, best first, that share first place; `measured` noise goes before its model.

    The first of the `measures` is the study's own metric.

    A model's noise is what the effects that stand out leave; where chance made a longer tail than the normal's, the
    whole width of it is the distance. Where they leave more than the configurations before a gap scatter, or
    twice what `effects_of` these alone leave, those are the model. Trials that `failed` with a further seed share
    nothing, unless all have. What is `expected` of such a choice is said beside the best.
    """
    sign = -1.0 if goal == "maximize" else 1.0
    ranked, use_both = tuple(configurations), measured is not None and measured.freedom < _FEW
    near, apart = ranked, 0
    if ranked and (measured is None or use_both):
        near = tuple(ranked[i] for i in before_gap(measures, len(ranked)))
    if len(near) < len(ranked):
        alone = effects_of(near)
        if not _is_explained(effects, near) or (len(near) >= MIN_FOR_NOISE
                                                and 0 < 2 * alone.deviation < effects.deviation):
            effects, apart = alone, len(ranked) - len(near)
    modelled = _modelled(effects, len(ranked) - apart, apart)
    noises = [noise for noise in (measured, modelled) if noise]
    distances = [_distance(noise, len(ranked)) for noise in noises]
    if modelled is not None:
        distances[-1] = max(distances[-1], float(np.ptp(effects.residuals)))
    # Few seeds tell little, and are told so by a large distance: the shorter of two honest ones counts.
    distance = (min(distances) if use_both else distances[0]) if distances else None
    told_by = noises[distances.index(distance)] if distance is not None else None
    shared = near if measured is None else ranked
    if distance is not None:
        shared = tuple(one for one in shared if sign * (one.mean - ranked[0].mean) <= between(
            distance, one.seeds, ranked[0].seeds))
    stated = measured or modelled
    return FirstPlace(ranked=ranked, noise=stated, distance=distance, apart=apart, near=near,
                      failed=failed or {},
                      shared=tuple(one for one in shared if not set(one.trial_ids) & set(failed or ())) or shared,
                      told_by=None if told_by is stated else told_by, expected=expected)


def _is_explained(effects: Effects, near: Sequence[Configuration]) -> bool:
    """Say whether effects leave no more than about what those before the gap scatter."""
    return bool(effects.residuals) and bool(np.ptp(effects.residuals) <= 2 * np.ptp([one.mean for one in near]))


def _modelled(effects: Effects, count: int, apart: int) -> Noise | None:
    if count < MIN_FOR_NOISE or effects.freedom < 3 or not effects.deviation:
        return None
    names = [share.name for share in effects.shares if share.resolved]
    names += [" or ".join(effects.one_of)] if effects.one_of else []
    source = f"how {count} configurations scatter around the effect of {', '.join(names)}" if names else (
        f"the scatter of {count if apart else f'all {count}'} configurations, as no hyperparameter stands out")
    if apart:
        source += f"; {apart} beyond a wide gap {'is' if apart == 1 else 'are'} left out"
    return Noise(deviation=effects.deviation, freedom=effects.freedom, source=source)


def _distance(noise: Noise, count: int) -> float:
    """Return what the range of so many equal trials stays under, in units of the metric: drawn, not tabled."""
    generator = np.random.default_rng(0)
    ranges = np.ptp(generator.standard_normal((_DRAWS, max(2, min(count, 1000)))), axis=1)
    ranges /= np.sqrt(generator.chisquare(noise.freedom, _DRAWS) / noise.freedom)
    return noise.deviation * float(np.quantile(ranges, 1 - _LEVEL))
