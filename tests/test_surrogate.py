import numpy as np
import pytest

from kaggle_runner.report.analysis.surrogate import fit


def made(count, noise, seed):
    generator = np.random.default_rng(seed)
    points = generator.uniform(size=(count, 3))
    return points, 2 * (points[:, 0] - 0.3) ** 2 + noise * generator.normal(size=count)


def test_the_surface_has_its_minimum_where_the_function_has_it():
    points, values = made(40, 0.02, seed=0)
    grid = np.array([[x, 0.5, 0.5] for x in np.linspace(0, 1, 101)])

    predicted = fit(points, values).predict(grid)

    assert grid[predicted.argmin(), 0] == pytest.approx(0.3, abs=0.08)
    assert predicted[100] == pytest.approx(2 * 0.7**2, abs=0.15)


def test_the_same_trials_give_the_same_surface():
    points, values = made(12, 0.1, seed=1)
    assert (fit(points, values).weights == fit(points, values).weights).all()


def test_trials_at_the_same_point_do_not_break_the_fit():
    points = np.repeat([[0.5, 0.5], [0.1, 0.9]], 4, axis=0)
    values = np.array([1.0, 1.1, 0.9, 1.0, 2.0, 2.1, 1.9, 2.0])
    assert fit(points, values).predict(points)[[0, 4]] == pytest.approx([1.0, 2.0], abs=0.3)
