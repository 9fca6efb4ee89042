"""How often a report is wrong on made studies with known truth; `benchmarks/truth.py` measures that at length.

The seeds are fixed, so these are the same studies every time.
"""

import pytest

from benchmarks.truth import CLIFFS, KINDS, SIZES, make, measure, within


@pytest.mark.parametrize(("kind", "size"), [("none", 8), ("none", 20), ("heavy", 12), ("pruned", 12), ("seeds", 12)])
def test_where_nothing_matters_little_is_claimed(kind, size):
    rates = measure(kind, size, 100)
    assert rates["false"] <= 0.10
    assert rates["wrong first"] <= 0.10
    assert rates["covered"] >= 0.90


@pytest.mark.parametrize("kind", ["valley", "vee", "step", "categorical"])
def test_two_thirds_of_the_variance_are_found_in_twenty_trials(kind):
    rates = measure(kind, 20, 60)
    assert rates["found"] >= 0.80
    assert rates["false"] <= 0.10
    assert rates["covered"] >= 0.90


@pytest.mark.parametrize("kind", CLIFFS)
@pytest.mark.parametrize("size", [12, 40])
def test_what_diverged_shares_no_first_place_with_what_did_not(kind, size):
    rates = measure(kind, size, 30)
    assert rates["too wide"] <= 0.10
    assert rates["wrong first"] <= 0.10
    assert rates["covered"] >= 0.90


def test_a_rate_over_its_limit_is_told():
    good = {"false": 0.1, "found": 0.8, "covered": 0.9, "wrong first": 0.1, "too wide": 0.1}
    assert within("valley", 20, good)
    for name, value in (("false", 0.11), ("found", 0.79), ("covered", 0.89), ("wrong first", 0.11),
                        ("too wide", 0.11)):
        assert not within("valley", 20, good | {name: value})


def test_every_kind_of_study_is_made_as_large_as_asked():
    for kind in KINDS:
        snapshot = make(kind, SIZES[0], 1).snapshot
        assert sum(record.result.status == "complete" for record in snapshot.records) == SIZES[0]
