import math

import numpy as np
import pytest

from kaggle_runner.report.analysis.importance import MIN_TRIALS, Factor, find_effects, winsorised


def shares_of(given, values):
    return find_effects(given, values).shares


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

    shares = shares_of(given, 3 * columns["signal"] + np.random.default_rng(1).normal(0, 0.01, 60))

    assert shares[0].name == "signal"
    assert shares[0].share > 0.85
    assert shares[0].resolved
    for name in ("noise", "pair", "name"):
        share = by_name(shares)[name]
        assert not share.resolved
        assert abs(share.share) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_variables_are_ordered_by_the_variance_they_carry(seed):
    """Variances: 4/12 of the number, 1/12 of the pair, so 76 % and 19 % with the noise's 5 %."""
    columns, given = factors(120, seed)
    values = 2 * columns["signal"] + 1.15 * columns["pair"] + np.random.default_rng(seed).normal(0, 0.15, 120)

    shares = shares_of(given, values)

    assert [share.name for share in shares[:2]] == ["signal", "pair"]
    assert shares[0].share == pytest.approx(0.76, abs=0.15)
    assert shares[1].share == pytest.approx(0.19, abs=0.12)
    assert [share.resolved for share in shares] == [True, True, False, False]


def test_in_pure_noise_at_most_one_study_in_ten_claims_something():
    found = 0
    for seed in range(40):
        _, given = factors(24, seed)
        found += any(share.resolved for share in shares_of(given, np.random.default_rng(seed).normal(size=24)))
    assert found <= 4


def test_a_strong_variable_is_found_in_sixteen_trials():
    found = 0
    for seed in range(8):
        columns, given = factors(16, seed)
        values = (columns["signal"] - 0.8) ** 2 + np.random.default_rng(seed).normal(0, 0.02, 16)
        found += shares_of(given, values)[0].name == "signal"
    assert found >= 7


def test_the_values_of_an_unordered_variable_need_no_order():
    columns, given = factors(60, seed=3)
    values = np.where(columns["name"] == 1 / 3, 1.0, 0.0)  # the middle one of three

    shares = shares_of(given, values)

    assert shares[0].name == "name"
    assert shares[0].share > 0.8


@pytest.mark.parametrize("shape", [lambda x: (x - 0.4) ** 2, lambda x: np.abs(x - 0.6), lambda x: x > 0.45])
def test_an_effect_of_two_thirds_of_the_variance_is_found_whatever_its_shape(shape):
    found = 0
    for seed in range(30):
        columns, given = factors(20, seed)
        effect = shape(columns["signal"]).astype(float)
        deviation = shape(np.linspace(0, 1, 1000)).astype(float).std()
        values = effect / deviation * np.sqrt(2 / 3) + np.random.default_rng(seed).normal(0, np.sqrt(1 / 3), 20)
        found += by_name(shares_of(given, values))["signal"].resolved
    assert found >= 21


def test_what_is_found_is_taken_out_of_the_noise():
    columns, given = factors(40, seed=2)
    values = 5 * (columns["signal"] - 0.5) ** 2 + np.random.default_rng(2).normal(0, 0.1, 40)
    effects = find_effects(given, values)
    assert effects.deviation == pytest.approx(0.1, rel=0.3)
    assert np.std(effects.residuals) < np.std(values) / 2


@pytest.mark.parametrize("twin", ["moved together", "only with one name"])
def test_an_effect_of_one_of_several_that_moved_together_is_no_noise(twin):
    columns, given = factors(24, seed=3)
    effect = 5 * (columns["signal"] - 0.5) ** 2
    given.append(Factor(name="twin", ordered=True, positions=tuple(0.2 + 0.7 * columns["signal"])))
    if twin == "only with one name":  # as a momentum that one optimizer has
        there = np.arange(24) % 2 == 0
        effect = 1.0 * there
        given = [*given[1:4], Factor(name="signal", ordered=False, positions=tuple(there / 2)),
                 Factor(name="twin", ordered=True, positions=tuple(np.where(there, 0.5, -1.0)))]
    effects = find_effects(given, effect + np.random.default_rng(3).normal(0, 0.1, 24))
    assert not any(share.resolved for share in effects.shares)
    assert set(effects.one_of) == {"signal", "twin"}
    assert effects.deviation == pytest.approx(0.1, rel=0.35)


def test_a_hyperparameter_that_only_some_trials_have_may_matter_by_being_there():
    generator = np.random.default_rng(0)
    there = np.arange(24) % 2 == 0
    factor = Factor(name="x", ordered=True, positions=tuple(np.where(there, generator.uniform(size=24), -1.0)))
    share, = shares_of([factor], there + generator.normal(0, 0.1, 24))
    assert share.resolved
    assert share.share > 0.8


def test_one_diverged_trial_is_not_all_the_variance():
    columns, given = factors(40, seed=4)
    values = columns["signal"].copy()
    values[7] = 1e6

    assert shares_of(given, values)[0].name == "signal"
    assert winsorised(values).max() < 10


def test_too_few_or_equal_values_give_no_importance():
    _, given = factors(MIN_TRIALS, seed=0)
    few = [Factor(name=factor.name, positions=factor.positions[:-1], ordered=True) for factor in given]

    assert shares_of(few, list(range(MIN_TRIALS - 1))) == ()
    assert shares_of(given, [1.0] * MIN_TRIALS) == ()
    assert shares_of([], list(range(MIN_TRIALS))) == ()


def test_the_same_trials_give_the_same_shares_of():
    columns, given = factors(20, seed=5)
    assert shares_of(given, columns["signal"]) == shares_of(given, columns["signal"])


def test_of_two_that_moved_together_neither_is_said_to_matter():
    at = np.random.default_rng(3).uniform(size=24)
    values = at + np.random.default_rng(4).normal(0, 0.05, 24)
    one, twin = (Factor(name=name, positions=tuple(at), ordered=True) for name in ("one", "twin"))

    assert shares_of([one], values)[0].resolved
    assert not any(share.resolved for share in shares_of([one, twin], values))


def test_one_of_eight_names_with_two_thirds_of_the_variance_is_found_in_twenty_trials():
    found = 0
    for seed in range(30):
        generator = np.random.default_rng([seed, 8])
        columns = {name: generator.uniform(size=20) for name in ("a", "b", "c")}
        name, means = generator.integers(0, 8, 20), generator.normal(size=8)
        values = math.sqrt(2) * ((means - means.mean()) / means.std())[name] + generator.normal(size=20)
        given = [Factor(name="name", positions=tuple(name / 8), ordered=False),
                 *(Factor(name=one, positions=tuple(column), ordered=True) for one, column in columns.items())]
        found += by_name(shares_of(given, values))["name"].resolved
    assert found >= 21
