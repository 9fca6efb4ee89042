import math

import pytest

from kaggle_runner.cli.table import ranked, trial_table
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.claims import claims
from kaggle_runner.report.analysis.provenance import how_it_was_run
from kaggle_runner.report.sentences import winner
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


def test_a_configuration_is_all_its_trials_and_a_duplicate_is_no_further_seed():
    first, other = find_configurations([*TRIALS, ("f", {"lr": 1, "seed": 2}, 4.0)])
    assert (first.trial_ids, first.duplicates, first.mean) == (("a", "c", "d"), ("f",), 4.0)
    assert (first.runs_ids, first.made_of, other.duplicates) == (("a", "c", "d"), "mean of 3 seeds", ())
    differing, _ = find_configurations([*TRIALS, ("f", {"lr": 1, "seed": 2}, 8.5)])
    assert (differing.mean, differing.made_of) == ((2.0 + 6.25 + 6.0) / 3, "mean of 4 runs with 3 seeds")


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
    assert ("noise", f"0.0200 standard deviation of one trial's eval/loss, from {noise.source}") in best_lines(snapshot)
    assert best_lines(snapshot)[0] == (
        "best", "trials 0000, 0001, 0002, eval/loss 2.0200 +- 0.012 standard error (mean of 3 seeds)")
    assert claims(analyse(snapshot))["best"]["params"] == {"lr": 1}, "three seeds have no seed"


REPEATED = {
    "seeds": ([(1, 0, 2.0), (1, 1, 2.8), (2, 0, 2.3), (1, 2, 2.7)], "0002", ["0002", "0000", "0003", "0001"],
              "trial 0002, eval/loss 2.3000", "Lowest is trial 0002 with eval/loss 2.300"),
    "no seed": ([(1, None, 2.4), (1, None, 2.0), (2, None, 2.3), (1, None, 2.2)], "0001",
                ["0001", "0003", "0000", "0002"],
                "trials 0000, 0001, 0003, eval/loss 2.2000 (mean of 3 runs with 1 seed)",
                "Lowest are trials 0000, 0001 and 0003 (mean of 3 runs with 1 seed) with eval/loss 2.200"),
    "one seed, one computation": ([(1, 7, 2.4), (1, 7, 2.4), (2, 7, 2.3)], "0002", ["0002", "0000", "0001"],
                                  "trial 0002, eval/loss 2.3000", "Lowest is trial 0002 with eval/loss 2.300"),
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_best_of_repeated_runs_is_one_and_the_same_wherever_a_study_is_told(tmp_path, name):
    runs, best, order, line, sentence = REPEATED[name]
    directory = write_study(tmp_path / "s", [
        Made(params={"lr": lr} | ({} if seed is None else {"seed": seed}), value=value) for lr, seed, value in runs])
    snapshot = read_study(directory)
    analysis = analyse(snapshot)
    assert snapshot.best.trial.id == analysis.best.id == best
    assert [record.trial.id for record in snapshot.ranked] == [row.id for row in analysis.ranked] == order
    assert [record.trial.id for record in ranked(snapshot)] == order
    assert next(row for row in trial_table(snapshot, width=80).splitlines() if " *" in row).startswith(best)
    assert best_lines(snapshot)[0][1].partition(" +-")[0] == line
    assert sentence in winner(analysis)
    claimed = claims(analysis)["best"]
    assert best in claimed["trials"]
    assert f"eval/loss {claimed['value']:.4f}" in line


def test_a_best_trial_that_lacks_a_hyperparameter_of_later_ones_is_shown(tmp_path):
    trials = [Made(params={"x": 0.5} if i == 0 else {"x": i, "lora_r": 8 * (i % 2 + 1)}, value=2 + i) for i in range(9)]
    directory = write_study(tmp_path / "study", trials, parameters={"x": {"min": 0.0, "max": 9.0},
                                                                    "lora_r": {"values": [8, 16]}})
    assert ("", "x 0.5") in best_lines(read_study(directory))
    assert "Trial 0000 won" in winner(analyse(read_study(directory)))


@pytest.mark.parametrize(("values", "baseline", "line", "cells"), [
    ((1.2e-12, 3.4e-12), 4.8e-12, "eval/loss 1.2000e-12; the untouched base has 4.8000e-12 (-75.0%)",
     ["1.2000e-12", "3.4000e-12"]),
    ((1e140, 2.5), 2.0, "eval/loss 2.5000; the untouched base has 2.0000 (+25.0%)", ["2.5000", "1.0000e+140"]),
    ((3e140, 2e140), 1e-3, "eval/loss 2.0000e+140; the untouched base has 0.001000", ["2.0000e+140", "3.0000e+140"]),
    ((-2.0, -1.0), -1.0, "eval/loss -2.0000; the untouched base has -1.0000 (-100.0%)", ["-2.0000", "-1.0000"]),
    ((4.4151892662, 4.4302, 4.44, 4.4606, 1.1176e7), 8.0, "eval/loss 4.4152; the untouched base has 8.0000 (-44.8%)",
     ["4.4152", "4.4302", "4.4400", "4.4606", "1.1176e+07"]),
    ((0.0, 0.5), 0.0, "eval/loss 0.0000; the untouched base has 0.0000", ["0.0000", "0.5000"]),
])
def test_values_of_any_size_are_told_apart_in_a_line_of_the_terminal(tmp_path, values, baseline, line, cells):
    snapshot = read_study(write_study(tmp_path / "s", [
        Made(params={"lr": lr}, value=value) for lr, value in enumerate(values)], baseline=baseline))
    assert best_lines(snapshot)[0][1].partition(", ")[2] == line
    shown = trial_table(snapshot, width=80).splitlines()
    assert [row.split()[1] for row in shown if row.startswith("000")] == cells
    assert max(map(len, shown)) <= 80


def test_the_best_line_has_the_seeds_of_a_confirmation_and_the_noise_of_other_trials(tmp_path):
    swept = [Made(params={"lr": lr, "seed": 0}, value=value) for lr, value in ((1, 2.0), (2, 2.5))]
    directory = write_study(tmp_path / "s", swept)
    write_study(confirm_directory(directory), [
        Made(params={"lr": lr, "seed": seed}, value=value, origin=origin) for lr, seed, value, origin in (
            (1, 1, 2.1, "trial 0000"), (1, 2, 2.12, "trial 0000"), (2, 1, 2.6, "trial 0001"),
            (2, 2, 2.6, "trial 0001"))])
    assert best_lines(read_study(directory))[0] == (
        "best", "trial 0000, eval/loss 2.0733 +- 0.0058 standard error (mean of 3 seeds that chose it; what is chosen "
                "so comes to 2.1100)")
    other = write_study(tmp_path / "t", [Made(params={"lr": 1, "seed": 0}, value=1.0), *swept[1:],
                                         Made(params={"lr": 2, "seed": 1}, value=2.7)])
    assert best_lines(read_study(other))[0] == ("best", "trial 0000, eval/loss 1.0000 +- 0.14 standard error")


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
