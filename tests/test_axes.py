import math

import pytest

from kaggle_runner.study.axes import Axis, Boundary, boundary, read_axes
from kaggle_runner.study.journal import read_study
from tests.made_studies import Made, write_study


def axes_of(tmp_path, parameters, *params):
    trials = [Made(params=each, value=1.0) for each in params]
    return read_axes(read_study(write_study(tmp_path / "study", trials, parameters=parameters)))


@pytest.mark.parametrize(
    ("entry", "low", "high", "is_log"),
    [({"min": 0.0, "max": 2.0}, 0.0, 2.0, False),
     ({"min": 1, "max": 9}, 1, 9, False),
     ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}, 1e-5, 1e-3, True),
     ({"distribution": "inv_log_uniform_values", "min": 1e-5, "max": 1e-3}, 1e-5, 1e-3, True),
     ({"distribution": "log_uniform", "min": -2, "max": 0}, math.exp(-2), 1.0, True),
     ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 5}, 0, 10, False)])
def test_a_range_is_read_as_the_sweep_means_it(tmp_path, entry, low, high, is_log):
    axis, = axes_of(tmp_path, {"x": entry}, {"x": 1.0})

    assert axis.is_range
    assert (axis.low, axis.high, axis.is_log) == (pytest.approx(low), pytest.approx(high), is_log)


def test_lists_keep_names_in_order_and_sort_numbers(tmp_path):
    numbers, names = axes_of(tmp_path, {"r": {"values": [16, 4, 8]}, "s": {"values": ["linear", "cosine"]}},
                             {"r": 4, "s": "cosine"})

    assert (numbers.values, numbers.is_ordered) == ((4, 8, 16), True)
    assert (names.values, names.is_ordered) == (("linear", "cosine"), False)


def test_fixed_settings_seeds_and_names_without_trials_are_no_axes(tmp_path):
    assert axes_of(tmp_path, {"x": {"value": 3}, "seed": {"values": [1, 2]}, "gone": {"min": 0, "max": 1}},
                   {"x": 3, "seed": 1}, {"x": 3, "seed": 2}) == ()


def test_what_the_sweep_does_not_say_is_read_off_the_trials(tmp_path):
    few, wide, normal = axes_of(
        tmp_path, {"normal": {"distribution": "normal", "mu": 0.0, "sigma": 1.0}, "odd": 5, "empty": None},
        *({"few": i % 2 == 0, "wide": 10.0 ** -i, "normal": float(i), "odd": 5} for i in range(8)))[-3:]

    assert {axis.name for axis in (few, wide, normal)} == {"few", "wide", "normal"}
    by_name = {axis.name: axis for axis in (few, wide, normal)}
    assert by_name["few"].values == (True, False)
    assert by_name["wide"].is_log
    assert not by_name["wide"].is_bounded
    assert (by_name["normal"].low, by_name["normal"].high, by_name["normal"].is_log) == (0.0, 7.0, False)


def test_a_value_outside_the_list_still_has_its_place(tmp_path):
    axis, = axes_of(tmp_path, {"r": {"values": [4, 8]}}, {"r": 4}, {"r": 32})
    assert axis.values == (4, 8, 32)


@pytest.mark.parametrize("axis", [Axis(name="x", low=1e-5, high=1e-3, is_log=True), Axis(name="x", low=-1.0, high=3.0),
                                  Axis(name="x", values=("a", "b", "c")), Axis(name="x", values=(1, 2))])
def test_position_and_value_are_each_others_inverse(axis):
    for position in (0.25, 0.5, 0.75):
        value = axis.value(position)
        assert axis.value(axis.position(value)) == pytest.approx(value)
    assert axis.position(None) is None


def test_values_that_lie_nowhere_on_an_axis_have_no_position():
    assert Axis(name="x", low=1e-5, high=1.0, is_log=True).position(-1.0) is None
    assert Axis(name="x").position("text") is None
    assert Axis(name="x", values=(1, 2)).position(True) is None
    assert Axis(name="x", low=0.0, high=1.0).position(7.0) == 1.0


@pytest.mark.parametrize(
    ("axis", "value", "expected"),
    [(Axis(name="x", low=1e-5, high=1e-3, is_log=True), 9.9e-4, ("highest", 1e-3, pytest.approx(3e-3))),
     (Axis(name="x", low=1e-5, high=1e-3, is_log=True), 1e-5, ("lowest", 1e-5, pytest.approx(1e-5 / 3))),
     (Axis(name="x", low=0.0, high=0.1), 0.1, ("highest", 0.1, pytest.approx(0.15))),
     (Axis(name="x", values=(4, 8, 16)), 16, ("highest", 16, 32)),
     (Axis(name="x", values=(4, 8, 16)), 4, ("lowest", 4, 2))])
def test_a_best_value_at_the_end_of_its_range_is_a_boundary(axis, value, expected):
    assert boundary(axis, value) == Boundary(name="x", value=value, side=expected[0], limit=expected[1],
                                             suggestion=expected[2])


@pytest.mark.parametrize(
    ("axis", "value"),
    [(Axis(name="x", low=1e-5, high=1e-3, is_log=True), 1e-4), (Axis(name="x", low=0.0, high=0.1), 0.0),
     (Axis(name="x", low=1, high=9, is_integer=True), 1), (Axis(name="x", values=(1, 2, 4)), 1),
     (Axis(name="x", values=(4, 8)), 8),
     (Axis(name="x", values=("a", "b", "c")), "c"), (Axis(name="x", low=0.0, high=1.0, is_bounded=False), 1.0)],
    ids=["inside", "zero is a natural end", "one is the least count", "of a list too", "two values only have ends",
         "names have no end",
         "not the sweep's end"])
def test_no_boundary_is_seen_where_none_could_be_moved(axis, value):
    assert boundary(axis, value) is None


@pytest.mark.parametrize(("entry", "best", "suggestion"), [
    ({"distribution": "q_uniform", "min": 8, "max": 64, "q": 8}, 64, 96),
    ({"min": 0.9, "max": 0.99}, 0.989, 0.995), ({"min": 0.0, "max": 0.8}, 0.8, 0.9),
    ({"min": 0.0, "max": 1.0}, 1.0, 1.5),
    ({"distribution": "q_uniform", "min": 0.2, "max": 0.6, "q": 0.1}, 0.6, 0.8),
    ({"distribution": "q_uniform", "min": 0.5, "max": 0.9, "q": 0.1}, 0.5, 0.3),
    ({"distribution": "q_log_uniform_values", "min": 16, "max": 128, "q": 8}, 16, 8),
    ({"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8}, 8, None)])
def test_an_end_is_moved_to_a_value_that_can_be_tried(tmp_path, entry, best, suggestion):
    axis, = axes_of(tmp_path, {"x": entry}, {"x": best})
    found = boundary(axis, best)
    assert (found and found.suggestion) == suggestion


def test_a_place_on_a_range_is_said_in_two_digits_and_never_past_its_end():
    axis = Axis(name="x", low=0.9, high=0.999)
    assert [axis.rounded(value) for value in (0.9984, 0.8999, 0.93456)] == [0.999, 0.9, 0.93]
    assert Axis(name="x", low=1, high=90, is_integer=True).rounded(47.6) == 48
