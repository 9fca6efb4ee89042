import math

import pytest

from kaggle_runner.study.noise import Noise, find_repeats, noise_of_repeats, t_975

TRIALS = [("a", {"lr": 1, "seed": 1}, 2.0), ("b", {"lr": 2, "seed": 1}, 5.0), ("c", {"lr": 1, "seed": 2}, 4.0),
          ("d", {"lr": 1, "seed": 3}, 6.0), ("e", {"lr": 2, "seed": 2}, 5.0)]


def test_trials_that_differ_in_the_seed_only_are_repeats():
    first, second = find_repeats(TRIALS)

    assert first.trial_ids == ("a", "c", "d")
    assert first.mean == 4.0
    assert first.deviation == 2.0
    assert first.half_width == pytest.approx(4.3027 * 2 / math.sqrt(3))
    assert (second.trial_ids, second.deviation) == (("b", "e"), 0.0)


def test_the_same_seed_twice_is_the_same_computation_and_no_repeat():
    assert find_repeats([("a", {"lr": 1, "seed": 1}, 2.0), ("b", {"lr": 1, "seed": 1}, 3.0)]) == ()
    assert find_repeats([("a", {"lr": 1}, 2.0), ("b", {"lr": 1}, 3.0)]) == ()


def test_deviations_are_pooled_by_their_degrees_of_freedom():
    noise = noise_of_repeats(find_repeats(TRIALS))

    assert noise.deviation == pytest.approx(math.sqrt((2 * 4.0 + 1 * 0.0) / 3))
    assert noise.freedom == 3
    assert noise.source == "2 configurations trained with several seeds, 5 trials"
    assert noise_of_repeats(()) is None


def test_few_degrees_of_freedom_make_the_least_difference_large():
    assert Noise(deviation=1.0, source="", freedom=1).least_difference == pytest.approx(math.sqrt(2) * 12.7062)
    assert Noise(deviation=1.0, source="", freedom=None).least_difference == pytest.approx(2.77, abs=0.01)
    assert t_975(30) == 2.0423
    assert t_975(31) == 1.96
