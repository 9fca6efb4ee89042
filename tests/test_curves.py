import pytest

from kaggle_runner.report.analysis.curves import read_curve, read_curves, rung_steps, thinned
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from tests.made_studies import Made, write_study


def test_a_curve_is_what_the_history_says(tmp_path):
    snapshot = read_study(write_study(tmp_path / "s", [Made(value=2.0, curve=[(10, 3.0), (20, 2.0)])]))

    curve, = read_curves(snapshot)

    assert (curve.steps, curve.values, curve.tokens) == ((10, 20), (3.0, 2.0), (1000, 2000))
    assert (curve.train_steps, curve.train_values) == ((10, 20), (3.1, 2.1))
    assert [curve.at(step) for step in (9, 10, 15, 99)] == [None, 3.0, 3.0, 2.0]


def test_without_a_history_the_evaluations_of_the_result_stand_in(tmp_path):
    snapshot = read_study(write_study(tmp_path / "s", [Made(value=2.0, curve=[(10, 3.0), (20, 2.0)])]))
    (tmp_path / "s" / "trials" / "0000" / "history.jsonl").unlink()

    assert read_curve(snapshot, snapshot.records[0]).values == (3.0, 2.0)


def test_a_running_trial_has_the_curve_it_has_so_far(tmp_path):
    snapshot = read_study(write_study(tmp_path / "s", [Made(status=None, curve=[(10, 3.0)])]))
    assert [(curve.status, curve.values) for curve in read_curves(snapshot)] == [("running", (3.0,))]


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_its_best(tmp_path):
    points = [(step, 1.0 if step == 4321 else 3.0) for step in range(1, 10_001)]
    snapshot = read_study(write_study(tmp_path / "s", [Made(value=1.0, curve=points)]))

    curve = read_curve(snapshot, snapshot.records[0], points=100)

    assert len(curve.steps) <= 101
    assert (curve.steps[0], curve.steps[-1]) == (1, 10_000)
    assert 4321 in curve.steps
    assert len(curve.train_steps) == 100
    assert sum(curve.train_values) / 100 == pytest.approx(3.1, abs=0.001)  # means of equal stretches


def test_the_best_of_a_thinned_curve_is_the_highest_where_high_is_good(tmp_path):
    points = [(step, 9.0 if step == 777 else 1.0) for step in range(1, 1001)]
    directory = write_study(tmp_path / "s", [Made(value=9.0, curve=points)], goal="maximize", metric="accuracy")
    snapshot = read_study(directory)

    assert 777 in read_curve(snapshot, snapshot.records[0], points=10).steps


def test_thinning_keeps_everything_that_fits():
    assert thinned(3, 5) == [0, 1, 2]
    assert thinned(5, 3) == [0, 2, 4]
    assert thinned(0, 3) == []


def test_rungs_are_where_trials_were_pruned_the_most_frequent_ones(tmp_path):
    trials = [Made(value=3.0, status=Status.PRUNED, steps=20)] * 3 + [
        Made(value=3.0, status=Status.PRUNED, steps=99, notes={"pruned_at_step": 60})] * 2 + [
        Made(value=3.0, status=Status.PRUNED, steps=7), Made(value=2.0, steps=100)]
    records = read_study(write_study(tmp_path / "s", trials)).records

    assert rung_steps(records) == (7, 20, 60)
    assert rung_steps(records, most=2) == (20, 60)
