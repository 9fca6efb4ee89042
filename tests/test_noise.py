import math

import pytest

from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.provenance import how_it_was_run
from kaggle_runner.study.journal import Study, confirm_directory, read_study
from kaggle_runner.study.noise import Noise, find_configurations, find_repeats, measured_noise, noise_of_repeats, t_975
from kaggle_runner.study.table import best_lines
from tests.made_studies import Made, write_study

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


def test_the_upper_bound_comes_down_to_the_estimate_with_the_degrees_of_freedom():
    bounds = [Noise(deviation=1.0, source="", freedom=freedom).upper for freedom in (1, 2, 3, 7, 20, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(1 / math.sqrt(0.00393), rel=0.01)  # the 5 % point of chi-squared
    assert bounds[-1] < 1.25
    assert t_975(30) == 2.0423
    assert t_975(31) == 1.96


def test_a_configuration_is_all_its_trials_and_a_duplicate_is_no_second_measurement():
    first, other = find_configurations([*TRIALS, ("f", {"lr": 1, "seed": 2}, 9.0)])
    assert (first.trial_ids, first.duplicates, first.mean) == (("a", "c", "d"), ("f",), 4.0)
    assert other.duplicates == ()


def test_seeds_that_all_gave_the_same_value_say_nothing_of_the_noise():
    assert noise_of_repeats(find_repeats([("a", {"seed": 1}, 2.0), ("b", {"seed": 2}, 2.0)])) is None


def test_a_duplicate_of_a_run_is_no_noise_of_zero_in_any_view(tmp_path):
    """W&B's `duplicate` trains a configuration again with its own seed: the same computation twice."""
    trials = [Made(params={"lr": 1, "seed": 1}, value=2.0), Made(params={"lr": 1, "seed": 1}, value=2.0),
              Made(params={"lr": 2, "seed": 1}, value=3.0)]
    snapshot = read_study(write_study(tmp_path / "s", trials))

    assert measured_noise(snapshot) == (None, ())
    assert [label for label, _ in best_lines(snapshot) if label == "noise"] == []
    assert analyse(snapshot).noise is None


def test_the_table_and_the_report_say_the_same_noise(tmp_path):
    trials = [Made(params={"lr": 1, "seed": seed}, value=value) for seed, value in enumerate([2.0, 2.02, 2.04])]
    snapshot = read_study(write_study(tmp_path / "s", trials))

    noise = analyse(snapshot).noise
    assert noise.deviation == pytest.approx(0.02)
    assert ("noise", f"0.0200 standard deviation of eval/loss, from {noise.source}") in best_lines(snapshot)
    assert best_lines(snapshot)[0] == ("best", "trial 0000, eval/loss 2.0000 +- 0.02 (3 seeds)")


def test_the_best_line_has_the_seeds_of_a_confirmation_and_the_noise_of_other_trials(tmp_path):
    swept = [Made(params={"lr": lr, "seed": 0}, value=value) for lr, value in ((1, 2.0), (2, 2.5))]
    directory = write_study(tmp_path / "s", swept)
    write_study(confirm_directory(directory), [
        Made(params={"lr": lr, "seed": seed}, value=value, origin=origin) for lr, seed, value, origin in (
            (1, 1, 2.1, "trial 0000"), (1, 2, 2.12, "trial 0000"), (2, 1, 2.6, "trial 0001"),
            (2, 2, 2.6, "trial 0001"))])
    assert best_lines(read_study(directory))[0] == ("best", "trial 0000, eval/loss 2.0000 +- 0.01 (3 seeds)")
    other = write_study(tmp_path / "t", [Made(params={"lr": 1, "seed": 0}, value=1.0), *swept[1:],
                                         Made(params={"lr": 2, "seed": 1}, value=2.7)])
    assert best_lines(read_study(other))[0] == ("best", "trial 0000, eval/loss 1.0000 +- 0.14")


def test_the_lines_of_a_study_say_what_became_of_its_rows(tmp_path):
    rows = {"read": 6000, "train": 400, "validation": 48, "duplicates": 2, "not_drawn": 5547, "cut": 7,
            "lost": {"no answer": 3}}
    snapshot = read_study(write_study(tmp_path / "s", [Made(params={"lr": 1}, value=2.0, notes={"rows": rows})]))
    line = "6,000 read, 400 trained, 48 held out, 7 cut, 2 duplicates, 5,547 not asked for, left out 3 (no answer)"
    assert ("rows", line) in best_lines(snapshot)


def test_the_account_of_each_dataset_stands_once_in_the_record_and_wherever_a_study_is_shown(tmp_path):
    directory = write_study(tmp_path / "s", [Made(params={"lr": 1}, value=2.0, notes={"rows": {"read": 1}})])
    facts = [{"dataset": "x", "columns_unused": [], "rows": {"read": read, "train": 8, "validation": 1, "duplicates": 0,
                                                             "not_drawn": 0, "cut": 0, "unanswered": 2, "lost": {}}}
             for read in (9, 10)]
    with Study.open_for_writing(directory, name="made", sweep=read_study(directory).info.sweep, metric="eval/loss",
                                goal="minimize", seed=None) as study:
        for each in (*facts, *facts):
            study.record_rows(each)
    snapshot = read_study(directory)
    assert list(snapshot.rows) == facts == snapshot.as_dict()["rows"]
    nine, ten = (f"{read} read, 8 trained, 1 held out, 0 cut, 0 duplicates, 2 without the turns after their last answer"
                 for read in (9, 10))
    assert best_lines(snapshot)[-2:] == [("rows", nine), ("", ten)]
    assert dict(how_it_was_run(snapshot))["rows"] == f"{nine}; {ten}"


def test_a_study_over_several_models_has_no_base_that_its_trials_are_compared_with(tmp_path):
    for number, (entry, has_one) in enumerate([({"values": ["a", "b"]}, False), ({"values": ["a"]}, True),
                                               ({"value": "a"}, True)]):
        directory = write_study(tmp_path / str(number), [Made(value=2.0)], parameters={"model": entry})
        assert read_study(directory).has_one_base == has_one
