"""A Gaussian process over the trials: what the metric looks like between them.

Small and only for looking: Matérn 5/2 with one length for each axis, at the likeliest hyperparameters. How noisy a
trial is it does not say: the likeliest process takes noise for shape.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equations 2.30 and 4.17.
"""

import math
from dataclasses import dataclass

import numpy as np

MOST_TRIALS = 96
"""Trials that are fitted at most: a fit costs the cube of them, and from 100 on OpenBLAS spends ten times the CPU time
on threads that wait for each other (measured: numpy 2.4, `solve` of 120 against 96 rows, two cores)."""
_PRIOR_LENGTH = (0.3, 1.0)
"""Mean and deviation of the log of a length, on axes from 0 to 1: about 1.3, from 0.2 to 10."""
_PRIOR_NOISE = (-3.0, 2.0)
"""Mean and deviation of the log of the ratio of the noise's variance to the surface's: of the deviations 0.2, from
0.03 to 1.6."""
_DRAWS, _ROUNDS = 240, 3


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process that is fitted to the trials of a study."""

    points: np.ndarray
    """Trials x axes, each from 0 to 1."""
    weights: np.ndarray
    lengths: np.ndarray
    mean: float
    scale: float

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Return the expected metric at each point."""
        return np.asarray(self.mean + self.scale * _kernel(points, self.points, self.lengths) @ self.weights)


def fit(points: np.ndarray, values: np.ndarray, *, seed: int = 0) -> Surrogate:
    """Fit a process to trials at points from 0 to 1; the values must not all be equal.

    The same seed gives the same fit.
    """
    generator = np.random.default_rng(seed)
    mean, scale = float(values.mean()), float(values.std())
    targets = (values - mean) / scale
    center = np.array([_PRIOR_LENGTH[0]] * points.shape[1] + [_PRIOR_NOISE[0]])
    reach = np.array([_PRIOR_LENGTH[1]] * points.shape[1] + [_PRIOR_NOISE[1]])
    draws = center + reach * generator.standard_normal((_DRAWS, len(center)))
    likelihoods = np.array([_likelihood(draw, points, targets) for draw in draws])
    best = _sharpened(draws[likelihoods.argmax()], float(likelihoods.max()), reach, points, targets, generator)
    lengths, ratio = np.exp(best[:-1]), float(np.exp(best[-1]))
    covariance = _kernel(points, points, lengths) + (ratio + 1e-9) * np.eye(len(points))
    return Surrogate(points=points, weights=np.linalg.solve(covariance, targets), lengths=lengths, mean=mean,
                     scale=scale)


def _sharpened(best: np.ndarray, best_likelihood: float, reach: np.ndarray, points: np.ndarray, targets: np.ndarray,
               generator: np.random.Generator) -> np.ndarray:
    """Draw around the likeliest hyperparameters, closer each round, and return the likeliest then."""
    for round_number in range(1, _ROUNDS + 1):
        for candidate in best + reach * 0.4 ** round_number * generator.standard_normal((_DRAWS // 10, len(reach))):
            likelihood = _likelihood(candidate, points, targets)
            if likelihood > best_likelihood:
                best, best_likelihood = candidate, likelihood
    return best


def _likelihood(logs: np.ndarray, points: np.ndarray, targets: np.ndarray) -> float:
    """Return the log likelihood of the hyperparameters, up to a constant."""
    count = len(targets)
    # With the targets as a last row the factor's last row is the solution, and the factor need not be inverted.
    bordered = np.empty((count + 1, count + 1))
    bordered[:count, :count] = _kernel(points, points, np.exp(logs[:-1])) + (np.exp(logs[-1]) + 1e-9) * np.eye(count)
    bordered[count, :count] = bordered[:count, count] = targets
    bordered[count, count] = 1e12
    try:
        lower = np.linalg.cholesky(bordered)
    except np.linalg.LinAlgError:
        return -math.inf
    solved = lower[count, :count]
    # The most likely amplitude has a closed form, so it is not searched.
    amplitude = solved @ solved / count
    return float(-0.5 * count * np.log(amplitude) - np.log(np.diag(lower)[:count]).sum())


def _kernel(left: np.ndarray, right: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    a, b = left / lengths, right / lengths
    squares = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T, 0.0)
    distance = np.sqrt(5 * squares)
    return np.asarray((1 + distance + distance * distance / 3) * np.exp(-distance))
