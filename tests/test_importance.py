import numpy as np
import pytest

from kaggle_runner.report.analysis.importance import MIN_TRIALS, Factor, importances, winsorised


def factors(count, seed):
    """Two numbers, a number of two values and a name of three, all independent."""
    generator = np.random.default_rng(seed)
    columns = {"signal": generator.uniform(size=count), "noise": generator.uniform(size=count),
               "pair": generator.integers(0, 2, count) / 2, "name": generator.integers(0, 3, count) / 3}
    return columns, [Factor(name=name, positions=tuple(column), ordered=name != "name")
                     for name, column in columns.items()]


def by_name(shares):
    return {share.name: share for share in shares}


def test_a_variable_that_carries_all_variance_gets_it_and_noise_gets_none():
    columns, given = factors(60, seed=1)

    shares = importances(given, 3 * columns["signal"])

    assert shares[0].name == "signal"
    assert shares[0].share > 0.85
    assert shares[0].resolvable
    for name in ("noise", "pair", "name"):
        share = by_name(shares)[name]
        assert not share.resolvable
        assert share.low <= 0.005
        assert abs(share.share) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_variables_are_ordered_by_the_variance_they_carry(seed):
    """Variances: 4/12 of the number, 1/12 of the pair, so 76 % and 19 % with the noise's 5 %."""
    columns, given = factors(120, seed)
    values = 2 * columns["signal"] + 1.15 * columns["pair"] + np.random.default_rng(seed).normal(0, 0.15, 120)

    shares = importances(given, values)

    assert [share.name for share in shares[:2]] == ["signal", "pair"]
    assert shares[0].share == pytest.approx(0.76, abs=0.15)
    assert shares[1].share == pytest.approx(0.19, abs=0.12)
    assert [share.resolvable for share in shares] == [True, True, False, False]


def test_in_pure_noise_nothing_is_resolvable():
    found = 0
    for seed in range(10):
        _, given = factors(24, seed)
        found += sum(share.resolvable for share in importances(given, np.random.default_rng(seed).normal(size=24)))
    assert found == 0


def test_a_strong_variable_is_found_in_sixteen_trials():
    found = 0
    for seed in range(8):
        columns, given = factors(16, seed)
        values = (columns["signal"] - 0.8) ** 2 + np.random.default_rng(seed).normal(0, 0.02, 16)
        found += importances(given, values)[0].name == "signal"
    assert found >= 7


def test_the_values_of_an_unordered_variable_need_no_order():
    columns, given = factors(60, seed=3)
    values = np.where(columns["name"] == 1 / 3, 1.0, 0.0)  # the middle one of three

    shares = importances(given, values)

    assert shares[0].name == "name"
    assert shares[0].share > 0.8


def test_one_diverged_trial_is_not_all_the_variance():
    columns, given = factors(40, seed=4)
    values = columns["signal"].copy()
    values[7] = 1e6

    assert importances(given, values)[0].name == "signal"
    assert winsorised(values).max() < 10


def test_too_few_or_equal_values_give_no_importance():
    _, given = factors(MIN_TRIALS, seed=0)
    few = [Factor(name=factor.name, positions=factor.positions[:-1], ordered=True) for factor in given]

    assert importances(few, list(range(MIN_TRIALS - 1))) == ()
    assert importances(given, [1.0] * MIN_TRIALS) == ()
    assert importances([], list(range(MIN_TRIALS))) == ()


def test_the_same_trials_give_the_same_importances():
    columns, given = factors(20, seed=5)
    assert importances(given, columns["signal"]) == importances(given, columns["signal"])
