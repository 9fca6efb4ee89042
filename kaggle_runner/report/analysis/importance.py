"""What mattered: one test for all hyperparameters at once, and how much of the metric's variance each one explains.

Each hyperparameter is compared with a bank of shapes: a line, valleys, steps, groups of values. How rare its best fit
is, is read off shuffled values that may choose among the same shapes, and the rarest of all hyperparameters is compared
with the rarest of each shuffle: many hyperparameters and many shapes cost power and never truth. A search crowds its
points, and two hyperparameters that moved together both fit what one of them did: one is said to matter only if it says
something beyond each rival. What was found is taken out, and the rest is tested on what it leaves; what is an effect of
one of several, and nobody can say of which, is taken out at the end, so that it is not called noise.
Source: Westfall and Young, "Resampling-Based Multiple Testing", 1993, chapter 2 (the smallest probability of a
shuffle); Genovese, Roeder and Wasserman, Biometrika 93, 2006 (its weights); Freedman and Lane, J. Bus. Econ. Stat. 1,
1983 (shuffled residuals). Rates of being wrong: benchmarks/truth.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

MIN_TRIALS = 6
"""Configurations below which nothing is said."""
LEVEL, LEVEL_AFTER = 0.06, 0.04
"""How often shuffled values may reach what is said to stand out; beside what was found already."""
LEVEL_OF_SEVERAL = 0.03
"""How often they may reach what is taken out of the noise without a name. Source: benchmarks/truth.py, of eight trials
with heavy tails the bound covers 93.5 %, and 93.0 % with `LEVEL`; noise beside an effect of several is as good."""
_SHUFFLES = 399
_TAIL = 40
"""Of the shuffles, those whose excess over the next one measures how fast the tail falls."""
_MOST_WEIGHT = {True: 6, False: 12}
"""A hyperparameter's part of the level grows with the number of its values, which make its effect harder to see, up to
here; where they are ordered, each tells something of the next."""
_SELDOM, _LIKE_A_RANGE = 0.6, 8
"""Handicap of a step and of a wave, in normal deviates, where so many values differ: lines and valleys are the rule."""
_RIVAL = {False: (0.05, 0.05), True: (0.014, 0.1)}
"""How rare the fit of a rival is, and how rare what one says beyond it has to be; for few trials and for many."""
_CUTS = 11
_EXACT = 1e-6
"""Part of the values' own deviation below which what an effect leaves is no noise."""
_TRIALS_FOR_WAVES = 20
"""Trials from which on a curve of fourth degree is among the shapes, and where a level for each of many names takes the
place of one name against all others."""


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
    one_of: tuple[str, ...] = ()
    """Those that moved together, of which one at least has an effect that is taken out too, though none stands out."""


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
    left, explained = targets, 0.0
    nobody_knows: tuple[str, ...] = ()
    while banks and count - 1 - basis.shape[1] > 3 and left @ left > 1e-12 * total:
        fits, limit = _round(banks, left, basis, float(left @ left) / total, generator)
        for fit in fits:
            found[fit.share.name] = fit.share
        clear = [fit for fit in sorted(fits, key=lambda fit: -fit.score) if fit.score > limit]
        if not clear:
            break
        best = next((fit for fit in clear if _stands_apart(fit, fits, left, basis, generator)), None)
        taken = best or clear[0]
        if best is None and taken.share.chance > LEVEL_OF_SEVERAL:
            break
        basis = np.column_stack([basis, taken.shape])
        left = left - taken.shape @ (taken.shape.T @ left)
        if best is None:  # an effect of one of several, and nobody can say of which: but no noise
            nobody_knows, explained = tuple(fit.share.name for fit in clear), max(0.0, taken.share.share)
            break
        found[best.share.name] = replace(best.share, resolved=True)
        banks = [bank for bank in banks if bank is not best.bank]
    freedom = count - 1 - basis.shape[1]
    explained += sum(max(0.0, share.share) for share in found.values() if share.resolved)
    raw = winsorised(given, reach=8)  # what is pulled in for the test is noise to the noise
    raw = raw - raw.mean()
    raw = raw - basis @ (basis.T @ raw)
    deviation = math.sqrt(max(float(raw @ raw) / max(1, freedom), total / (count - 1) * (1 - min(1.0, explained))))
    if deviation < _EXACT * math.sqrt(total / count):
        deviation = 0.0  # what is left of an exact fit is rounding: it says nothing of another seed
    shares = sorted(found.values(), key=lambda share: (not share.resolved, -share.share))
    return Effects(shares=tuple(shares), residuals=tuple(float(value) for value in raw), deviation=deviation,
                   freedom=freedom, one_of=nobody_knows)


@dataclass(frozen=True)
class _Shape:
    """A shape an effect may have: some columns over the trials."""

    columns: np.ndarray
    handicap: float = 0.0
    """What its score must have more than others', because it is seldom the truth."""


_Bank = tuple[Factor, list[_Shape]]


@dataclass(frozen=True)
class _Fit:
    """The shape of one factor that fits best."""

    bank: _Bank
    share: Share
    shape: np.ndarray
    score: float
    """How rare it is, with the factor's weight."""
    alone: float
    """How often shuffled values fit this factor as well."""


def _stands_apart(fit: _Fit, fits: Sequence[_Fit], left: np.ndarray, basis: np.ndarray,
                  generator: np.random.Generator) -> bool:
    """Say whether a factor says something beyond each of those that fit well, too."""
    rare, beyond = _RIVAL[len(left) >= _TRIALS_FOR_WAVES]
    for rival in fits:
        if rival is fit or rival.alone > rare:
            continue
        without, _ = np.linalg.qr(np.column_stack([basis, rival.shape]))
        rest = left - without @ (without.T @ left)
        if len(left) - 1 - without.shape[1] < 3 or rest @ rest < 1e-12 * (left @ left):
            return False
        again, _ = _round([fit.bank], rest, without, 1.0, generator)
        if not again or again[0].alone > beyond:
            return False
    return True


def _round(banks: Sequence[_Bank], left: np.ndarray, basis: np.ndarray, scale: float,
           generator: np.random.Generator) -> tuple[list[_Fit], float]:
    """Fit every factor to what is left, and return the score that shuffled values stay under."""
    count, used = basis.shape
    shuffled = generator.permuted(np.repeat(left[:, None], _SHUFFLES, axis=1), axis=0)
    shuffled -= basis @ (basis.T @ shuffled)
    targets = np.column_stack([left, shuffled - shuffled.mean(axis=0)])
    squares = np.maximum((targets ** 2).sum(axis=0), 1e-300)
    fits, surprises = [], []
    for bank in banks:
        factor, shapes = bank
        given = [(_orthonormal(shape.columns, basis), shape.handicap) for shape in shapes]
        own = [(shape, handicap) for shape, handicap in given if 0 < shape.shape[1] < count - 2 - used]
        if not own:
            continue
        explained = np.array([((shape.T @ targets) ** 2).sum(axis=0) / squares for shape, _ in own])
        score = np.array([_score(part, shape.shape[1], count - 1 - used - shape.shape[1]) - handicap
                          for part, (shape, handicap) in zip(explained, own, strict=True)])
        best = score.argmax(axis=0)
        each = np.arange(targets.shape[1])
        parts, score = explained[best, each], score[best, each]
        tail = np.sort(score[1:])[-_TAIL - 1:]
        width = max(float(tail[1:].mean() - tail[0]), 1e-9)
        start = float(tail[0]) - width * math.log(min(_MOST_WEIGHT[factor.ordered], len(set(factor.positions))))
        surprises.append((score - start) / width)
        fits.append((bank, *own[best[0]], float(parts[0]), float(parts[1:].mean()), start, width))
    if not fits:
        return [], math.inf
    highest = np.array(surprises)[:, 1:].max(axis=0)
    limit = float(np.sort(highest)[-max(1, int((LEVEL_AFTER if used else LEVEL) * (_SHUFFLES + 1)))])
    return [_Fit(bank=bank, shape=shape, score=float(own[0]), alone=_part_reaching(own[1:], own[0]),
                 share=_share(bank[0].name, part, usual, scale, count - used, shape.shape[1],
                              start + width * limit + handicap, _part_reaching(highest, own[0])))
            for (bank, shape, handicap, part, usual, start, width), own in zip(fits, surprises, strict=True)], limit


def _part_reaching(shuffled: np.ndarray, own: float) -> float:
    return float((1 + (shuffled >= own - 1e-9).sum()) / (len(shuffled) + 1))


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


def _shapes(factor: Factor) -> list[_Shape]:
    """Return the shapes an effect of the factor may have."""
    at = np.asarray(factor.positions, dtype=float)
    missing = at < 0
    if missing.any() and not missing.all() and factor.ordered:
        at = np.where(missing, at[~missing].mean(), at)
    distinct = np.unique(at)
    shapes = [_shape(missing)] if missing.any() and factor.ordered else []
    if len(distinct) < 2:
        return shapes
    if factor.ordered:
        shapes += _curves(at, distinct)
        middles = (distinct[1:] + distinct[:-1]) / 2
        shapes += [_shape(at < cut, handicap=_SELDOM if len(distinct) >= _LIKE_A_RANGE else 0.0)
                   for cut in _spread(middles, _CUTS)]
    else:
        groups = [at == value for value in distinct]
        most = len(at) // 2 + 1 if len(at) >= _TRIALS_FOR_WAVES else len(at) // 3
        if len(groups) <= max(2, most):
            shapes.append(_shape(*groups[1:]))
        if len(groups) > 2 and (len(at) < _TRIALS_FOR_WAVES or len(groups) > most):
            shapes += [_shape(group) for group in groups]
    # A shape that is one trial against all others says nothing of a hyperparameter.
    return [shape for shape in shapes if shape.columns.shape[1] > 1 or len(distinct) == 2
            or (np.abs(shape.columns - np.median(shape.columns)) > 0).sum() >= 2]


def _curves(at: np.ndarray, distinct: np.ndarray) -> list[_Shape]:
    x = (at - distinct[0]) / (distinct[-1] - distinct[0])
    shapes = [_shape(x)]
    if len(distinct) > 2:
        shapes.append(_shape(x, x ** 2))
        turns = np.quantile(distinct, np.linspace(0, 1, 9)[1:-1]) if len(distinct) > 8 else distinct[1:-1]
        shapes += [_shape(np.maximum(0, turn - at), np.maximum(0, at - turn)) for turn in np.unique(turns)]
    if len(at) >= _TRIALS_FOR_WAVES and len(distinct) >= _LIKE_A_RANGE:
        shapes.append(_shape(x, x ** 2, x ** 3, x ** 4, handicap=_SELDOM))
    return shapes


def _shape(*columns: np.ndarray, handicap: float = 0.0) -> _Shape:
    return _Shape(columns=np.stack([column.astype(float) for column in columns], axis=1), handicap=handicap)


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
