"""What mattered: one test for all hyperparameters at once, and how much of the metric's variance each one explains.

Each hyperparameter is compared with a bank of shapes: a line, valleys, steps, groups of values. Whether the best fit of
all is more than chance is read off shuffled values that may choose among the same shapes, so many hyperparameters and
many shapes cost power and never truth. What was found is taken out, and the rest is tested on what it leaves.
Source: Westfall and Young, "Resampling-Based Multiple Testing", 1993, chapter 2 (the largest statistic of a shuffle);
Freedman and Lane, J. Bus. Econ. Stat. 1, 1983 (shuffled residuals). Rates of being wrong: benchmarks/truth.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

MIN_TRIALS = 6
"""Configurations below which nothing is said."""
LEVEL = 0.05
"""How often shuffled values may reach what is said to stand out."""
_SHUFFLES = 399
_CUTS = 11
_EXACT = 1e-6
"""Part of the values' own deviation below which what an effect leaves is no noise."""
_TRIALS_FOR_WAVES = 20
"""Trials from which on a curve of fourth degree is among the shapes, and a level for each of many listed values."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One hyperparameter as the test sees it."""

    name: str
    positions: tuple[float, ...]
    """Position of each trial's value; equal positions are one value, and a negative one means there is none."""
    ordered: bool
    """Whether the order of the positions means something; unordered values are compared group by group."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of the variance that one hyperparameter explains."""

    name: str
    share: float
    """Of the variance of the metric, less what shuffled values explain on average; may be below 0."""
    low: float
    high: float
    """Ends of its 90 % interval."""
    floor: float
    """The share from which on it would stand out."""
    chance: float
    """How often shuffled values reach as much, over all hyperparameters."""
    resolved: bool
    """Whether it stands out from chance."""


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What was found, and what it leaves unexplained."""

    shares: tuple[Share, ...] = ()
    """Those that stand out first, then by share."""
    residuals: tuple[float, ...] = ()
    """The values less the effects that stand out, extreme ones pulled in."""
    deviation: float = 0.0
    """Standard deviation of the unexplained."""
    freedom: int = 0


def find_effects(factors: Sequence[Factor], values: Sequence[float], *, seed: int = 0) -> Effects:
    """Test all factors; nothing is found under `MIN_TRIALS` values or if all are equal."""
    given = np.asarray(values, dtype=float)
    if len(given) < MIN_TRIALS or not factors or np.ptp(given) == 0:
        return Effects()
    targets = winsorised(given)
    targets = targets - targets.mean()
    if not targets.any():
        return Effects()
    count, total, generator = len(targets), float(targets @ targets), np.random.default_rng(seed)
    banks = [(factor, _shapes(factor)) for factor in factors]
    found: dict[str, Share] = {factor.name: Share(name=factor.name, share=0.0, low=0.0, high=0.0, floor=1.0,
                                                  chance=1.0, resolved=False) for factor in factors}
    basis = np.empty((count, 0))
    left = targets
    while banks and count - 1 - basis.shape[1] > 3 and left @ left > 1e-12 * total:
        fits, limit = _round(banks, left, basis, float(left @ left) / total, generator)
        for fit in fits:
            found[fit.share.name] = fit.share
        best = max(fits, key=lambda fit: fit.score, default=None)
        if best is None or best.score <= limit:
            break
        found[best.share.name] = replace(best.share, resolved=True)
        basis = np.column_stack([basis, best.shape])
        left = left - best.shape @ (best.shape.T @ left)
        banks = [(factor, shapes) for factor, shapes in banks if factor.name != best.share.name]
    freedom = count - 1 - basis.shape[1]
    explained = sum(max(0.0, share.share) for share in found.values() if share.resolved)
    raw = winsorised(given, reach=8)  # what is pulled in for the test is noise to the noise
    raw = raw - raw.mean()
    raw = raw - basis @ (basis.T @ raw)
    deviation = math.sqrt(max(float(raw @ raw) / max(1, freedom), total / (count - 1) * (1 - min(1.0, explained))))
    if deviation < _EXACT * math.sqrt(total / count):
        deviation = 0.0  # what is left of an exact fit is rounding: it says nothing of another seed
    shares = sorted(found.values(), key=lambda share: (not share.resolved, -share.share))
    return Effects(shares=tuple(shares), residuals=tuple(float(value) for value in raw), deviation=deviation,
                   freedom=freedom)


@dataclass(frozen=True)
class _Fit:
    """The shape of one factor that fits best."""

    share: Share
    shape: np.ndarray
    score: float


def _round(banks: Sequence[tuple[Factor, list[np.ndarray]]], left: np.ndarray, basis: np.ndarray, scale: float,
           generator: np.random.Generator) -> tuple[list[_Fit], float]:
    """Fit every factor to what is left, and return the score that shuffled values stay under."""
    count, used = basis.shape
    shuffled = generator.permuted(np.repeat(left[:, None], _SHUFFLES, axis=1), axis=0)
    shuffled -= basis @ (basis.T @ shuffled)
    targets = np.column_stack([left, shuffled - shuffled.mean(axis=0)])
    squares = np.maximum((targets ** 2).sum(axis=0), 1e-300)
    fits, scores = [], []
    for factor, shapes in banks:
        own = [shape for shape in (_orthonormal(shape, basis) for shape in shapes) if 0 < shape.shape[1] < count - 2
               - used]
        if not own:
            continue
        explained = np.array([((shape.T @ targets) ** 2).sum(axis=0) / squares for shape in own])
        score = np.array([_score(part, shape.shape[1], count - 1 - used - shape.shape[1])
                          for part, shape in zip(explained, own, strict=True)])
        best = score.argmax(axis=0)
        each = np.arange(targets.shape[1])
        scores.append(score[best, each])
        parts = explained[best, each]
        fits.append((factor.name, own[best[0]], float(parts[0]), float(parts[1:].mean())))
    if not fits:
        return [], math.inf
    all_scores = np.array(scores)
    highest = all_scores[:, 1:].max(axis=0)
    limit = float(np.sort(highest)[-max(1, int(LEVEL * (_SHUFFLES + 1)))])
    return [_Fit(share=_share(name, part, usual, scale, count - used, shape.shape[1], limit,
                              float((1 + (highest >= own[0] - 1e-9).sum()) / (_SHUFFLES + 1))),
                 shape=shape, score=float(own[0]))
            for (name, shape, part, usual), own in zip(fits, all_scores, strict=True)], limit


def _share(name: str, part: float, usual: float, scale: float, count: int, columns: int, limit: float,
           chance: float) -> Share:
    def beyond_chance(explained: float) -> float:
        return scale * (explained - usual) / max(1e-9, 1 - usual)

    share = beyond_chance(part)
    middle = math.atanh(math.sqrt(min(0.9999, max(0.0, share))))
    reach = 1.645 * 1.3 / math.sqrt(max(1, count - 2 - columns))
    ladder = np.linspace(0.001, 0.999, 999)
    needed = ladder[np.searchsorted(_score(ladder, columns, count - 1 - columns), limit).clip(max=998)]
    return Share(name=name, share=share, low=math.tanh(max(0.0, middle - reach)) ** 2,
                 high=math.tanh(middle + reach) ** 2, floor=max(0.0, beyond_chance(float(needed))), chance=chance,
                 resolved=False)


def _score(explained: np.ndarray, columns: int, freedom: int) -> np.ndarray:
    """Return how surprising a fit is, comparable between shapes: the normal deviate of its F ratio.

    Source: Wilson and Hilferty's cube root, Abramowitz and Stegun, 26.6.15. Only compared with shuffled values' own.
    """
    part = np.minimum(explained, 1 - 1e-12)
    root = np.cbrt(part / columns / ((1 - part) / freedom))
    a, b = 2 / (9 * columns), 2 / (9 * freedom)
    return np.asarray(((1 - b) * root - (1 - a)) / np.sqrt(b * root * root + a))


def _shapes(factor: Factor) -> list[np.ndarray]:
    """Return the shapes an effect may have: each some columns over the trials."""
    at = np.asarray(factor.positions, dtype=float)
    missing = at < 0
    if missing.any() and not missing.all() and factor.ordered:
        at = np.where(missing, at[~missing].mean(), at)
    distinct = np.unique(at)
    shapes = [[missing.astype(float)]] if missing.any() and factor.ordered else []
    if len(distinct) < 2:
        return [np.stack(shape, axis=1) for shape in shapes]
    if factor.ordered:
        shapes += _curves(at, distinct)
        middles = (distinct[1:] + distinct[:-1]) / 2
        shapes += [[(at < cut).astype(float)] for cut in _spread(middles, _CUTS)]
    else:
        groups = [(at == value).astype(float) for value in distinct]
        most = len(at) // 2 + 1 if len(at) >= _TRIALS_FOR_WAVES else len(at) // 3
        if len(groups) <= max(2, most):
            shapes.append(groups[1:])
        shapes += [[group] for group in groups if len(groups) > 2]
    # A shape that is one trial against all others says nothing of a hyperparameter.
    return [np.stack(shape, axis=1) for shape in shapes
            if len(shape) > 1 or (np.abs(shape[0] - np.median(shape[0])) > 0).sum() >= 2 or len(distinct) == 2]


def _curves(at: np.ndarray, distinct: np.ndarray) -> list[list[np.ndarray]]:
    x = (at - distinct[0]) / (distinct[-1] - distinct[0])
    shapes = [[x]]
    if len(distinct) > 2:
        shapes.append([x, x ** 2])
        turns = np.quantile(distinct, np.linspace(0, 1, 9)[1:-1]) if len(distinct) > 8 else distinct[1:-1]
        shapes += [[np.maximum(0, turn - at), np.maximum(0, at - turn)] for turn in np.unique(turns)]
    if len(at) >= _TRIALS_FOR_WAVES and len(distinct) >= 8:
        shapes.append([x, x ** 2, x ** 3, x ** 4])
    return shapes


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    return np.asarray(values[np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))])


def _orthonormal(shape: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return a shape's columns centred, apart from the basis, of length one and at right angles."""
    columns = shape - shape.mean(axis=0)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    columns = columns - basis @ (basis.T @ columns)
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(vectors[:, sizes > 1e-6])


def winsorised(values: np.ndarray, reach: float = 3) -> np.ndarray:
    """Pull extreme values in to so many interquartile ranges from the median."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    width = reach * (high - low) or np.inf
    return np.asarray(np.clip(values, middle - width, middle + width))
