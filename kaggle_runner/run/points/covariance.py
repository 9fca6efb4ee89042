"""How much two trials are expected to tell of each other: near ones, and those of other studies.

A study of another model or other rows has a surface of its own. How much that is like the one that is searched is
drawn, and so is by how much its learning rates lie elsewhere: the trials of the search decide between the draws.

Legend: K draws, H hyperparameters, C columns of a point, A axes, W wells, P and N points, L pairs of points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WELL_DOUBT = 0.25
"""Variance of the slope and of the curve of the well of a learning rate: the optimum may well lie at an end."""
KINSHIP_PRIOR = (0.0, 2.0)
"""Mean and deviation of the logit of how alike another study's surface is: it may be anything from nothing to all."""
SHIFT = 0.2
"""Of a range, by how much a learning rate lies elsewhere for another study at one deviation; at two four times that,
because most lie near and some far. Source: 24 made problems, 3 seeds, another study's best 1.2 decades lower: regret at
5 and 10 trials .226 and .133 with none, .219 and .061 with .08, .234 and .083 with .15, .113 and .042 with .3; where
the best is the same .058, .055, .054 and .079 at 5."""
PIECE = 16_384
"""Numbers that a covariance is computed of at a time: they stay in the processor's cache from step to step."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How the columns of a point belong to axes."""

    axis_of: tuple[int, ...]
    """For each column its axis; the columns of an unordered axis share one length."""
    wells: tuple[int, ...] = ()
    """Columns of learning rates: too low learns nothing, too high diverges."""
    codes: tuple[int, ...] = ()
    """Columns that number values without an order: two of these are equally far apart."""
    numbers: tuple[int, ...] = ()
    """Columns of numbers: the nearer two values, the more alike they are."""
    home: tuple[float, ...] | None = None
    """The point that somebody would have taken without a search; the best are expected near it, other things equal."""

    @property
    def axes(self) -> int:
        """Number of axes."""
        return max(self.axis_of, default=-1) + 1


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The covariance of each draw of the hyperparameters, without noise, in units of the surface's variance."""

    geometry: Geometry
    lengths_KA: np.ndarray
    kinships_K1: np.ndarray
    """How alike the surfaces of other studies are to the one that is searched: 1 the same but for its level, 0 nothing
    in common. Empty, like the next, where there are none."""
    shifts_KW: np.ndarray
    """How much higher in each well the same lies here than in other studies."""

    @classmethod
    def drawn(cls, geometry: Geometry, logs_KH: np.ndarray) -> "Kernel":
        """Read draws: the logs of lengths, then, beside other studies, a logit of kinship and how far each well lies
        elsewhere, in deviations."""
        lengths_KA, rest = np.exp(logs_KH[:, :geometry.axes]), logs_KH[:, geometry.axes:]
        return cls(geometry=geometry, lengths_KA=lengths_KA, kinships_K1=1 / (1 + np.exp(-rest[:, :1])),
                   shifts_KW=SHIFT * rest[:, 1:] * np.abs(rest[:, 1:]))

    def of(self, left_PC: np.ndarray, right_NC: np.ndarray, left_P: np.ndarray, right_N: np.ndarray) -> np.ndarray:
        """Return the covariance of points on surfaces that have numbers, 0 for the one that is searched.

        It is Matérn 5/2 with a length for each axis, and for wells a slope and a curve that may be anything.
        """
        squares_CPN = squares_of(left_PC, right_NC, self.geometry.codes)
        weights_KC = 5 * self.lengths_KA[:, list(self.geometry.axis_of)] ** -2
        wells, shifts_KW = list(self.geometry.wells), np.zeros((1, len(self.geometry.wells)))
        others = bool(left_P.any() or right_N.any())
        if others:  # (gap + apart * shift) ** 2, the part without the shift is there
            shifts_KW, of_wells_KW = self.shifts_KW, weights_KC[:, wells]
            apart_PN = np.sign(left_P)[:, None] - np.sign(right_N)
            gaps_WPN = left_PC.T[wells, :, None] - right_NC.T[wells, None, :]
            squares_CPN = np.concatenate([squares_CPN, 2 * gaps_WPN * apart_PN,
                                          np.repeat((apart_PN * apart_PN)[None], len(wells), 0)])
            weights_KC = np.concatenate([weights_KC, of_wells_KW * shifts_KW, of_wells_KW * shifts_KW ** 2], axis=1)
        squares_CL = squares_CPN.reshape(len(squares_CPN), -1)
        covariance_KL = np.empty((len(weights_KC), squares_CL.shape[1]))
        step = max(1, PIECE // len(weights_KC))
        for start in range(0, squares_CL.shape[1], step):
            distance = weights_KC @ squares_CL[:, start:start + step]
            distance += 1e-12
            np.sqrt(np.abs(distance, out=distance), out=distance)
            piece = distance * distance
            piece /= 3
            piece += distance
            piece += 1
            np.negative(distance, out=distance)
            np.multiply(piece, np.exp(distance, out=distance), out=covariance_KL[:, start:start + step])
        covariance = covariance_KL.reshape(len(weights_KC), len(left_PC), len(right_NC))
        for column, shifts_K in zip(wells, shifts_KW.T, strict=True):
            left, right = (2 * np.clip(points[:, column] + shifts_K[:, None] * np.sign(surfaces), 0, 1) - 1
                           for points, surfaces in ((left_PC, left_P), (right_NC, right_N)))
            left, right = left[:, :, None], right[:, None]
            covariance += WELL_DOUBT * (left * right + left * left * (right * right))
        if others:
            covariance *= np.where(left_P[:, None] == right_N, 1.0, self.kinships_K1[:, :, None])
        return covariance


def squares_of(left_PC: np.ndarray, right_NC: np.ndarray, codes: Sequence[int]) -> np.ndarray:
    """Return for each column how far points lie apart in it, squared; in a column of codes that is 0 or 1."""
    squares_CPN = left_PC.T[:, :, None] - right_NC.T[:, None, :]
    squares_CPN *= squares_CPN
    for column in codes:
        squares_CPN[column] = left_PC[:, None, column] != right_NC[None, :, column]
    return np.asarray(squares_CPN)


def variance_of(points_PC: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the covariance of points with themselves, which is the same for every draw."""
    places = [2 * np.clip(points_PC[:, column], 0, 1) - 1 for column in geometry.wells]
    return 1 + sum((WELL_DOUBT * (place ** 2 + place ** 4) for place in places), np.zeros(len(points_PC)))
