"""A Gaussian process over the trials whose hyperparameters are averaged, not maximised; numpy alone.

With five trials many lengths and noises explain the values about as well, and the likeliest ones are too sure of
themselves. So the hyperparameters are drawn, in two rounds of importance sampling from a log-normal prior, and what the
process says is the mean over the draws, by their weights. Small values are spread and large ones squeezed before the
fit, because the difference between good and best is what counts, and a diverged trial must not flatten it.

Legend: N trials, C columns of a point, A axes, K draws, P points to judge.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equations 2.30, 2.42 and 4.17;
Snoek et al., arXiv:1206.2944, section 3.2 (the improvement averaged over hyperparameters).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kaggle_runner.run.points.covariance import KINSHIP_PRIOR, Geometry, Kernel, squares_of, variance_of

LENGTH_PRIOR = (0.0, 1.0)
"""Mean and deviation of the log of a length on an axis from 0 to 1, in two dimensions; more axes, longer lengths."""
NOISE_PRIOR = (math.log(0.02), 1.2)
"""Of the log of the noise's variance over the surface's."""
AMPLITUDE_WEIGHT = 2.0
"""Trials that the prior of the amplitude, 1 in units of the values' variance, counts for."""
WELL_DEPTH = 0.5
"""Of the prior on a learning rate: so many deviations worse at both ends of its range than in the middle."""
HOME_DEPTH = 0.25
"""Deviations that a whole range away from the default is expected to be worse. Source: against 0, over
48 made problems and the 11 of benchmarks/search.py, regret at 5 trials -.015 +- .008 and -.081 +- .010, at 10 -.005
+- .008 and -.053 +- .010; twice as deep is no better, and keeps a search from where nothing was learned."""
WORD_DEPTH = 0.1
"""The same for another word, or another of yes and no. Source: regret at 10 trials of 24 made problems whose defaults
know nothing .221 with .25, .176 so, .129 with 0; of that in benchmarks/search.py with a good one .078, .125, .227."""
DRAWS = 64
"""Hyperparameters drawn in each of the two rounds, fewer for many trials."""
KEPT, LEAST_KEPT = 12, 4
"""Draws, the weightiest, that points are judged with; fewer for many trials, which leave less to doubt."""
LEARNED_FROM = 60
"""Trials that lengths and noise are learned from, the better half and as many of the others: a draw costs their cube.
The few draws that are kept then know every trial."""
TRIALS_FOR_WARP = 4
LARGEST_STEP = 0.7
"""Between neighbouring values after the spreading: how deep a cliff is says nothing of the ground above it. Source:
against none, 18 families of made problems, 30 of each on seeds of their own, regret at 5, 10 and 15 trials lower by
.014 +- .003, .006 +- .003 and .002 +- .002, beside a deep cliff by .13 +- .02, .08 +- .02 and .03 +- .01. A cap on the
values themselves helps at cliffs alike, and costs .04 +- .01 in plain valleys of four hyperparameters."""
LENGTH_LIMITS = (-3.0, 4.0)
NOISE_LIMITS = (-9.0, 1.0)
INVERTED_AT_ONCE = 32
"""Rows of a factor up to which halving it saves nothing."""
_JITTER = 1e-6


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """A process fitted to trials; smaller values are better."""

    geometry: Geometry
    points_NC: np.ndarray
    values_N: np.ndarray
    """Spread and standardised, without the wells."""
    unit: float
    """What 1 of these values is in those that were given, near the smallest one."""
    trials: int
    """How many of the points are finished trials; the others are running, with values that are believed."""
    kernel: Kernel
    noises_K: np.ndarray
    """Variance of the noise over that of the surface."""
    weights_K: np.ndarray
    means_KS: np.ndarray
    """Of each surface."""
    amplitudes_K: np.ndarray
    """Variance of the surface in standardised units."""
    surfaces_N: np.ndarray
    """For each point the surface it was measured on, 0 for the one that is searched."""
    within_N: np.ndarray
    """For each finished trial whether it could be tried again: it lies in the space."""
    inverses_KNN: np.ndarray
    """Inverse of the lower factor of the covariance."""

    @classmethod
    def fit(cls, points_NC: np.ndarray, values: Sequence[float], geometry: Geometry, *,
            generator: np.random.Generator, surfaces: Sequence[int] | None = None,
            within: Sequence[bool] | None = None) -> "GaussianProcess":
        """Fit to at least two trials at points from 0 to 1; the same generator gives the same process.

        Surfaces of other studies have numbers without gaps from 1; what they have in common is drawn with the lengths.
        Points that are not `within` the space, all of them by default, are learned from, and are no best to improve on.
        """
        surfaces_N = np.zeros(len(points_NC), int) if surfaces is None else np.asarray(surfaces, int)
        values_N, unit = _standardised(np.asarray(values, float), surfaces_N)
        values_N = values_N - _well(points_NC, geometry)
        learned = _learned_from(values_N)
        draws = min(DRAWS, DRAWS * 40 // len(learned))
        axes = geometry.axes
        kin = [KINSHIP_PRIOR] + [(0.0, 1.0)] * len(geometry.wells) if surfaces_N.any() else []
        center = np.array([LENGTH_PRIOR[0] + 0.5 * math.log(max(axes, 1) / 2)] * axes + [NOISE_PRIOR[0]]
                          + [mean for mean, _ in kin])
        reach = np.array([LENGTH_PRIOR[1]] * axes + [NOISE_PRIOR[1]] + [width for _, width in kin])
        first = center + reach * generator.standard_normal((draws, len(center)))
        first[0] = center
        seen = points_NC[learned], values_N[learned], surfaces_N[learned]
        likelihoods = _solve(first, *seen, geometry).likelihoods_K
        chances = _normalised(likelihoods)
        middle = chances @ first
        apart = (chances[:, None] * (first - middle)).T @ (first - middle) + np.diag((0.35 * reach) ** 2)
        factor = np.linalg.cholesky(apart)
        second = middle + generator.standard_normal((draws, len(center))) @ factor.T
        second[:, :axes] = np.clip(second[:, :axes], *LENGTH_LIMITS)
        second[:, axes] = np.clip(second[:, axes], *NOISE_LIMITS)
        both = np.concatenate([first, second])
        likelihoods = np.concatenate([likelihoods, _solve(second, *seen, geometry).likelihoods_K])
        prior = -0.5 * (((both - center) / reach) ** 2).sum(1) - np.log(reach).sum()
        around = np.linalg.solve(factor, (both - middle).T)
        proposed = -0.5 * (around * around).sum(0) - np.log(np.diag(factor)).sum()
        chances = _normalised(likelihoods + prior - np.logaddexp(prior, proposed))
        kept = np.argsort(-chances, kind="stable")[:max(LEAST_KEPT, KEPT * len(learned) // len(points_NC))]
        solved = _solve(both[kept], points_NC, values_N, surfaces_N, geometry)
        return cls(geometry=geometry, points_NC=points_NC, values_N=values_N, trials=len(points_NC), unit=unit,
                   surfaces_N=surfaces_N, within_N=np.ones(len(points_NC), bool) if within is None else
                   np.asarray(within, bool), kernel=_kernel(both[kept], geometry),
                   noises_K=np.exp(both[kept, axes]),
                   weights_K=chances[kept] / chances[kept].sum(), means_KS=solved.means_KS,
                   amplitudes_K=solved.amplitudes_K, inverses_KNN=_inverse(solved.lowers_KNN))

    def believing(self, running_MC: np.ndarray) -> "tuple[np.ndarray, GaussianProcess]":
        """Return what each draw expects of running trials, and the process as if they had come out so."""
        expected_KM = self.expected(running_MC)
        points = np.concatenate([self.points_NC, running_MC])
        surfaces = np.concatenate([self.surfaces_N, np.zeros(len(running_MC), int)])
        covariance = self.kernel.of(points, points, surfaces, surfaces)
        covariance += (self.noises_K[:, None, None] + _JITTER) * np.eye(len(points))
        return expected_KM, GaussianProcess(
            geometry=self.geometry, points_NC=points, values_N=self.values_N, trials=self.trials, unit=self.unit,
            surfaces_N=surfaces, within_N=self.within_N, kernel=self.kernel,
            noises_K=self.noises_K, weights_K=self.weights_K, means_KS=self.means_KS,
            amplitudes_K=self.amplitudes_K, inverses_KNN=_inverse(np.linalg.cholesky(covariance)))

    def expected(self, points_PC: np.ndarray) -> np.ndarray:
        """Return the mean of the surface at each point, for each draw, in standardised units."""
        return self._mean(points_PC, self._cross(points_PC), None)

    def predict(self, points_PC: np.ndarray, believed_KM: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the surface at each point, for each draw, in standardised units."""
        cross_KPN = self._cross(points_PC)
        solved_KPN = cross_KPN @ self.inverses_KNN.transpose(0, 2, 1)
        solved_KPN *= solved_KPN
        variance_KP = variance_of(points_PC, self.geometry) - solved_KPN.sum(2)
        return (self._mean(points_PC, cross_KPN, believed_KM),
                np.sqrt(self.amplitudes_K[:, None] * np.maximum(variance_KP, 1e-9)))

    def _cross(self, points_PC: np.ndarray) -> np.ndarray:
        return self.kernel.of(points_PC, self.points_NC, np.zeros(len(points_PC), int), self.surfaces_N)

    def _mean(self, points_PC: np.ndarray, cross_KPN: np.ndarray, believed_KM: np.ndarray | None) -> np.ndarray:
        known_KN = np.repeat(self.values_N[None], len(self.weights_K), 0)
        if believed_KM is not None:
            wells = _well(self.points_NC[self.trials:], self.geometry)
            known_KN = np.concatenate([known_KN, believed_KM - wells], axis=1)
        rest_KN1 = self.inverses_KNN @ (known_KN - self.means_KS[:, self.surfaces_N])[..., None]
        pulls_KN1 = self.inverses_KNN.transpose(0, 2, 1) @ rest_KN1
        return np.asarray(_well(points_PC, self.geometry) + self.means_KS[:, :1] + (cross_KPN @ pulls_KN1)[..., 0])

    @functools.cached_property
    def expected_KN(self) -> np.ndarray:
        """What is expected at the finished trials."""
        return self.expected(self.points_NC[:self.trials])

    def mean(self, points_PC: np.ndarray | None = None) -> np.ndarray:
        """Return the expected value at each point, or trial, in standardised units; only its order means something."""
        return np.asarray(self.weights_K @ (self.expected_KN if points_PC is None else self.expected(points_PC)))

    def log_improvement(self, mean_KP: np.ndarray, deviation_KP: np.ndarray, best_K: np.ndarray) -> np.ndarray:
        """Return the log of the expected improvement on the best at predicted points, averaged over the draws."""
        logs_KP = np.log(deviation_KP) + _log_gain((best_K[:, None] - mean_KP) / deviation_KP)
        top_P = logs_KP.max(0)
        return np.asarray(top_P + np.log(self.weights_K @ np.exp(logs_KP - top_P)))

    def best(self) -> np.ndarray:
        """Return for each draw the surface's least mean at a finished trial, of other studies if it has none."""
        own = (self.surfaces_N[:self.trials] == 0) & self.within_N
        return np.asarray(self.expected_KN[:, own if own.any() else ~own].min(1))

    @property
    def noise(self) -> float:
        """Deviation of one trial around the surface, in standardised units."""
        return float(self.weights_K @ np.sqrt(self.amplitudes_K * self.noises_K))


def spread(values: np.ndarray, largest_step: float = LARGEST_STEP) -> np.ndarray:
    """Spread the good end of values that are to be small, and squeeze the bad one and cliffs; their order stays."""
    if len(values) < TRIALS_FOR_WARP:
        return values
    logs = np.log1p((values - values.min()) / scale_of(values))
    ranked, found = np.argsort(logs, kind="stable"), np.empty_like(logs)
    found[ranked] = np.cumsum(np.minimum(np.diff(logs[ranked], prepend=0.0), largest_step))
    return np.asarray(found)


def scale_of(values: Sequence[float] | np.ndarray) -> float:
    """Return what spreading makes 1 of, near the smallest value."""
    if len(values) < TRIALS_FOR_WARP:
        return 1.0
    return max(float(np.median(values) - np.min(values)), 1e-9)


@dataclass(frozen=True)
class _Solved:
    """Likelihood and what comes with it, for each draw of the hyperparameters."""

    likelihoods_K: np.ndarray
    lowers_KNN: np.ndarray
    """Factor of the covariance."""
    means_KS: np.ndarray
    amplitudes_K: np.ndarray


def _learned_from(values_N: np.ndarray) -> np.ndarray:
    """Return the trials that hyperparameters are learned from, in their order: all while they are not too many."""
    if len(values_N) <= LEARNED_FROM:
        return np.arange(len(values_N))
    ranked, half = np.argsort(values_N, kind="stable"), LEARNED_FROM // 2
    rest = ranked[np.linspace(half, len(ranked) - 1, LEARNED_FROM - half).astype(int)]
    return np.sort(np.concatenate([ranked[:half], rest]))


def _solve(logs: np.ndarray, points_NC: np.ndarray, values_N: np.ndarray, surfaces_N: np.ndarray,
           geometry: Geometry) -> _Solved:
    """Factor the covariance of each draw; means and amplitude have closed forms, so they are not drawn."""
    count, axes = len(values_N), geometry.axes
    levels = (surfaces_N[:, None] == np.arange(surfaces_N.max() + 1)).astype(float)
    below = np.concatenate([levels, values_N[:, None]], axis=1)
    covariance = _kernel(logs, geometry).of(points_NC, points_NC, surfaces_N, surfaces_N)
    covariance += (np.exp(logs[:, axes])[:, None, None] + _JITTER) * np.eye(count)
    # rows below the covariance come out of its factoring solved; what stands beside them is only to be large enough
    whole = np.zeros((len(logs), count + below.shape[1], count + below.shape[1]))
    whole[:, :count, :count], whole[:, count:, :count] = covariance, below.T
    whole[:, range(count, whole.shape[1]), range(count, whole.shape[1])] = 1e3 * (below * below).sum() / _JITTER
    factor = np.linalg.cholesky(whole)
    lower, levels, whitened = factor[:, :count, :count], factor[:, count:-1, :count], factor[:, -1, :count]
    squares = levels @ levels.transpose(0, 2, 1) + 1e-9 * np.eye(levels.shape[1])  # a surface may have no trial yet
    means = np.linalg.solve(squares, levels @ whitened[..., None])
    rest = whitened - (means.transpose(0, 2, 1) @ levels)[:, 0]
    amplitudes = (AMPLITUDE_WEIGHT + (rest * rest).sum(1)) / (AMPLITUDE_WEIGHT + count)
    likelihoods = (-0.5 * (count + AMPLITUDE_WEIGHT) * np.log(amplitudes)
                   - np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1))
    return _Solved(likelihoods, lower, means[..., 0], amplitudes)


def _kernel(logs: np.ndarray, geometry: Geometry) -> Kernel:
    """Return the covariance of draws; what was drawn of the noise has no part in it."""
    return Kernel.drawn(geometry, np.delete(logs, geometry.axes, axis=1))


def _inverse(lower: np.ndarray) -> np.ndarray:
    """Return the inverse of lower factors by halves, an eighth of the work of one that knows nothing of the zeros."""
    count = lower.shape[1]
    if count <= INVERTED_AT_ONCE:
        return np.asarray(np.linalg.inv(lower))
    half, found = count // 2, np.zeros(lower.shape)
    found[:, :half, :half], found[:, half:, half:] = _inverse(lower[:, :half, :half]), _inverse(lower[:, half:, half:])
    found[:, half:, :half] = -found[:, half:, half:] @ lower[:, half:, :half] @ found[:, :half, :half]
    return found


def _standardised(values: np.ndarray, surfaces_N: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values in deviations of their own surface, and what one is worth on the first one, near its best.

    Beside other studies the first one's are no smaller than theirs: a few trials do not tell how far values lie apart,
    and of those that lie close together only chance, by which no place further away would promise anything.
    """
    standard, scale, deviation, others = np.zeros(len(values)), 0.0, 0.0, bool(surfaces_N.any())
    for surface in range(int(surfaces_N.max()), -1, -1):
        own = surfaces_N == surface
        if not own.any():
            continue
        given = values[own]
        if surface == 0 and others:
            scale = max(scale, scale_of(given) if len(given) >= TRIALS_FOR_WARP else 0.0)
            spread_out = np.log1p((given - given.min()) / scale)
            deviation = max(deviation, float(spread_out.std()))
        else:
            # with other studies beside it cliffs stay deep: made flat, one that misleads is believed for longer
            spread_out, scale = spread(given, math.inf if others else LARGEST_STEP), scale_of(given)
            deviation = float(spread_out.std()) + 1e-12
        standard[own] = (spread_out - spread_out.mean()) / deviation
    return standard, deviation * scale


def _well(points_PC: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return what is expected before any trial: wells in learning rates, a bowl around the default.

    Both end where the space does: nothing is known of how they go on for trials of other studies out there.
    """
    depth, inside = np.zeros(len(points_PC)), np.clip(points_PC, 0, 1)
    inside[:, list(geometry.codes)] = points_PC[:, list(geometry.codes)]
    for column in geometry.wells:
        depth += WELL_DEPTH * (2 * inside[:, column] - 1) ** 2
    if geometry.home is not None:
        squares_CP = squares_of(inside, np.array([geometry.home]), geometry.codes)[:, :, 0]
        of_numbers_P = squares_CP[list(geometry.numbers)].sum(0)
        depth += HOME_DEPTH * of_numbers_P + WORD_DEPTH * (squares_CP.sum(0) - of_numbers_P)
    return depth


def _normalised(logs: np.ndarray) -> np.ndarray:
    chances = np.exp(logs - logs.max())
    return np.asarray(chances / chances.sum())


def _log_gain(z: np.ndarray) -> np.ndarray:
    """Return the log of `density(z) + z * distribution(z)` of the standard normal, also far below zero.

    Source: Abramowitz and Stegun, 26.2.17 and 26.2.12.
    """
    share = 1 / (1 + 0.2316419 * np.abs(z))
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    tail = density * share * (0.319381530 + share * (-0.356563782 + share * (
        1.781477937 + share * (-1.821255978 + share * 1.330274429))))
    near = density + z * np.where(z >= 0, 1 - tail, tail)
    far = -0.5 * z * z - 0.5 * math.log(2 * math.pi) - np.log(np.maximum(z * z, 1.0)) + np.log1p(
        -3 / np.maximum(z * z, 9.0))
    return np.asarray(np.where(z > -4, np.log(np.maximum(near, 1e-300)), far))
