import json
import math
import random
import re
import subprocess
import sys

import pytest

from kaggle_runner.cli.table import trial_table
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import Region, analyse
from kaggle_runner.report.analysis.claims import claims
from kaggle_runner.report.analysis.gap import Measure, before_gap
from kaggle_runner.report.files import summary_markdown
from kaggle_runner.report.maps import map_figures
from kaggle_runner.report.recipes import next_search
from kaggle_runner.report.sentences import region_text
from kaggle_runner.report.style import value_text
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.table import best_lines, format_value
from kaggle_runner.study.trial import Status
from tests.made_studies import LEARNING_RATE, Made, loss_curve, write_mixed_study, write_study


def analysis_of(directory):
    return analyse(read_study(directory))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return analysis_of(write_mixed_study(tmp_path_factory.mktemp("mixed") / "study", 40))


def test_only_complete_trials_are_ranked(mixed):
    assert {row.status for row in mixed.rows} == {"complete", "pruned", "failed", "infeasible", "running"}
    assert {row.status for row in mixed.ranked} == {"complete"}
    assert mixed.best == mixed.ranked[0]
    assert [row.value for row in mixed.ranked] == sorted(row.value for row in mixed.ranked)


def test_the_variable_that_made_the_values_is_the_only_one_that_matters(mixed):
    assert [share.name for share in mixed.shares if share.resolved] == ["learning_rate"]


def test_the_good_region_holds_the_known_optimum(mixed):
    region = next(region for region in mixed.regions if region.name == "learning_rate")
    assert region.low < 10**-3.5 < region.high
    assert region.high / region.low < 20
    assert region.count == len(mixed.complete) // 4


def write_two_effects(directory, count=40):
    """A valley of the learning rate with its bottom at 10^-3.5, and a weight decay that does harm."""
    generator = random.Random(0)
    trials = []
    for _ in range(count):
        rate, decay, rank = 10 ** generator.uniform(-5, -3), generator.uniform(0, 0.1), generator.choice([8, 16])
        value = 2.7 + 0.15 * (math.log10(rate) + 3.5) ** 2 + decay + generator.gauss(0, 0.004)
        trials.append(Made(params={"learning_rate": rate, "weight_decay": decay, "lora_r": rank}, value=value))
    return write_study(directory, trials, parameters={
        "learning_rate": LEARNING_RATE, "weight_decay": {"min": 0.0, "max": 0.1}, "lora_r": {"values": [8, 16]}})


def test_contours_show_only_hyperparameters_that_both_stand_out(mixed, tmp_path):
    assert mixed.contours == ()  # only the learning rate does
    contour, = analysis_of(write_two_effects(tmp_path / "s")).contours
    assert (contour.x.name, contour.y.name) == ("learning_rate", "weight_decay")
    bottom = contour.values[0]
    best = contour.x.value(contour.x_positions[bottom.index(min(bottom))])
    assert 10**-4 < best < 10**-3


def test_noise_cannot_fill_the_colours_of_a_contour(tmp_path):
    analysis = analysis_of(write_two_effects(tmp_path / "s"))
    surface = next(figure for figure in map_figures(analysis) if figure.key == "contour-0").traces[0]
    assert surface["zmax"] - surface["zmin"] >= 4 * analysis.noise.upper


def test_rungs_say_who_survived(mixed):
    rung, = mixed.rungs
    pruned = {row.id for row in mixed.rows if row.status == "pruned"}
    assert rung.step == 20
    assert {trial_id for trial_id, _ in rung.cut} == pruned
    assert not pruned & {trial_id for trial_id, _ in rung.survivors}
    assert len(rung.survivors) == sum(row.status in ("complete", "running") for row in mixed.rows)


def test_progress_counts_the_time_of_every_trial_and_never_gets_worse(mixed):
    ended = [row for row in mixed.rows if row.status != "running"]
    assert mixed.progress[-1].hours == pytest.approx(sum(row.seconds for row in ended) / 3600)
    assert mixed.progress[-1].best == mixed.best.value
    bests = [step.best for step in mixed.progress]
    assert bests == sorted(bests, reverse=True)


def test_a_prediction_stands_beside_the_measured_peak(mixed):
    row = mixed.rows[0]
    assert row.predicted_bytes == 560 * 2**20 == sum(row.predicted_parts.values())
    assert 500 * 2**20 <= row.peak_bytes < 600 * 2**20


def test_noise_of_repeated_seeds_says_which_configurations_share_first_place(tmp_path):
    trials = [Made(params={"x": 1, "seed": seed}, value=value) for seed, value in enumerate([2.00, 2.02, 2.04])]
    trials += [Made(params={"x": 2, "seed": 0}, value=2.09), Made(params={"x": 3, "seed": 0}, value=2.9)]
    analysis = analysis_of(write_study(tmp_path / "s", trials))

    assert analysis.noise.deviation == pytest.approx(0.02)
    assert 0.1 < analysis.first.distance < 0.25  # the range of three with two degrees of freedom, 8.3 times 0.02 at 5 %
    assert analysis.first.trial_ids == ("0000", "0001", "0002", "0003")
    assert [one.mean for one in analysis.first.ranked] == pytest.approx([2.02, 2.09, 2.9])
    assert analysis.repeats[0].trial_ids == ("0000", "0001", "0002")


def write_cliff(directory, count=40, cut=1e-4):
    """Above some learning rate all diverge, to the loss of a model that guesses; below it they differ by 0.01."""
    generator, trials = random.Random(3), []
    for _ in range(count):
        rate = 10 ** generator.uniform(-5, -3)
        value = 2.5 + generator.gauss(0, 0.01) if rate < cut else 10.4 + generator.gauss(0, 0.05)
        trials.append(Made(params={"learning_rate": rate, "lora_r": generator.choice([4, 8, 16])}, value=value))
    return write_study(directory, trials, parameters={"learning_rate": LEARNING_RATE, "lora_r": {"values": [4, 8, 16]}})


@pytest.mark.parametrize("count", [12, 20, 40])
@pytest.mark.parametrize("cut", [5e-5, 1e-4, 3e-4])
def test_what_diverged_does_not_share_first_place_and_is_no_noise(tmp_path, count, cut):
    """Wherever the cliff is, and though it is none of the places where an effect is looked for."""
    analysis = analysis_of(write_cliff(tmp_path / "s", count, cut))
    value = {row.id: row.value for row in analysis.complete}
    assert max(value[trial] for trial in analysis.first.trial_ids) < 3
    assert analysis.noise is None or 0.004 < analysis.noise.deviation < 0.06
    assert analysis.noise is None or analysis.first.distance < 0.5


def test_what_diverged_is_told_also_where_the_others_differ_by_much(tmp_path):
    wrong = 0
    for seed in range(12):
        generator, trials = random.Random(seed), []
        for _ in range(40):
            rate = 10 ** generator.uniform(-5, -3)
            value = 2.5 + 2 * (math.log10(rate) + 4.3) ** 2 + generator.gauss(0, 0.01)
            trials.append(Made(params={"learning_rate": rate, "lora_r": generator.choice([4, 8, 16])},
                               value=value if rate < 2e-4 else 6 + generator.gauss(0, 0.5)))
        analysis = analysis_of(write_study(tmp_path / str(seed), trials, parameters={
            "learning_rate": LEARNING_RATE, "lora_r": {"values": [4, 8, 16]}}))
        rate = {row.id: row.params["learning_rate"] for row in analysis.rows}
        wrong += max(rate[trial] for trial in analysis.first.trial_ids) > 2e-4 or analysis.noise.deviation > 0.03
    assert wrong <= 1


def test_it_is_said_how_many_are_no_noise(tmp_path):
    analysis = analysis_of(write_cliff(tmp_path / "s"))
    diverged = sum(row.value > 5 for row in analysis.complete)
    assert 10 < diverged < 30
    assert f"scatter of {40 - diverged} configurations" in say.noise(analysis)
    assert f"; {diverged} beyond a wide gap are left out)" in say.noise(analysis)
    few = analysis_of(write_cliff(tmp_path / "few", 12, 5e-5))
    left = sum(row.value < 5 for row in few.complete)
    assert 3 <= left < 8
    assert f"Which of the best {left} of 12 complete configurations comes first is not known" in say.winner(few)
    assert f"{left} complete configurations before a wide gap cannot give an estimate" in say.noise(few)


@pytest.mark.parametrize("values", [
    [0.5] * 6 + [0.375] * 3 + [0.25], [0.5] * 5 + [0.0] * 5, [0.1 + 0.2, 0.3, 0.1 + 0.2, 0.3, 0.9, 1.0],
    [2.5, 2.51, 2.52, 2.53, 2.54, 2.55, 2.56, 4.0]])
def test_a_coarse_metric_and_one_that_lies_far_off_are_no_gap(tmp_path, values):
    trials = [Made(params={"x": place}, value=value) for place, value in enumerate(values)]
    assert analysis_of(write_study(tmp_path / "s", trials)).first.apart == 0


def test_the_distance_that_counts_grows_with_the_configurations(tmp_path):
    def distance(count):
        trials = [Made(params={"x": 0, "seed": seed}, value=value) for seed, value in enumerate([2.0, 2.02, 2.04] * 4)]
        trials += [Made(params={"x": i, "seed": 0}, value=3.0 + i) for i in range(1, count)]
        return analysis_of(write_study(tmp_path / str(count), trials)).first.distance

    two, ten, hundred = distance(2), distance(10), distance(100)
    assert two < ten < hundred
    assert ten / hundred == pytest.approx(0.72, abs=0.08)  # studentized ranges of 12 degrees of freedom: 5.4 and 7.6


def test_repeated_seeds_are_one_configuration_with_a_mean(tmp_path):
    """The lucky seed of a configuration that is worse on average does not make it the best."""
    trials = [Made(params={"x": 1, "seed": seed}, value=value) for seed, value in enumerate([2.0, 2.6, 2.6])]
    trials += [Made(params={"x": 2, "seed": seed}, value=2.2 + seed / 100) for seed in range(3)]
    analysis = analysis_of(write_study(tmp_path / "s", trials))

    assert analysis.best.id == "0003"
    assert "trials 0003, 0004 and 0005 (mean of 3 seeds)" in say.winner(analysis)
    assert "Confirm trials 0003 and 0000 with two more seeds each" in " ".join(next_search(analysis))


def test_one_trial_has_won_nothing(tmp_path):
    analysis = analysis_of(write_study(tmp_path / "s", [Made(params={"x": 1}, value=2.0)], baseline=3.0))
    assert "won" not in say.winner(analysis)
    assert "No other configuration is complete" in say.winner(analysis)


def test_the_claims_have_the_keys_that_others_read(tmp_path, mixed):
    told = claims(mixed)
    assert told.keys() == {"first_place", "noise", "importance", "best", "baseline"}
    assert told["first_place"] == list(mixed.first.trial_ids)
    assert told["noise"].keys() == {"value", "upper", "source"}
    assert told["noise"]["value"] < told["noise"]["upper"]
    assert told["importance"]["learning_rate"] == {"share": pytest.approx(0.99, abs=0.02), "resolved": True}
    assert (told["best"]["trials"], told["baseline"]) == ([mixed.best.id], 3.3)
    empty = claims(analysis_of(write_study(tmp_path / "s", [])))
    assert (empty["first_place"], empty["noise"]["upper"], empty["best"], empty["importance"]) == ([], None, None, {})


def test_seeds_of_a_confirmation_inside_the_study_are_the_noise_of_its_trials(tmp_path):
    directory = write_mixed_study(tmp_path / "s", 40)
    confirm = [Made(params={"x": x, "seed": seed}, value=x + value)
               for x in (1, 2) for seed, value in enumerate([2.00, 2.02, 2.04])]
    write_study(directory / "confirmation", confirm)
    analysis = analysis_of(directory)

    assert analysis.noise.deviation == pytest.approx(0.02)
    assert analysis.noise.source == "2 configurations confirmed with several seeds, 6 trials"
    assert analysis.repeats[0].trial_ids == ("random with seed 0", "random with seed 1", "random with seed 2")


def test_a_confirmation_by_another_metric_says_nothing_of_the_noise(tmp_path):
    directory = write_mixed_study(tmp_path / "s", 10)
    write_study(directory / "confirmation", [Made(params={"seed": seed}, value=0.5 + seed) for seed in (0, 1)],
                metric="accuracy", goal="maximize")
    assert (analysis_of(directory).repeats, analysis_of(directory).noise) == ((), None)


def test_without_repeats_the_noise_is_a_models_estimate_and_says_so(mixed):
    assert 0.002 < mixed.noise.deviation < 0.012  # made with 0.004
    assert mixed.noise.upper > 0.004
    assert "around the effect of learning_rate" in mixed.noise.source


def test_a_few_trials_give_no_noise_and_no_importance_but_a_reason(tmp_path):
    trials = [Made(params={"learning_rate": 10.0**-i}, value=float(i)) for i in (3, 4, 5)]
    analysis = analysis_of(write_study(tmp_path / "s", trials, parameters={"learning_rate": LEARNING_RATE}))

    assert analysis.noise is None
    assert analysis.shares == ()
    assert analysis.shares_problem == ("3 complete configurations are too few to say which hyperparameter mattered; "
                                       "6 are the least")


def test_the_best_on_the_boundary_is_noted(tmp_path):
    trials = [Made(params={"learning_rate": rate}, value=value) for rate, value in ((1e-3, 2.0), (1e-4, 2.5))]
    analysis = analysis_of(write_study(tmp_path / "s", trials, parameters={"learning_rate": LEARNING_RATE}))

    limit, = analysis.boundaries
    assert (limit.name, limit.side, limit.limit) == ("learning_rate", "highest", 1e-3)


def test_where_high_is_good_the_highest_is_best(tmp_path):
    trials = [Made(params={"x": i}, value=value) for i, value in enumerate([0.5, 0.9, 0.7])]
    analysis = analysis_of(write_study(tmp_path / "s", trials, goal="maximize", metric="accuracy"))

    assert analysis.best.id == "0001"
    assert [row.id for row in analysis.ranked] == ["0001", "0002", "0000"]
    assert [step.best for step in analysis.progress] == [0.5, 0.9, 0.9]


def test_a_pruned_trial_with_the_lowest_value_does_not_win(tmp_path):
    trials = [Made(value=1.0, status=Status.PRUNED, curve=loss_curve(1.0)), Made(value=2.0, curve=loss_curve(2.0))]
    analysis = analysis_of(write_study(tmp_path / "s", trials))

    assert analysis.best.id == "0001"
    assert [step.best for step in analysis.progress] == [2.0]


def test_equal_values_and_equal_parameters_say_so(tmp_path):
    equal = analysis_of(write_study(tmp_path / "a", [Made(params={"x": i}, value=1.0) for i in range(8)]))
    same = analysis_of(write_study(tmp_path / "b", [Made(params={"x": 1}, value=float(i)) for i in range(8)]))

    assert equal.shares_problem == "all 8 complete configurations have the same value, so nothing can matter"
    assert same.shares_problem.startswith("1 complete configuration is too few to say which hyperparameter mattered")


def test_the_same_study_gives_the_same_numbers(tmp_path):
    directory = write_mixed_study(tmp_path / "s", 20)
    assert analysis_of(directory) == analysis_of(directory)


def test_the_command_prints_the_claims_and_writes_nothing(tmp_path):
    directory = write_study(tmp_path / "s", [Made(params={"x": i}, value=2.0 + i) for i in range(3)], baseline=4.0)
    before = sorted(path.name for path in directory.iterdir())

    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "report", str(directory), "--json"],
                          capture_output=True, text=True, timeout=250, check=True)

    assert json.loads(done.stdout) == claims(analysis_of(directory))
    assert sorted(path.name for path in directory.iterdir()) == before


def test_no_two_values_look_alike_in_parallel_coordinates(tmp_path):
    modules = ["q_proj,k_proj,v_proj", "q_proj,v_proj", "q_proj,o_proj,v_proj"]
    trials = [Made(params={"modules": modules[i % 3], "lora_r": i}, value=2.0 + i) for i in range(6)]
    analysis = analysis_of(write_study(tmp_path / "s", trials, parameters={
        "modules": {"values": modules}, "lora_r": {"min": 0, "max": 5}}))
    figure = next(figure for figure in map_figures(analysis) if figure.key == "parallel")
    axis = figure.layout["xaxis"]["ticktext"].index("modules")
    shown = {label["text"] for label in figure.layout["annotations"] if label["x"] == axis}
    assert len(shown) == 3
    assert max(map(len, shown)) < len(modules[0])


@pytest.mark.parametrize(("trials", "line", "source"), [
    ([], "none: no trial has begun", "no configuration is complete"),
    ([Made(status=Status.FAILED), Made(status=Status.PRUNED, value=2.0)], "none: no trial is complete",
     "no configuration is complete"),
    ([Made(), Made(params={"lr": 2})], "none: 2 trials ended without a number for eval/loss",
     "no configuration is complete"),
    ([Made(params={"lr": lr}, value=2.5) for lr in range(12)],
     "none is better: all 12 configurations have eval/loss 2.5000",
     "no configuration was trained with a second seed, and the 12 complete configurations leave no scatter"),
])
def test_what_is_not_known_is_said_with_its_true_reason(tmp_path, trials, line, source):
    snapshot = read_study(write_study(tmp_path / "s", trials))
    assert best_lines(snapshot)[0] == ("best", line)
    assert claims(analyse(snapshot))["noise"]["source"].startswith(f"not known: {source}")


ODD_VALUES = {"plain": "plain", "two\nlines": r"two\nlines", "a\tb": r"a\tb", " blank": "' blank'", "": "''",
              "none": "'none'", "True": "'True'", "1": "'1'", "1e-5": "'1e-5'", "q_proj": "q_proj", "日本語": "日本語",
              "\u202eabc": r"\u202eabc"}


def test_no_two_values_of_different_kinds_look_alike_and_none_leaves_its_line(tmp_path):
    values = [*ODD_VALUES, None, True, 1, 1e-5]
    snapshot = read_study(write_study(tmp_path / "s", [
        Made(params={"x": value}, value=2.0 + number) for number, value in enumerate(values)],
        parameters={"x": {"values": values}}))
    for write in (value_text, format_value):
        assert [write(value) for value in ODD_VALUES] == list(ODD_VALUES.values())
        assert len({write(value) for value in values}) == len(values)
        assert [write(value) for value in (None, True, False)] == ["none", "true", "false"], "in every place one word"
    lines = trial_table(snapshot, width=80).splitlines()
    assert sum(line.startswith("00") for line in lines) == len(values)
    assert sum(line.startswith("| 00") and line.endswith(" |") for line in summary_markdown(
        analyse(snapshot)).splitlines()) == 15


@pytest.mark.parametrize(("low", "high", "said"), [
    (7.02e-5, 1.285e-4, "7e-5 and 1.3e-4"), (7.08e-5, 1.21e-4, "7e-5 and 1.3e-4"), (2e-4, 3e-4, "2e-4 and 3e-4"),
    (0.0461, 0.3049, "0.046 and 0.31"), (-0.128, -0.121, "-0.13 and -0.12"), (0.0, 9.96, "0 and 10")])
def test_where_the_best_lie_holds_each_of_them(low, high, said):
    assert region_text(Region(name="x", count=3, low=low, high=high)) == f"lie between {said}"


@pytest.mark.parametrize(("low", "high", "said"), [
    (0.91, 0.9987, "0.91 and 0.999"), (0.9, 0.96, "0.9 and 0.96"), (0.9047, 0.906, "0.9 and 0.91")])
def test_where_the_best_lie_is_never_said_past_the_end_of_the_range(low, high, said):
    assert region_text(Region(name="x", count=3, low=low, high=high, ends=(0.9, 0.999))) == f"lie between {said}"


def test_without_a_complete_configuration_not_one_but_all_are_missing(tmp_path):
    analysis = analysis_of(write_study(tmp_path / "s", [Made(params={"x": i}, status=Status.FAILED) for i in (1, 2)],
                                       parameters={"x": {"values": [1, 2]}}))
    assert say.importance(analysis) == ("No complete configurations are too few to say which hyperparameter mattered; "
                                        "6 are the least.")


@pytest.mark.parametrize(("counts", "said"), [
    ((3,), "4 only"), ((1, 1, 1), "4, 8 and 16"), ((2, 1, 1), "4 most often, then 8 and 16"),
    ((2, 2, 1), "4 and 8 most often, then 16")])
def test_a_value_is_the_most_frequent_only_where_it_is(counts, said):
    region = Region(name="lora_r", count=sum(counts), values=(4, 8, 16)[:len(counts)], counts=counts)
    assert region_text(region) == f"have {said}"


def test_nothing_is_marked_as_the_best_where_all_are_equal(tmp_path):
    level, led = (read_study(write_study(tmp_path / name, [
        Made(params={"x": i}, value=value) for i, value in enumerate([*[2.5] * 8, last])], parameters={
            "x": {"min": 0, "max": 8}}, baseline=2.5)) for name, last in (("level", 2.5), ("led", 2.4)))
    assert "*" not in trial_table(level, width=80)
    assert best_lines(level) == [("best", "none is better: all 9 configurations have eval/loss 2.5000; the untouched "
                                          "base has 2.5000")]
    assert say.winner(analyse(level)).endswith("none of them is better.")
    assert "2.4000 *" in trial_table(led, width=80)
    assert best_lines(led)[0][1].startswith("trial 0008, eval/loss 2.4000")


SCORED = {"metric": "eval/exact_match", "goal": "maximize"}


@pytest.mark.parametrize(("losses", "leader"), [((2.6, 2.5, 2.7), "0001"), ((2.5, 2.5, 2.7), "0000"), ((2.5,) * 3, ""),
                                                ((), "")])
def test_of_equal_shares_the_loss_says_which_comes_first_and_all_say_the_same(tmp_path, losses, leader):
    """A score of rows is often the same; without a loss that differs none of them is better."""
    trials = [Made(params={"learning_rate": 1e-4 * (i + 1)}, value=0.25,
                   metrics={"eval/loss": losses[i]} if losses else {}) for i in range(3)]
    snapshot = read_study(write_study(tmp_path / "s", trials, parameters={"learning_rate": LEARNING_RATE}, **SCORED))
    told, table, line = say.winner(analyse(snapshot)), trial_table(snapshot, width=80), best_lines(snapshot)[0][1]
    assert "All 3 complete configurations have eval/exact_match 0.25: none of them is better." in told
    assert say.agreement(analyse(snapshot)) == ""
    behind = sum(loss > min(losses) for loss in losses)
    by_loss = f" By its loss, 2.5000, trial {leader} goes before {behind} other{'s' * (behind > 1)} with that value."
    assert told.endswith(by_loss if leader else "is better.")
    assert ("*" in table) == bool(leader)
    assert line.startswith(f"trial {leader}, eval/exact_match 0.25" if leader else "none is better: all 3")


def test_the_best_value_came_with_the_first_that_has_it_whatever_its_loss(tmp_path):
    scores, losses = (0.25, 0.5, 0.25, 0.5), (2.9, 2.8, 2.7, 2.6)
    analysis = analyse(read_study(write_study(tmp_path / "s", [
        Made(params={"learning_rate": 1e-4 * (i + 1)}, value=score, metrics={"eval/loss": losses[i]})
        for i, score in enumerate(scores)], parameters={"learning_rate": LEARNING_RATE}, **SCORED)))
    assert analysis.best is not None
    assert analysis.best.id == "0003"
    assert say.progress(analysis).startswith("The best value came with trial number 2 of 4; of the 2 trials after it")
    assert say.hours(analysis).startswith("The best value was there after 20 s of 40 s")
    assert say.winner(analysis).endswith("By its loss, 2.6000, trial 0003 goes before 1 other with that value.")


def first_of(directory, values, losses=(), base=None, base_loss=None, **how):
    """Return how many share first place of trials with these values; the sentences, `show` and the JSON agree on it."""
    generator = random.Random(0)
    write_study(directory, [
        Made(params={"learning_rate": 10 ** generator.uniform(-5, -3), "seed": 42}, value=value,
             metrics={"eval/loss": losses[i]} if losses else {}) for i, value in enumerate(values)],
        parameters={"learning_rate": LEARNING_RATE}, baseline=base,
        scores={} if base_loss is None else {"eval/loss": base_loss}, **how)
    analysis = analysis_of(directory)
    count, told = len(analysis.first.shared), say.winner(analysis)
    which, known = "both" if len(values) == 2 else f"{len(values)}", analysis.noise is not None
    everyone = {len(values): "shared by (all|both)" if known else f"Which of {which} complete", 1: "won with"}
    some = f"shared by {count} of {which} " if known else f"Which of the best {count} of {which} complete"
    assert re.search(everyone.get(count, some), told), told
    assert known or count == 1 or "first is not known yet, nor how much of their difference is chance. " in told
    assert len(claims(analysis)["first_place"]) == count
    return count


@pytest.mark.parametrize(("base", "base_loss"), [(0.0, 0.3), (0.0, None), (None, None)])
def test_who_learned_nothing_and_is_far_off_by_the_loss_does_not_share(tmp_path, base, base_loss):
    values, losses = (0.667, 0.667, 0.667, 0.0), (0.02, 0.021, 0.024, 0.31)
    assert first_of(tmp_path / "s", values, losses, base, base_loss, **SCORED) == 3
    assert first_of(tmp_path / "near", values, (0.02, 0.021, 0.024, 0.025), base, base_loss, **SCORED) == 4
    assert first_of(tmp_path / "none", values, base=base, **SCORED) == 4, "one row of three is no evidence"


@pytest.mark.parametrize("base", [0.0, None])
def test_many_that_learned_nothing_share_no_place_with_some_that_did(tmp_path, base):
    assert first_of(tmp_path / "s", [0.0] * 17 + [0.3, 0.35, 0.4], base=base, **SCORED) == 3
    assert first_of(tmp_path / "half", [0.0 if i % 2 else 0.3 + 0.01 * i for i in range(41)], base=base, **SCORED) == 21
    assert first_of(tmp_path / "rows", [0.0] * 18 + [0.005, 0.005], base=base, **SCORED) == 20, "one row of 200"


@pytest.mark.parametrize(("values", "base", "count"), [
    ((2.50, 2.51, 10.40, 10.45, 10.41), None, 2), ((2.50, 2.51, 2.52, 2.505, 2.515, 10.4), None, 5),
    ((2.50, 2.51, 10.40, 10.45, 10.41, 10.5, 10.43, 10.37), None, 2), ((2.50, 10.4, 10.41), 4.0, 1),
    ((2.50, 2.51, 2.52, 3.5), 3.4, 3), ((2.50, 2.51, 2.52, 3.5), None, 4), ((2.50, 2.51, 2.52, 2.53, 2.56), 2.53, 5),
    ((4.5, 4.6, 5.0, 5.1, 6.0), 4.0, 5), ((2.50, 10.4), 4.0, 2)])
def test_who_diverged_or_is_no_better_than_the_base_shares_no_place_where_a_wide_gap_says_so(
        tmp_path, values, base, count):
    assert first_of(tmp_path / "s", values, base=base) == count


def test_where_training_changes_nothing_the_base_makes_nobody_worse(tmp_path):
    generator, wrong = random.Random(1), 0
    for _ in range(500):
        values = sorted(generator.gauss(2.5, 0.01) for _ in range(generator.randint(3, 12)))
        measure = Measure(values=tuple(values), base=generator.gauss(2.5, 0.01))
        wrong += len(before_gap([measure], len(values))) < len(values)
    assert wrong <= 15


@pytest.mark.parametrize("size", [2.5, 1e6, -3e7, 1e-5])
def test_no_two_values_look_alike_in_the_terminal(tmp_path, size):
    values = [size * (1 + i * 1e-8) for i in range(10)]
    snapshot = read_study(write_study(tmp_path / "s", [
        Made(params={"x": i}, value=value) for i, value in enumerate(values)],
        parameters={"x": {"min": 0, "max": 9}}, baseline=2 * size))
    cells = [line.split()[1] for line in trial_table(snapshot, width=80).splitlines() if line.startswith("00")]
    assert len(set(cells)) == 10
    assert cells[0] in best_lines(snapshot)[0][1]


@pytest.mark.parametrize("count", [8, 10, 12, 16, 20])
def test_a_long_tail_is_no_gap_and_what_diverged_beside_it_is(count):
    generator, cut, told = random.Random(count), 0, 0
    for _ in range(300):
        values = sorted(generator.lognormvariate(0, 1) for _ in range(count))
        cut += len(before_gap([Measure(values=tuple(values))], count)) < count
        good = sorted(generator.gauss(2.5, 0.1) for _ in range(count - 2))
        diverged = sorted(generator.gauss(10.4, 0.5) for _ in range(2))
        told += len(before_gap([Measure(values=(*good, *diverged))], count)) == count - 2
    assert cut <= 30, "in at most one of ten the tail of a log-normal is called a gap"
    assert told >= 290


def test_of_a_score_the_number_of_rows_says_how_close_equal_values_lie(tmp_path):
    def first(name, values, rows):
        directory = write_study(tmp_path / name, [
            Made(params={"learning_rate": 1e-5 * (1 + 7 * i % 10)}, value=value) for i, value in enumerate(values)],
            parameters={"learning_rate": LEARNING_RATE}, baseline=0.0, **SCORED)
        if rows:
            with Study.open_for_writing(directory, name="made", metric="eval/exact_match", goal="maximize", seed=0,
                                        sweep=read_study(directory).info.sweep) as study:
                study.record_rows({"dataset": "rows", "sha256": "a", "rows": {
                    "read": 500, "train": 400, "validation": rows, "cut": 0, "duplicates": 0, "lost": {}}})
        return len(analysis_of(directory).first.shared)

    assert [first(f"three{rows}", (0.667, 0.667, 0.667, 0.0), rows) for rows in (0, 3, 48)] == [4, 4, 3]
    assert [first(f"one{rows}", (0.3, *[0.0] * 9), rows) for rows in (0, 48)] == [10, 1]
    assert first("two rows", (2 / 48, 1 / 48, *[0.0] * 8), 48) == 10


@pytest.mark.parametrize("chance", [0.01, 0.05, 0.5])
def test_scores_that_chance_alone_made_unequal_have_no_gap(chance):
    generator, cut = random.Random(0), 0
    for _ in range(300):
        count, base, *values = (sum(generator.random() < chance for _ in range(48)) / 48 for _ in range(10))
        values = sorted(-value for value in (count, *values))
        cut += len(before_gap([Measure(values=tuple(values), base=-base, is_share=True, rows=48)], 9)) < 9
    assert cut <= 15


@pytest.mark.parametrize(("good", "said"), [((2.50, 2.53), "The best 2 of 8 complete configurations lie between 1e-5"),
                                            ((2.50,), "The best of 8 complete configurations has 1e-5")])
def test_what_diverged_is_never_among_the_best_that_a_region_is_made_of(tmp_path, good, said):
    values = [*good, *(10.4 + 0.02 * (3 * i % 7) for i in range(8 - len(good)))]
    analysis = analyse(read_study(write_study(tmp_path / "s", [
        Made(params={"learning_rate": 1e-5 * 1.8 ** i}, value=value) for i, value in enumerate(values)],
        parameters={"learning_rate": LEARNING_RATE}, baseline=3.0)))
    assert say.axis(analysis, analysis.axes[0]).startswith(said)
    assert all(region.high < 2e-5 for region in analysis.regions)
