"""Whether a value of one hyperparameter becomes the new default: a rule for few seeds, with its noise.

Every value was trained with the same seeds, so values are compared seed by seed, and the noise is what is left of all
losses when each value's and each seed's own level is taken away: three seeds suffice because all values share it.

Over thousands of simulated studies of four values (`tests/test_decision.py`) a variable without effect changes the
default in 8 % of them and a gain of 1.5 noise deviations is found in 63 %. To adopt at once what is over two standard
errors, and to ask for more seeds between one and two, changes it in 14 %: looking twice costs, so the first look is
stricter here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kaggle_runner.study.noise import t_975
from kaggle_runner.study.table import format_value

LEAST_SEEDS = 3
"""Number of shared seeds below which nothing is decided."""
MOST_SEEDS = 5
"""Number of shared seeds with which everything is decided."""
EXTRA_SEEDS = 2
"""Number of further seeds that the two contenders get where three do not decide."""
CLEAR = 4.0
"""Standard errors of a gain that is adopted with three seeds."""
OPEN = 1.0
"""Standard errors of a gain that is worth more seeds."""
ADOPTED = 2.0
"""Standard errors of a gain that is adopted with five seeds."""


class Verdict(StrEnum):
    """What a study says."""

    ADOPT = "adopt"
    KEEP = "keep"
    MORE_SEEDS = "more seeds"
    SCREENING = "screening, no decision"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value and what it measured."""

    value: Any
    losses: Mapping[int, float]
    """The metric by seed; a seed whose trial failed is missing."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One value against the baseline."""

    value: Any
    seeds: int
    """The seeds that the value was measured with."""
    mean: float | None
    """Mean of the losses, over all of its seeds."""
    gain: float | None = None
    """Mean over the shared seeds of how much better it is than the baseline; none for the baseline itself."""
    standard_error: float | None = None
    """Standard error of the gain, from the noise of the whole study."""
    half_width: float | None = None
    """Half of the gain's 95 % interval."""
    effect: float | None = None
    """The gain in deviations of the noise."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a study says, and every number behind it."""

    verdict: Verdict
    winner: Any
    """The value that is the default from here on."""
    challenger: Any
    """The best value that is not the baseline; none if there is no other."""
    noise: float | None
    """Standard deviation of a loss, values and seeds taken away; none with one seed."""
    freedom: int
    """Degrees of freedom of the noise."""
    comparisons: tuple[Comparison, ...]
    """Every value beside the baseline, in the order of the study; the baseline itself is among them."""
    reason: str
    """Why it was decided so, in a sentence with its numbers."""


def decide(settings: Sequence[Setting], baseline: Any, *, goal: str = "minimize") -> Decision:
    """Apply the rule: screening below three shared seeds, else the gain of the best value in standard errors.

    With three seeds or four a gain over `CLEAR` is adopted and one over `OPEN` asks for more seeds; with five a gain
    over `ADOPTED` is adopted. Anything else keeps the baseline.

    Raises:
        ValueError: the baseline is not among the settings, or has no loss.
    """
    base = next((setting for setting in settings if same(setting.value, baseline)), None)
    if base is None or not base.losses:
        raise ValueError(f"the baseline {baseline!r} has no loss")
    sign = -1.0 if goal == "maximize" else 1.0
    noise, freedom = residual_noise(settings)
    rows = tuple(_compare(setting, base, sign, noise, freedom) for setting in settings)
    # who lacks a seed has failed there; who has the seeds of a second look is one of its contenders
    ready = [row for row in rows if row.gain is not None and row.seeds >= min(len(base.losses), LEAST_SEEDS)]
    most = max((row.seeds for row in ready), default=0)
    best = max((row for row in ready if row.seeds == most), key=lambda row: row.gain or 0.0, default=None)

    def decision(verdict: Verdict, reason: str) -> Decision:
        winner = best.value if verdict is Verdict.ADOPT and best is not None else base.value
        return Decision(verdict=verdict, winner=winner, challenger=best.value if best else None, noise=noise,
                        freedom=freedom, comparisons=rows, reason=reason)

    if best is None or best.gain is None:
        return decision(Verdict.KEEP, "no other value was measured with every seed")
    shared = len(base.losses.keys() & _losses(settings, best.value).keys())
    if shared < LEAST_SEEDS or noise is None or best.standard_error is None:
        seeds = "1 seed" if shared == 1 else f"{shared} seeds"
        return decision(Verdict.SCREENING, f"{seeds} cannot tell a gain from noise, {LEAST_SEEDS} are the least")
    errors = best.gain / best.standard_error if best.standard_error > 0 else math.inf if best.gain > 0 else 0.0
    other, default = _told(best.value), _told(base.value)
    told = f"{other} is better than {default} by {best.gain:.4g}, {errors:.1f} standard errors" if best.gain > 0 else \
        f"no value is better than {default}; the best other one, {other}, is worse by {-best.gain:.4g}"
    if shared >= MOST_SEEDS:
        if errors > ADOPTED:
            return decision(Verdict.ADOPT, f"{told} with {shared} seeds, more than {ADOPTED:.0f}")
        return decision(Verdict.KEEP, told if best.gain <= 0 else f"{told} with {shared} seeds, not more than "
                                                                  f"{ADOPTED:.0f}")
    if errors > CLEAR:
        return decision(Verdict.ADOPT, f"{told} with {shared} seeds, more than {CLEAR:.0f}")
    if errors > OPEN:
        return decision(Verdict.MORE_SEEDS, f"{told} with {shared} seeds, between {OPEN:.0f} and {CLEAR:.0f}")
    return decision(Verdict.KEEP, told if best.gain <= 0 else f"{told} with {shared} seeds, not more than {OPEN:.0f}")


def residual_noise(settings: Sequence[Setting]) -> tuple[float | None, int]:
    """Return the deviation of the losses around a level for each value plus one for each seed, and its freedom.

    Settings may lack seeds: the levels are fitted by turns until they stand still, which is least squares.
    """
    cells = {(row, seed): loss for row, setting in enumerate(settings) for seed, loss in setting.losses.items()}
    rows, seeds = {row for row, _ in cells}, {seed for _, seed in cells}
    freedom = len(cells) - len(rows) - len(seeds) + 1
    if freedom < 1:
        return None, 0
    left = dict(cells)
    for _ in range(1000):
        moved = 0.0
        for axis, levels in ((0, rows), (1, seeds)):
            for level in levels:
                at = [cell for cell in left if cell[axis] == level]
                mean = math.fsum(left[cell] for cell in at) / len(at)
                moved = max(moved, abs(mean))
                for cell in at:
                    left[cell] -= mean
        if moved < 1e-12:
            break
    return math.sqrt(math.fsum(value ** 2 for value in left.values()) / freedom), freedom


def same(left: Any, right: Any) -> bool:
    """Say whether two values of a hyperparameter are one: true is not 1 here."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _told(value: Any) -> str:
    """Write a value as every table does; names in quotes."""
    return repr(value) if isinstance(value, str) else format_value(value)


def _losses(settings: Sequence[Setting], value: Any) -> Mapping[int, float]:
    return next(setting.losses for setting in settings if same(setting.value, value))


def _compare(setting: Setting, base: Setting, sign: float, noise: float | None, freedom: int) -> Comparison:
    mean = math.fsum(setting.losses.values()) / len(setting.losses) if setting.losses else None
    shared = sorted(setting.losses.keys() & base.losses.keys())
    row = Comparison(value=setting.value, seeds=len(setting.losses), mean=mean)
    if setting is base or not shared:
        return row
    gain = sign * math.fsum(base.losses[seed] - setting.losses[seed] for seed in shared) / len(shared)
    if noise is None:
        return Comparison(value=row.value, seeds=row.seeds, mean=mean, gain=gain)
    error = noise * math.sqrt(2 / len(shared))
    return Comparison(value=row.value, seeds=row.seeds, mean=mean, gain=gain, standard_error=error,
                      half_width=t_975(freedom) * error, effect=gain / noise if noise > 0 else None)
