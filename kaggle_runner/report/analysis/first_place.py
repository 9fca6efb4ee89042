"""Who shares first place: the configurations that chance alone may have put behind the best.

The best of n is the luckiest of n, so what must lie between two of them to tell them apart grows with n. Until the
numbers say otherwise, all of them share it.
Source: Tukey's honestly significant difference, with Kramer's means of unequal size: Miller, "Simultaneous Statistical
Inference", 1981, chapter 2. Rates of being wrong: benchmarks/truth.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kaggle_runner.report.analysis.importance import Effects
from kaggle_runner.study.noise import Configuration, Noise
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
    noise: Noise | None = None
    distance: float | None = None
    """How far two single trials must lie apart to be told apart; none if the noise is not known."""

    @property
    def is_level(self) -> bool:
        """Whether several configurations are complete, and all have the same value."""
        return len(self.ranked) > 1 and len({one.mean for one in self.ranked}) == 1

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """The trials of the configurations that share first place."""
        return tuple(trial_id for one in self.shared for trial_id in (*one.trial_ids, *one.duplicates))


def why_unknown(first: FirstPlace, repeats: Sequence[Configuration]) -> str:
    """Say why the noise is not known; empty where it is."""
    count = len(first.ranked)
    if first.noise is not None and first.distance is not None:
        return ""
    if not count:
        return "no configuration is complete"
    why = (f"{how_many(count, 'complete configuration')} cannot give an estimate ({MIN_FOR_NOISE} that differ are the "
           f"least)" if count < MIN_FOR_NOISE else
           f"the {count} complete configurations leave no scatter to estimate it from")
    seeds = "no configuration was trained with a second seed" if not repeats else "further seeds gave the same value"
    return f"{seeds}, and {why}"


def first_place(configurations: Sequence[Configuration], goal: str, measured: Noise | None,
                effects: Effects) -> FirstPlace:
    """Find those of some configurations, best first, that share first place; `measured` noise goes before its model.

    A model's noise is what the effects that stand out leave; where chance made a longer tail than the normal's, the
    whole width of it is the distance.
    """
    sign = -1.0 if goal == "maximize" else 1.0
    ranked = tuple(configurations)
    modelled = _modelled(effects, len(ranked))
    distances = [_distance(noise, len(ranked)) for noise in (measured, modelled) if noise]
    if modelled is not None:
        distances[-1] = max(distances[-1], float(np.ptp(effects.residuals)))
    # Few seeds tell little, and are told so by a large distance: the shorter of two honest ones counts.
    use_both = measured is not None and measured.freedom < _FEW
    distance = (min(distances) if use_both else distances[0]) if distances else None
    shared = ranked if distance is None else tuple(
        one for one in ranked if sign * (one.mean - ranked[0].mean) <= distance * math.sqrt(
            (1 / one.seeds + 1 / ranked[0].seeds) / 2))
    return FirstPlace(ranked=ranked, shared=shared, noise=measured or modelled, distance=distance)


def _modelled(effects: Effects, count: int) -> Noise | None:
    if count < MIN_FOR_NOISE or effects.freedom < 3 or not effects.deviation:
        return None
    names = [share.name for share in effects.shares if share.resolved]
    names += [" or ".join(effects.one_of)] if effects.one_of else []
    source = f"how {count} configurations scatter around the effect of {', '.join(names)}" if names else (
        f"the scatter of all {count} configurations, as no hyperparameter stands out")
    return Noise(deviation=effects.deviation, freedom=effects.freedom, source=source)


def _distance(noise: Noise, count: int) -> float:
    """Return what the range of so many equal trials stays under, in units of the metric: drawn, not tabled."""
    generator = np.random.default_rng(0)
    ranges = np.ptp(generator.standard_normal((_DRAWS, max(2, min(count, 1000)))), axis=1)
    ranges /= np.sqrt(generator.chisquare(noise.freedom, _DRAWS) / noise.freedom)
    return noise.deviation * float(np.quantile(ranges, 1 - _LEVEL))
