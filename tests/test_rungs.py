"""Rungs: who goes on, and what the sampler is told of the others."""

import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.metrics import EXACT_MATCH, Metric
from kaggle_runner.run.rungs import RungGate, extrapolated, may_win, rung_gate, scores_at, stays, why_it_ends
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep

LOSS = Metric()


def a_spec(tmp_path, more=""):
    (tmp_path / "s.yaml").write_text("method: random\nmetric: {name: eval/loss, goal: minimize}\nrun_cap: 9\n"
                                     "parameters: {learning_rate: {values: [0.1, 0.2]}}\n" + more)
    return read_sweep(tmp_path / "s.yaml")


def a_study(directory, *results):
    """A study with trials of (status, metric, evaluations)."""
    with Study.open_for_writing(directory, name="s", sweep={}, metric="eval/loss", goal="minimize", seed=0) as study:
        for number, (status, metric, evaluations) in enumerate(results):
            study.record_start(Trial(id=f"{number:04d}", number=number, params={}), {})
            study.record_end(TrialResult(id=f"{number:04d}", status=status, metric=metric, evaluations=evaluations))
        return study.snapshot()


def test_the_rungs_lie_at_a_tenth_three_and_six_tenths_of_the_steps(tmp_path):
    assert rung_gate(a_spec(tmp_path), FinetuneConfig(max_steps=100)).steps == (10, 30, 60)


def test_a_rung_in_the_warm_up_or_in_the_first_steps_is_left_out(tmp_path):
    assert rung_gate(a_spec(tmp_path), FinetuneConfig(max_steps=100, warmup_ratio=0.2)).steps == (30, 60)
    assert rung_gate(a_spec(tmp_path), FinetuneConfig(max_steps=40)).steps == (12, 24)
    assert rung_gate(a_spec(tmp_path), FinetuneConfig(max_steps=14)).steps == (5, 9)
    assert rung_gate(a_spec(tmp_path), FinetuneConfig(max_steps=13)).steps == ()


def test_a_sweeps_own_hyperband_sets_the_rungs_in_evaluations(tmp_path):
    spec = a_spec(tmp_path, "early_terminate: {type: hyperband, min_iter: 2, eta: 2}\n")
    gate = rung_gate(spec, FinetuneConfig(max_steps=100, eval_steps=10))
    assert gate.steps == (20, 40, 80)
    assert gate.eta == 2


@pytest.mark.parametrize(("value", "goes_on"), [(2.0, True), (2.4, True), (2.6, False), (9.0, False)])
def test_a_trial_goes_on_while_it_wins_by_gaining_on_the_best_as_the_others_did(value, goes_on):
    """From here the others gained 0.4 and 0.6 on the best one, on average 0.5."""
    curves = [(2.0, 1.0), (3.0, 1.6), (4.0, 2.4)]
    assert may_win(value, curves, LOSS) is goes_on
    assert may_win(-value, [(-at, -end) for at, end in curves], Metric(name="accuracy", goal="maximize")) is goes_on
    assert may_win(9.0, curves[:2], LOSS), "two say nothing"
    assert may_win(2.01, [(2.0, 1.0), (3.0, 2.5), (4.0, 3.5)], LOSS) is False, "what others lost is no reason"


def test_curves_are_of_complete_trials_and_a_sweeps_own_hyperband_ranks_all(tmp_path):
    complete = [(Status.COMPLETE, end, ((10, at), (100, end))) for at, end in ((2.0, 1.0), (3.0, 1.6))]
    snapshot = a_study(tmp_path, *complete, (Status.PRUNED, 5.0, ((10, 5.0),)))
    curves, ranks = (RungGate(steps=(10,), eta=eta, metric=LOSS) for eta in (None, 3.0))
    assert why_it_ends(curves, "new", 10, (9.0, None), snapshot) is None
    assert why_it_ends(ranks, "new", 10, (2.5, None), snapshot) is None
    assert why_it_ends(ranks, "new", 10, (3.5, None), snapshot) == (
        "not in the best 1/3 at step 10, as early_terminate asks")
    whole = a_study(tmp_path / "more", *complete, (Status.COMPLETE, 2.4, ((10, 4.0), (100, 2.4))))
    assert why_it_ends(curves, "new", 10, (9.0, None), whole) == (
        "behind the best trial at step 10 by more than the others made up from there on")
    assert why_it_ends(curves, "0002", 10, (4.0, None), whole) is None, "it is not compared with itself"


@pytest.mark.parametrize(("value", "others", "goes_on"), [
    (9.0, [], True),
    (9.0, [1.0], True),
    (2.0, [1.0, 3.0], False),
    (0.5, [1.0, 3.0], True),
    (2.0, [1.0, 3.0, 4.0], True),
    (2.0, [1.0, 3.0, 4.0, 5.0, 6.0], True),
    (3.5, [1.0, 3.0, 4.0, 5.0, 6.0], False),
    (1.0, [1.0, 1.0], True),
])
def test_the_best_third_rounded_up_goes_on_and_the_first_two_always(value, others, goes_on):
    assert stays(LOSS, 3.0, (value, None), [(other, None) for other in others]) is goes_on


def test_the_best_of_a_maximised_metric_are_the_largest():
    metric = Metric(name="accuracy", goal="maximize")
    assert stays(metric, 3.0, (4.0, None), [(1.0, None), (3.0, None)])
    assert not stays(metric, 3.0, (2.0, None), [(1.0, None), (3.0, None)])


def test_the_loss_decides_where_no_row_is_exact_yet():
    metric = Metric(name=EXACT_MATCH, goal="maximize")
    assert stays(metric, 3.0, (0.0, 1.9), [(0.0, 2.0), (0.0, 2.5)])
    assert not stays(metric, 3.0, (0.0, 2.1), [(0.0, 2.0), (0.0, 2.5)])
    assert stays(metric, 3.0, (0.1, 9.0), [(0.0, 2.0), (0.0, 2.5)])


def test_values_are_compared_at_the_same_step_only(tmp_path):
    snapshot = a_study(tmp_path, (Status.COMPLETE, 1.0, ((10, 2.0), (30, 1.0))), (Status.PRUNED, 3.0, ((10, 3.0),)),
                       (Status.FAILED, None, ()))
    assert scores_at(snapshot, 10, without="none") == [(2.0, None), (3.0, None)]
    assert scores_at(snapshot, 30, without="none") == [(1.0, None)]
    assert scores_at(snapshot, 10, without="0000") == [(3.0, None)]


def test_a_pruned_trial_is_guessed_by_the_median_gain_of_complete_ones(tmp_path):
    snapshot = a_study(tmp_path, (Status.COMPLETE, 1.0, ((10, 2.0), (100, 1.0))),
                       (Status.COMPLETE, 1.5, ((10, 3.5), (100, 1.5))), (Status.COMPLETE, 1.2, ((10, 2.7), (100, 1.2))))
    pruned = TrialResult(id="9", status=Status.PRUNED, metric=4.0, evaluations=((10, 4.0),))
    assert extrapolated(pruned, snapshot) == pytest.approx(4.0 - 1.5)


def test_a_pruned_trial_gains_what_complete_ones_like_it_gained(tmp_path):
    """Low learning rates gain long, high ones early: each pruned trial is likened to its own."""
    rates = [1e-5, 2e-5, 3e-5, 1e-3, 2e-3, 3e-3]
    gains = [1.0, 1.1, 1.2, 0.1, 0.2, 0.3]
    sweep = {"parameters": {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
                            "optim": {"values": ["adamw_torch", "adamw_8bit"]}}}
    with Study.open_for_writing(tmp_path / "s", name="s", sweep=sweep, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        for number, (rate, gain) in enumerate(zip(rates, gains, strict=True)):
            study.record_start(Trial(id=str(number), number=number, params={
                "learning_rate": rate, "optim": "adamw_torch"}), {})
            study.record_end(TrialResult(id=str(number), status=Status.COMPLETE, metric=3.0 - gain,
                                         evaluations=((10, 3.0), (100, 3.0 - gain))))
        told = []
        for number, rate in ((6, 1.5e-5), (7, 2.5e-3)):
            study.record_start(Trial(id=str(number), number=number, params={
                "learning_rate": rate, "optim": "adamw_8bit"}), {})
            pruned = TrialResult(id=str(number), status=Status.PRUNED, metric=4.0, evaluations=((10, 4.0),))
            study.record_end(pruned)
            told.append(extrapolated(pruned, study.snapshot()))
    assert told == pytest.approx([4.0 - 1.1, 4.0 - 0.2])


def test_without_a_complete_trial_the_last_value_stands(tmp_path):
    pruned = TrialResult(id="9", status=Status.PRUNED, metric=4.0, evaluations=((10, 4.0),))
    assert extrapolated(pruned, a_study(tmp_path, (Status.FAILED, None, ()))) == 4.0
