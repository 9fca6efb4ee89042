"""What a report gives to be copied is read back by what reads sweep files."""

import math
import random
import re

import pytest
import yaml

from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.recipes import best_yaml, next_search, next_sweep_yaml
from kaggle_runner.report.sentences import axis, importance, noise, winner
from kaggle_runner.run.confirm import open_confirmation
from kaggle_runner.run.fixed_trials import left_of
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.sweep.distributions import Fixed, Range
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.study_settings import Confirm
from tests.made_studies import Made, write_study

HEAD = "method: bayes\nmetric: {name: eval/loss, goal: minimize}\n"


def study(directory, optimum, count=24):
    """The loss falls towards an optimum of log10 learning rate; no other setting has an effect."""
    generator, trials = random.Random(0), []
    for _ in range(count):
        params = {"model": "demo", "learning_rate": 10 ** generator.uniform(-5, -3), "seed": 42,
                  "lora_r": generator.choice([8, 16]), "lora_dropout": 0.05}
        value = 2 + (math.log10(params["learning_rate"]) - optimum) ** 2
        trials.append(Made(params=params, value=value + generator.gauss(0, 0.01)))
    return analyse(read_study(write_study(directory, trials, parameters={
        "model": {"value": "demo"}, "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "lora_r": {"values": [8, 16]}, "lora_dropout": {"value": 0.05}})))


def read(path, text):
    path.write_text(text)
    return read_sweep(path)


def test_the_best_configuration_is_a_sweep_of_one(tmp_path):
    analysis = study(tmp_path / "s", -4.0)
    spec = read(tmp_path / "best.yaml", HEAD.replace("bayes", "grid") + best_yaml(analysis))
    assert {name: entry.value for name, entry in spec.parameters.items()} == analysis.first.ranked[0].params


def test_the_next_sweep_narrows_what_stands_out_and_fixes_what_does_not(tmp_path):
    analysis = study(tmp_path / "s", -4.0)
    spec = read(tmp_path / "next.yaml", next_sweep_yaml(analysis))

    rate = spec.parameters["learning_rate"]
    assert isinstance(rate, Range)
    assert 1e-5 < rate.lowest < 1e-4 < rate.highest < 1e-3
    assert spec.parameters["lora_r"] == Fixed(value=analysis.first.ranked[0].params["lora_r"])
    assert spec.parameters["lora_dropout"] == Fixed(value=0.05)


def test_the_next_sweep_moves_an_end_at_which_the_best_lies(tmp_path):
    text = next_sweep_yaml(study(tmp_path / "s", -2.5))
    assert text.splitlines()[0] == (f"# keeps 15 of the 24 trials of this study: python -m kaggle_runner sweep "
                                    f"next.yaml --study {tmp_path / 's'} --adopt")
    rate = read(tmp_path / "next.yaml", text).parameters["learning_rate"]
    assert rate.lowest == pytest.approx(1e-5)
    assert rate.highest == pytest.approx(3e-3)


def test_without_advice_there_is_no_next_sweep(tmp_path):
    assert next_sweep_yaml(study(tmp_path / "s", -4.0, count=0)) == ""
    assert best_yaml(study(tmp_path / "t", -4.0, count=0)) == ""


def test_the_circumstances_are_those_of_the_journal(tmp_path):
    trials = [Made(params={"model": "demo", "dataset": "rows", "samples": 2000, "seed": seed, "x": seed}, value=2.0,
                   curve=[(60, 2.0)]) for seed in (1, 2)]
    how = dict(analyse(read_study(write_study(tmp_path / "s", trials, gpus=["Tesla T4"], parameters={
        "model": {"value": "demo"}, "lora_r": {"value": 8}}))).how)
    assert how["model"] == "demo"
    assert how["training rows"] == "2,000"
    assert how["optimizer steps"] == "60"
    assert (how["search"], how["seed of the search"], how["seeds of trials"]) == ("random", "0", "1, 2")
    assert (how["host"], how["GPU"], how["fixed settings"]) == ("local", "Tesla T4", "lora_r 8")
    assert how["from"].endswith(" UTC")


ADVISED = {
    "two values of three": ({"values": [8, 16, 32]}, lambda g: g.choice([8, 16, 32]), lambda v: v == 32,
                            {"values": [8, 16]}),
    "one value of two": ({"values": ["a", "b"]}, lambda g: g.choice("ab"), lambda v: v != "b", {"value": "b"}),
    "with probabilities": ({"values": ["a", "b", "c"], "probabilities": [0.4, 0.3, 0.3]}, lambda g: g.choice("abc"),
                           lambda v: v == "b", {"values": ["a", "c"]}),
    "end of a list": ({"values": [2, 4, 8]}, lambda g: g.choice([2, 4, 8]), lambda v: -math.log2(v),
                      {"values": [2, 4, 8, 16]}),
    "steps": ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.05}, lambda g: round(g.random() * 20) / 20,
              lambda v: 4 * (v - 0.5) ** 2, None),
    "whole numbers": ({"min": 1, "max": 60}, lambda g: g.randint(1, 60), lambda v: (v / 60 - 0.5) ** 2 * 4, None),
    "exponents": ({"distribution": "log_uniform", "min": -12, "max": -4}, lambda g: math.exp(g.uniform(-12, -4)),
                  lambda v: (math.log(v) + 8) ** 2 / 9, None),
    "an end as an exponent": ({"distribution": "log_uniform", "min": -12, "max": -4}, lambda g: math.exp(
        g.uniform(-12, -4)), lambda v: -math.log(v), {"distribution": "log_uniform", "min": -12, "max": -2.9014}),
    "an end short of one": ({"min": 0.0, "max": 0.95}, lambda g: g.uniform(0, 0.95), lambda v: -v,
                            {"min": 0.0, "max": 0.975})}


@pytest.mark.parametrize("kind", ADVISED)
def test_every_advice_changes_the_next_sweep_which_is_read_and_none_changes_nothing(tmp_path, kind):
    entry, draw, cost, wanted = ADVISED[kind]
    name = "lora_dropout" if kind == "an end short of one" else "x"
    generator, trials = random.Random(1), []
    for _ in range(24):
        params = {name: draw(generator), "y": generator.random()} | ({"model": "demo"} if name != "x" else {})
        trials.append(Made(params=params, value=2 + cost(params[name]) + generator.gauss(0, 0.01)))
    if name != "x":
        for made in trials:
            made.params.pop("y")
    analysis = analyse(read_study(write_study(tmp_path / "s", trials, parameters={name: entry} | (
        {"y": {"min": 0.0, "max": 1.0}} if name == "x" else {}))))
    assert name in analysis.resolved
    named = [text for text in next_search(analysis) if re.match(rf"(Narrow|Widen) {name}\b", text)]
    text = next_sweep_yaml(analysis)
    new = yaml.safe_load(text)["parameters"][name]
    assert bool(named) == (new != entry), (named, new)
    assert "Widen" not in "".join(named) or kind.startswith(("end of", "an end")), named
    if wanted is not None:
        assert new == wanted
    else:
        read_range = {**entry, **{key: new[key] for key in ("min", "max")}}
        assert new == read_range, "its kind stays"
        assert new["min"] > entry["min"]
        assert new["max"] <= entry["max"]
    assert "probabilities" not in new


@pytest.mark.parametrize("status", [Status.COMPLETE, Status.FAILED])
def test_one_configuration_is_no_search_and_gets_no_advice_about_one(tmp_path, status):
    """As a final training, and whatever `train` made of a file."""
    made = Made(value=2.0, params={"lora_r": 8}, status=status, origin="final")
    folder = write_study(tmp_path / "mine-final", [made], parameters={"lora_r": {"value": 8}})
    analysis = analyse(read_study(folder))
    asked = f"; ask it something: python -m kaggle_runner try {folder}" if status is Status.COMPLETE else ""
    assert next_search(analysis) == (f"Nothing was searched here: it is one configuration{asked}.",)
    assert next_sweep_yaml(analysis) == ""
    assert importance(analysis) == "Every hyperparameter has one value here, so there is nothing to compare."


def test_values_that_are_all_among_the_best_are_no_advice(tmp_path):
    """Of two values one is much the better, yet the best trials have both."""
    trials = [Made(params={"r": "ab"[i % 2], "n": i}, value=2 + (i % 2 == 1 and i > 4) + i * 0.01) for i in range(24)]
    analysis = analyse(read_study(write_study(tmp_path / "s", trials, parameters={"r": {"values": ["a", "b"]}})))
    assert "r" in analysis.resolved
    assert [len(region.values) for region in analysis.regions if region.name == "r"] == [2]
    assert not [text for text in next_search(analysis) if "Narrow r" in text]


def test_what_is_widened_has_room_for_more_trials_and_what_shares_first_place_is_confirmed(tmp_path):
    trials = [Made(params={"x": i / 23}, value=3 - i / 23 + (i * 7 % 5) / 50) for i in range(24)]
    analysis = analyse(read_study(write_study(tmp_path / "s", trials, parameters={"x": {"min": 0.0, "max": 1.0}})))
    said, sweep = " ".join(next_search(analysis)), yaml.safe_load(next_sweep_yaml(analysis))
    assert "try 1.5 as the new end" in said
    assert sweep["parameters"]["x"]["max"] == 1.5
    assert sweep["run_cap"] > len(trials), "with the trials that stay it would have nothing to do"
    top = int(re.search(r"Confirm the best (\d) of the next sweep with two more seeds each", said)[1])
    assert sweep["confirm"] == {"top": top, "seeds": 2}


EQUAL = {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
         "lora_r": {"values": [4, 8, 16]}, "model": {"value": "demo"}, "max_steps": {"value": 60}}


def write_rivals(directory, values):
    """Trials whose hyperparameters have no effect, the first one at an end of a list."""
    return write_study(directory, [
        Made(params={"learning_rate": 1e-5 * 1.6 ** (i * 5 % 9) * (1 + i / 1000), "lora_r": (4, 8, 16)[i % 3],
                     "seed": 42, "max_steps": 60, "model": "demo"}, value=value)
        for i, value in enumerate(values)], parameters=EQUAL)


def confirm_as(directory, text, value):
    """Train what a sweep file's confirmation lacks, and return what that was."""
    confirm = Confirm(**yaml.safe_load(text)["confirm"])
    said = []
    with open_confirmation(read_study(directory), confirm, said.append) as opened:
        study, trials = opened
        left = left_of(study.snapshot(), trials)
        for trial in left:
            study.record_start(trial, trial.params)
            study.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=value(trial)))
    return left


def test_what_is_advised_to_be_confirmed_is_what_the_file_trains_and_after_it_no_more(tmp_path):
    generator = random.Random(5)
    names, rounds = [f"rows{i}.jsonl" for i in range(8)], 0
    directory = write_study(tmp_path / "s", [
        Made(params={"dataset": name, "seed": 42, "model": "demo"}, value=2.5 + generator.gauss(0, 0.01))
        for name in names], parameters={"dataset": {"values": names}, "model": {"value": "demo"}})
    while "confirm:" in (text := next_sweep_yaml(analyse(read_study(directory)))):
        said = next(text for text in next_search(analyse(read_study(directory))) if text.startswith("Confirm trial"))
        left = confirm_as(directory, text, lambda _: 2.5 + generator.gauss(0, 0.01))
        assert {trial.origin.split()[1] for trial in left} == set(re.findall(r"\d{4}", said))
        assert len(left) == 2 * len(re.findall(r"\d{4}", said))
        rounds += 1
        assert rounds < 8, "the advice loops"
    assert rounds >= 1
    said = " ".join(next_search(analyse(read_study(directory))))
    assert "Confirm" not in said
    assert "Take any of trials" in said


@pytest.mark.parametrize("seed", [5, 9])
def test_what_shares_first_place_is_confirmed_also_where_a_range_is_widened_with_it(tmp_path, seed):
    generator = random.Random(seed)
    directory, rounds = write_rivals(tmp_path / "s", [2.5 + generator.gauss(0, 0.01) for _ in range(8)]), 0
    while "confirm:" in (text := next_sweep_yaml(analyse(read_study(directory)))):
        said = " ".join(next_search(analyse(read_study(directory))))
        assert "Widen" in said
        assert text.startswith("# keeps the trials of this study")
        assert f"Confirm the best {yaml.safe_load(text)['confirm']['top']} of the next sweep with" in said
        assert confirm_as(directory, text, lambda _: 2.5 + generator.gauss(0, 0.01)), "nothing is left to train"
        rounds += 1
        assert rounds < 8, "the advice loops"
    assert rounds == 3, "three of the eight at a time"


def test_a_configuration_that_was_run_twice_with_one_seed_is_found_again(tmp_path):
    directory = write_study(tmp_path / "s", [
        Made(params={"lora_r": rank, "seed": 42, "model": "demo"}, value=value)
        for rank, value in ((4, 2.50), (8, 2.51), (4, 2.49), (8, 2.505), (16, 2.515))], parameters={
            "lora_r": {"values": [4, 8, 16]}, "model": {"value": "demo"}})
    text = next_sweep_yaml(analyse(read_study(directory)))
    assert yaml.safe_load(text)["confirm"] == {"top": 3, "seeds": 2}
    assert len(confirm_as(directory, text, lambda trial: 2.5 + trial.params["seed"] % 7 / 1000)) == 6


def confirmed_study(directory, further):
    """Eight trials, each 0.02 worse than the one before, the first of which met seeds 43 and 44: None failed."""
    params = [{"learning_rate": 1e-4 * (i + 1), "lora_r": (4, 8, 16)[i % 3], "seed": 42} for i in range(8)]
    entries = {"learning_rate": {"min": 1e-5, "max": 1e-3}, "lora_r": {"values": [4, 8, 16]}}
    write_study(directory, [Made(params=one, value=2.5 + 0.02 * i) for i, one in enumerate(params)], parameters=entries)
    write_study(directory / "confirmation", [
        Made(params={**params[i], "seed": 43 + at}, value=value, origin=f"trial {i:04d}",
             status=Status.FAILED if value is None else Status.COMPLETE, reason="" if value else "loss is nan")
        for i, values in enumerate(further) for at, value in enumerate(values)], parameters=entries)
    return analyse(read_study(directory))


def test_what_failed_with_another_seed_is_not_among_the_best_and_no_advice(tmp_path):
    analysis = confirmed_study(tmp_path / "s", [(2.522, None), (2.531, 2.529), (2.543, 2.537)])
    assert analysis.first.trial_ids == ("0001",)
    said = winner(analysis)
    assert "won with eval/loss 2.5267 (mean of 3 seeds that chose it; what is chosen so comes to 2.5300)" in said
    assert "ahead of trial 0002 (mean of 3 seeds)" in said
    assert said.endswith(" With another seed trial 0000 failed: loss is nan, so it is not among the best.")
    assert not any(advice.startswith("Confirm") for advice in next_search(analysis))


def test_the_noise_that_a_distance_is_made_of_is_stated_with_it(tmp_path):
    diverged = confirmed_study(tmp_path / "d", [(10.4, 2.522), (2.531, 2.529), (2.543, 2.537)])
    said = noise(diverged)
    assert re.match(r"One trial's eval/loss scatters by about 3\.2 and at most 14 \(.*\)\. Few seeds tell little of "
                    r"it: by how 8 configurations scatter around the effect of learning_rate it is about 0\.0\d+ and "
                    r"at most 0\.0\d+, so of 8 configurations one is known to be worse if it lies 0\.0", said), said
    alike = confirmed_study(tmp_path / "a", [(2.522, 2.518), (2.531, 2.529), (2.543, 2.537)])
    assert alike.first.told_by is None
    assert "Few seeds" not in noise(alike)


def test_one_complete_configuration_is_not_advised_to_be_confirmed_against_nothing(tmp_path):
    analysis = analyse(read_study(write_rivals(tmp_path / "s", [2.5])))
    assert next_search(analysis)[0].startswith("Run more trials")
    assert next_sweep_yaml(analysis) == ""


@pytest.mark.parametrize("count", [6, 9, 24])
def test_where_all_have_one_value_nothing_is_best_and_no_range_is_changed(tmp_path, count):
    analysis = analyse(read_study(write_rivals(tmp_path / "s", [0.0] * count)))
    assert (analysis.regions, analysis.boundaries) == ((), ())
    for one in analysis.axes:
        assert axis(one=one, analysis=analysis) == f"All {count} complete configurations have the same value."
    assert next_search(analysis) == ("Train longer, or measure what tells them apart: all have one eval/loss.",)
    assert next_sweep_yaml(analysis) == ""


def test_of_several_that_are_best_together_no_end_is_said_that_only_one_lies_at(tmp_path):
    assert not analyse(read_study(write_rivals(tmp_path / "s", [1.0, 1.0, *[2.0] * 7]))).boundaries
    level = analyse(read_study(write_rivals(tmp_path / "t", [1.0, *[2.0] * 8])))
    assert not level.regions, "the third best is as good as the last"
    assert [found.name for found in level.boundaries] == ["learning_rate", "lora_r"]


@pytest.mark.parametrize(("status", "kind", "advice"), [
    (Status.FAILED, "not_finite", "Trial 0000 and its like: the loss was no number: lower the highest learning_rate"),
    (Status.FAILED, "out_of_memory", "Trial 0000 and its like: a smaller model, max_length or batch_size"),
    (Status.INFEASIBLE, None, "Trial 0000 and its like: a smaller model, max_length or batch_size"),
    (Status.FAILED, "error", "Trial 0000 and its like: read the reason.")])
def test_where_every_trial_failed_the_advice_names_how_and_the_way_out(tmp_path, status, kind, advice):
    made = Made(params={"lora_r": 4}, status=status, notes={"kind": kind} if kind else {}, reason="loss is nan")
    analysis = analyse(read_study(write_study(tmp_path / "s", [made] * 4, parameters=EQUAL)))
    assert next_search(analysis)[0].startswith(advice)
    assert "Run more" not in " ".join(next_search(analysis))


def test_a_clear_winner_is_to_be_taken_and_not_to_be_searched_for(tmp_path):
    clear, shared = (analyse(read_study(write_study(tmp_path / name, [
        Made(params={"model": name, "seed": seed}, value=value + seed / 1000)
        for name, value in (("a", 2.5), ("b", other)) for seed in range(5)],
        parameters={"model": {"values": ["a", "b"]}}))) for name, other in (("clear", 3.5), ("shared", 2.5)))
    assert next_search(clear) == ("Take trials 0000, 0001, 0002 and 2 more (mean of 5 seeds): that is ahead by more "
                                  "than chance, and nothing here says where more would be found.",)
    assert not any("ahead by more" in advice for advice in next_search(shared))


@pytest.mark.parametrize("searched", [("target_modules", "learning_rate"), ("target_modules",),
                                      ("target_modules", "lora_r")])
def test_the_next_sweep_has_something_to_search_and_no_more_trials_than_points(tmp_path, searched):
    generator, entries = random.Random(0), {
        "target_modules": {"values": ["q_proj", "v_proj", "all-linear"]}, "lora_r": {"values": [8, 16]},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}}
    entries = {name: entries[name] for name in searched}
    trials = []
    for number in range(20):
        params = {"model": "demo", "seed": number, "target_modules": entries["target_modules"]["values"][number % 3],
                  "learning_rate": 10 ** generator.uniform(-5, -3), "lora_r": generator.choice([8, 16])}
        trials.append(Made(params={"model": "demo", "seed": 42} | {name: params[name] for name in searched},
                           value=2.5 + 0.1 * (number % 3) + generator.gauss(0, 0.01)))
    analysis = analyse(read_study(write_study(tmp_path / "s", trials, parameters={
        "model": {"value": "demo"}} | entries)))
    text, advice = next_sweep_yaml(analysis), " ".join(next_search(analysis))
    spec = read(tmp_path / "next.yaml", text)
    assert any(not isinstance(entry, Fixed) for entry in spec.parameters.values())
    assert spec.count is None or spec.run_cap is None or spec.run_cap <= spec.count
    for name in searched:
        fixed = isinstance(spec.parameters[name], Fixed)
        assert fixed == (f"Fix {name}" in advice or f"Narrow {name} to q_proj:" in advice)


@pytest.mark.parametrize(("goal", "base", "is_worse"), [("minimize", 2.0, True), ("minimize", 3.0, False),
                                                        ("maximize", 3.0, True), ("maximize", 2.0, False)])
def test_where_all_are_worse_than_the_untouched_base_the_first_advice_says_so(tmp_path, goal, base, is_worse):
    analysis = analyse(read_study(write_study(tmp_path / "s", [
        Made(params={"learning_rate": 1e-5 * (1 + 7 * i % 10)}, value=2.5 + 0.01 * i) for i in range(8)],
        parameters={"learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3}},
        metric="score", goal=goal, baseline=base)))
    advice = next_search(analysis)
    assert ("no configuration is as good as the untouched base" in advice[0]) == is_worse
    assert sum("untouched base" in one for one in advice) == is_worse
