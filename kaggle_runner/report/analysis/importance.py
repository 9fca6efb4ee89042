"""How much of a metric's variance each hyperparameter explains, and whether that is more than chance.

A forest of shallow trees is grown and credited out of the bag, so a hyperparameter without effect has an importance
around zero, not its share of the splits: in pure noise the usual in-bag importance adds up to 1.

Source: MDI-oob, Li et al., "A Debiased MDI Feature Importance Measure for Random Forests", arXiv:1906.10845.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_TRIALS = 6
"""Complete trials below which nothing is said: a tree would be judged on one or two trials."""
_MAX_BINS = 24
_MAX_ROWS = 300
"""Rows that one tree sees, in and out of the bag, so that the cost does not grow with the study."""
_DEPTH = 5
_REPEATS = 40
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One hyperparameter as the forest sees it."""

    name: str
    positions: tuple[float, ...]
    """One for each trial; equal positions are one value. Negative: the trial does not have it."""
    ordered: bool
    """Whether the order of the positions means something; unordered values are split one against the rest."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of the variance that one hyperparameter explains."""

    name: str
    share: float
    """Of the variance of the metric, interactions counted once for each partner; may be slightly below 0."""
    low: float
    high: float
    """Ends of the 90 % interval from the bootstrap over trials."""
    floor: float
    """What shuffled metrics reach in 95 % of the shuffles: chance alone explains that much."""

    @property
    def resolvable(self) -> bool:
        """Whether the interval lies above what chance alone explains."""
        return self.low > self.floor


def importances(factors: Sequence[Factor], values: Sequence[float], *, seed: int = 0) -> tuple[Share, ...]:
    """Return the share of each factor, largest first; empty under `MIN_TRIALS` values or if all are equal.

    Extreme bad values are pulled in to three interquartile ranges, so that one diverged trial is not all the variance.
    """
    targets = winsorised(np.asarray(values, dtype=float))
    if len(targets) < MIN_TRIALS or not factors or np.ptp(targets) == 0:
        return ()
    columns, owners = _columns(factors)
    generator = np.random.default_rng(seed)
    trees = max(12, min(48, 1600 // len(targets)))
    forest = _Forest(columns, owners, len(factors), generator, trees)
    even = np.ones((1, len(targets)))
    share = np.mean([forest.shares(targets[None, :], even)[0] for _ in range(6)], axis=0)
    repeated = forest.shares(np.repeat(targets[None, :], _REPEATS, axis=0),
                             generator.exponential(size=(_REPEATS, len(targets))))
    shuffled = forest.shares(generator.permuted(np.repeat(targets[None, :], _REPEATS, axis=0), axis=1),
                             np.repeat(even, _REPEATS, axis=0))
    low, high = np.quantile(repeated, (0.05, 0.95), axis=0)
    floor = np.quantile(shuffled, 0.95, axis=0)
    shares = [Share(name=factor.name, share=float(share[i]), low=float(min(low[i], share[i])),
                    high=float(max(high[i], share[i])), floor=float(max(0.0, floor[i])))
              for i, factor in enumerate(factors)]
    return tuple(sorted(shares, key=lambda s: -s.share))


class _Forest:
    """Trees grown level by level, all at once: one histogram for all nodes of all trees."""

    def __init__(self, columns: np.ndarray, owners: np.ndarray, factors: int, generator: np.random.Generator,
                 trees: int) -> None:
        self.columns, self.owners, self.factors = columns, owners, factors
        self.generator, self.trees = generator, trees
        self.bins = int(columns.max()) + 1

    def shares(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the shares, one row of factors for each row of targets and of trial weights."""
        return np.stack([self._shares(target, weight) for target, weight in zip(targets, weights, strict=True)])

    def _shares(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mean = np.average(target, weights=weight)
        variance = np.average((target - mean) ** 2, weights=weight)
        if variance == 0:
            return np.zeros(self.factors)
        rows = min(len(target), _MAX_ROWS)
        order = self.generator.random((self.trees, len(target))).argsort(axis=1)[:, :rows]
        in_bag = np.zeros((self.trees, rows), dtype=bool)
        in_bag[:, :max(2, round(0.632 * rows))] = True
        credit = self._grow(order, in_bag, (target - mean)[order], weight[order])
        out = np.where(in_bag, 0.0, weight[order]).sum()
        return np.asarray(np.bincount(self.owners, weights=credit, minlength=self.factors) / out / variance)

    def _grow(self, rows: np.ndarray, in_bag: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Grow the trees and return, for each column, the out-of-bag covariance of its splits with the target."""
        bag_weight = np.where(in_bag, weight, 0.0)
        out_credit = (np.where(in_bag, 0.0, weight) * target).ravel()
        least = bag_weight.sum(axis=1) / max(4.0, rows.shape[1] / 8) / 2
        tree = np.arange(len(rows))[:, None]
        node = np.zeros(rows.shape, dtype=np.int64)
        credit = np.zeros(self.columns.shape[1])
        bins = self.columns[rows]
        for level in range(_DEPTH):
            nodes = 2 ** level
            cell = (tree * nodes + node).ravel()
            split = self._split(cell, bins, bag_weight.ravel(), (bag_weight * target).ravel(), np.repeat(least, nodes))
            column = split.column[cell].reshape(node.shape)
            own_bin = np.take_along_axis(bins, np.maximum(column, 0)[:, :, None], axis=2)[:, :, 0]
            left = own_bin <= split.cut[cell].reshape(node.shape)
            moved = np.where(left.ravel(), split.left[cell], split.right[cell])
            grown = (column >= 0).ravel()
            credit += np.bincount(column.ravel()[grown], (moved * out_credit)[grown], minlength=len(credit))
            node = node * 2 + np.where(left, 0, 1)
        return credit

    def _split(self, cell: np.ndarray, bins: np.ndarray, weight: np.ndarray, weighted: np.ndarray,
               least: np.ndarray) -> "_Split":
        """Find the best split of every node; `cell` is the node of each row of each tree, nodes counted through."""
        shape = (len(least), self.bins)
        total_w = np.bincount(cell, weight, minlength=shape[0])
        total_s = np.bincount(cell, weighted, minlength=shape[0])
        mean = total_s / np.maximum(total_w, _TINY)
        best = np.full(shape[0], 1e-12)
        split = _Split(column=np.full(shape[0], -1), cut=np.zeros(shape[0], dtype=np.int64),
                       left=np.zeros(shape[0]), right=np.zeros(shape[0]))
        for column in range(bins.shape[2]):
            index = cell * self.bins + bins[:, :, column].ravel()
            left_w = np.bincount(index, weight, minlength=shape[0] * shape[1]).reshape(shape).cumsum(axis=1)
            left_s = np.bincount(index, weighted, minlength=shape[0] * shape[1]).reshape(shape).cumsum(axis=1)
            right_w, right_s = total_w[:, None] - left_w, total_s[:, None] - left_s
            fits = (left_w >= least[:, None]) & (right_w >= least[:, None])
            gain = np.where(fits, left_s ** 2 / np.maximum(left_w, _TINY) + right_s ** 2 / np.maximum(right_w, _TINY),
                            -np.inf)
            cut = gain.argmax(axis=1)
            at = np.arange(shape[0]), cut
            # Ties are broken by chance: otherwise the first column would win them all in a small study.
            value = (gain[at] - total_s * mean) * (1 + 1e-6 * self.generator.random(shape[0]))
            better = value > best
            best = np.where(better, value, best)
            split = _Split(
                column=np.where(better, column, split.column), cut=np.where(better, cut, split.cut),
                left=np.where(better, left_s[at] / np.maximum(left_w[at], _TINY) - mean, split.left),
                right=np.where(better, right_s[at] / np.maximum(right_w[at], _TINY) - mean, split.right))
        return split


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The best split of each node: rows in bins up to `cut` of `column` go left; column -1 is no split."""

    column: np.ndarray
    cut: np.ndarray
    left: np.ndarray
    """Mean of the left child over the node's own."""
    right: np.ndarray


def _columns(factors: Sequence[Factor]) -> tuple[np.ndarray, np.ndarray]:
    """Turn positions into bins: ranks for ordered factors, one column for each value of an unordered one."""
    columns: list[np.ndarray] = []
    owners: list[int] = []
    for owner, factor in enumerate(factors):
        distinct, bins = np.unique(np.asarray(factor.positions, dtype=float), return_inverse=True)
        if factor.ordered or len(distinct) <= 2:
            if len(distinct) > _MAX_BINS:
                ranks = np.argsort(np.argsort(np.asarray(factor.positions), kind="stable"), kind="stable")
                bins = ranks * _MAX_BINS // len(ranks)
            columns.append(bins)
            owners.append(owner)
        else:
            columns.extend((bins == value).astype(np.int64) for value in range(len(distinct)))
            owners.extend([owner] * len(distinct))
    return np.stack(columns, axis=1), np.asarray(owners)


def winsorised(values: np.ndarray) -> np.ndarray:
    """Pull extreme values in to three interquartile ranges from the median."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    reach = 3 * (high - low) or np.inf
    return np.asarray(np.clip(values, middle - reach, middle + reach))
