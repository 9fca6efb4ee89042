"""How far apart two runs of one configuration lie, and where that is known from."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.study.axes import SEED

_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
          2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
          2.0518, 2.0484, 2.0452, 2.0423)
"""97.5 % points of Student's t for 1 to 30 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One configuration that was trained with several seeds."""

    trial_ids: tuple[str, ...]
    mean: float
    deviation: float
    """Standard deviation of the values around their mean, with one degree of freedom less than values."""
    half_width: float
    """Half of the mean's 95 % interval, from this configuration's values alone."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The standard deviation of one trial's metric, everything but chance being equal."""

    deviation: float
    source: str
    """Where it comes from, to follow "known from": `2 configurations repeated with other seeds`."""
    freedom: int | None
    """Degrees of freedom behind it; none for a model's estimate."""

    @property
    def least_difference(self) -> float:
        """Two single trials closer than this cannot be told apart, at 95 %.

        Source: the repeatability limit of ISO 5725-6, t times the square root of 2 times the deviation.
        """
        return math.sqrt(2) * t_975(self.freedom) * self.deviation


def find_repeats(trials: Sequence[tuple[str, Mapping[str, Any], float]]) -> tuple[Repeat, ...]:
    """Return the configurations with two or more seeds among (id, params, value), in the trials' order.

    Two trials with the same seed are the same computation and no repeat: the first of them counts.
    """
    groups: dict[str, dict[str, tuple[str, float]]] = {}
    for trial_id, params, value in trials:
        configuration = repr(sorted((name, repr(chosen)) for name, chosen in params.items() if name != SEED))
        groups.setdefault(configuration, {}).setdefault(repr(params.get(SEED)), (trial_id, value))
    repeats = []
    for group in groups.values():
        if len(group) < 2:
            continue
        values = [value for _, value in group.values()]
        deviation = statistics.stdev(values)
        repeats.append(Repeat(
            trial_ids=tuple(trial_id for trial_id, _ in group.values()), mean=statistics.fmean(values),
            deviation=deviation, half_width=t_975(len(values) - 1) * deviation / math.sqrt(len(values))))
    return tuple(repeats)


def noise_of_repeats(repeats: Sequence[Repeat], how: str = "trained with several seeds") -> Noise | None:
    """Pool the deviations of all repeated configurations; none without a repeat. `how` they were repeated is named."""
    if not repeats:
        return None
    freedom = sum(len(repeat.trial_ids) - 1 for repeat in repeats)
    squares = sum(repeat.deviation ** 2 * (len(repeat.trial_ids) - 1) for repeat in repeats)
    configurations = "1 configuration" if len(repeats) == 1 else f"{len(repeats)} configurations"
    return Noise(deviation=math.sqrt(squares / freedom), freedom=freedom,
                 source=f"{configurations} {how}, {freedom + len(repeats)} trials")


def t_975(freedom: int | None) -> float:
    """Return the 97.5 % point of Student's t; the normal's without a limit or above 30."""
    return _T_975[freedom - 1] if freedom is not None and freedom <= len(_T_975) else 1.96
