"""What a report gives to be copied is read back by what reads sweep files."""

import math
import random

import pytest

from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.recipes import best_yaml, next_sweep_yaml
from kaggle_runner.study.journal import read_study
from kaggle_runner.sweep.distributions import Fixed, Range
from kaggle_runner.sweep.spec import read_sweep
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
    assert text.splitlines()[0] == (f"# keeps the trials of this study: python -m kaggle_runner sweep next.yaml "
                                    f"--study {tmp_path / 's'} --adopt")
    rate = read(tmp_path / "next.yaml", text).parameters["learning_rate"]
    assert rate.lowest == pytest.approx(1e-5)
    assert rate.highest == pytest.approx(3e-3)


def test_without_advice_there_is_no_next_sweep(tmp_path):
    assert next_sweep_yaml(study(tmp_path / "s", -4.0, count=3)) == ""
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
