"""One scoring for a study: what is held, and what is refused, with the ways out."""

import random
from pathlib import Path

import pytest

from kaggle_runner.errors import SweepError
from kaggle_runner.sweep.spec import SweepSpec, read_sweep


def read(tmp_path: Path, parameters: str, metrics: tuple[str, ...] = ("eval/loss",), head: str = "") -> SweepSpec:
    path = tmp_path / "x.yaml"
    path.write_text(f"method: random\n{head}parameters: {{{parameters}}}\n")
    return read_sweep(path, None, metrics)


@pytest.mark.parametrize(("parameters", "held"), [
    ("max_length: {values: [128, 512, 256]}", {"eval_max_length": 512}),
    ("max_length: {min: 64, max: 200}", {"eval_max_length": 200}),
    ("max_length: {distribution: q_uniform, min: 64, max: 200, q: 8}", {"eval_max_length": 200}),
    ("completion_only_loss: {values: [true, false]}", {"eval_completion_only_loss": False}),
    ("max_length: {values: [128, 256]}, eval_max_length: {value: null}", {"eval_max_length": 256}),
    ("max_length: {values: [128, 256]}, eval_max_length: {value: 64}", {}),
    ("max_length: {values: [128]}, learning_rate: {values: [0.1, 0.2]}", {}),
    ("samples: {values: [100, 200]}, seed: {values: [1, 2]}", {}),
])
def test_the_evaluation_is_held_at_the_most_that_is_searched(tmp_path, parameters, held):
    spec = read(tmp_path, parameters)
    assert dict(spec.held) == held
    assert sum("so every trial, and the untouched base, is scored with" in text for text in spec.warnings) == len(held)
    point = spec.sample(3)
    assert point.keys() == spec.parameters.keys()
    assert {name: point[name] for name in held} == held
    assert spec.contains(point)
    assert "eval_max_length" not in spec.raw["parameters"] or spec.raw["parameters"]["eval_max_length"]["value"] in (
        None, 64)


def test_what_is_held_changes_no_draw_of_the_others(tmp_path):
    with_it = read(tmp_path, "max_length: {values: [128, 256]}, lora_r: {values: [4, 8, 16]}, seed: {min: 1, max: 99}")
    for seed in range(20):
        point = with_it.sample(seed)
        assert point["lora_r"] == (4, 8, 16)[int(random.Random(seed).random() * 3)]  # first by name, as W&B draws


def test_a_grid_of_both_has_one_scoring(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("method: grid\nparameters: {completion_only_loss: {values: [true, false]}, "
                    "max_length: {values: [48, 96]}}\n")
    points = read_sweep(path).grid()
    assert len(points) == 4
    assert {(point["eval_max_length"], point["eval_completion_only_loss"]) for point in points} == {(96, False)}


@pytest.mark.parametrize(("parameters", "message"), [
    ("model: {values: [demo, a/b]}", r"parameters\.model: models cut text into tokens of their own, so eval/loss would "
                                     r"not rank trials that differ in it; give it one value and run a sweep for each, "
                                     r"or "),
    ("dataset: {values: [a.csv, b.csv]}", r"parameters\.dataset: decides which held-out rows are scored.* run a sweep "
                                          r"for each, or "),
    ("max_eval_samples: {values: [10, 20]}", r"parameters\.max_eval_samples: decides which held-out tokens are scored"),
    ("eval_share: {min: 0.1, max: 0.2}", r"parameters\.eval_share: decides which held-out tokens are scored, so "
                                         r"eval/loss would not rank trials that differ in it; give it one value"),
    ("max_length: {values: [64, 96]}, eval_max_length: {values: [64, 96]}", r"parameters\.eval_max_length: decides"),
    ("trainer: {value: charlm}, symbols: {values: [own, text8]}", r"parameters\.symbols: decides which held"),
    ("trainer: {value: charlm}, dataset: {values: [text8, python-docs]}", r"parameters\.dataset: decides which held"),
])
def test_a_sweep_that_would_rank_losses_of_different_tokens_is_refused(tmp_path, parameters, message):
    with pytest.raises(SweepError, match=message):
        read(tmp_path, parameters)


def test_all_of_it_is_said_at_once(tmp_path):
    with pytest.raises(SweepError, match=r"(?s)x\.yaml: 3 problems\n.*parameters\.dataset: .*"
                                         r"parameters\.max_eval_samples: .*parameters\.model: "):
        read(tmp_path, "model: {values: [demo, a/b]}, dataset: {values: [a.csv, b.csv]}, max_eval_samples: {values: "
                       "[50, 60]}")


def test_models_may_be_searched_where_the_metric_counts_bytes(tmp_path):
    metrics = ("eval/loss", "eval/bits_per_byte")
    spec = read(tmp_path, "model: {values: [demo, a/b]}", metrics,
                "metric: {name: eval/bits_per_byte, goal: minimize}\n")
    assert spec.metric == "eval/bits_per_byte"
    with pytest.raises(SweepError, match=r"run a sweep for each, or judge by metric: eval/bits_per_byte"):
        read(tmp_path, "model: {values: [demo, a/b]}", metrics)


@pytest.mark.parametrize(("parameters", "told"), [
    ("batch_size: {values: [2, 8]}", "parameters.batch_size: at the same max_steps 1500 a trial with 32 rows a step "
                                     "trains on 4 times the rows of one with 8; to compare at equal rows write "
                                     "num_train_epochs in place of max_steps"),
    ("gradient_accumulation_steps: {values: [4, 8]}, max_steps: {value: 10}",
     "parameters.gradient_accumulation_steps: at the same max_steps 10 a trial with 16 rows a step trains on 2 times"),
    ("batch_size: {values: [2, 8]}, num_train_epochs: {value: 1}", ""),
    ("batch_size: {values: [2]}, seed: {values: [1, 2]}", ""),
])
def test_batches_of_different_size_at_equal_steps_are_told_of(tmp_path, parameters, told):
    warnings = read(tmp_path, parameters).warnings
    assert [text[:len(told)] for text in warnings] == ([told] if told else [])


@pytest.mark.parametrize("parameters", ["max_steps: {value: 10}, num_train_epochs: {value: 1}",
                                        "max_steps: {values: [10, 20]}, num_train_epochs: {value: 1.5}",
                                        "max_steps: {value: 10}, num_train_epochs: {values: [1, 2]}"])
def test_a_trial_has_one_length(tmp_path, parameters):
    with pytest.raises(SweepError, match="max_steps and num_train_epochs are both given, and a trial has one length; "
                                         "leave one of them out"):
        read(tmp_path, parameters)
