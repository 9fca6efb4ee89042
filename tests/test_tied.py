"""Tied and nested parameters, and the keys of a sweep file that are ours."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.errors import SweepError
from kaggle_runner.run.points.propose import propose
from kaggle_runner.sweep.expressions import BadExpression, Tied
from kaggle_runner.sweep.nesting import flat_values
from kaggle_runner.sweep.spec import SweepSpec, read_sweep
from kaggle_runner.sweep.study_settings import Confirm, arrange, parse_confirm, usual_confirm

FILE = """
method: {method}
metric: {{name: eval/loss, goal: minimize}}
parameters:
  optimizer:
    parameters:
      learning_rate: {{distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-2}}
  lora_r: {{values: [8, 16, 32]}}
  lora_alpha: {{value: "{alpha}"}}
  batch_size: {{values: [2, 4, 8]}}
  gradient_accumulation_steps: {{value: "16 / batch_size"}}
{top}
"""


def read(tmp_path: Path, alpha: str = "2 * lora_r", top: str = "", method: str = "bayes") -> SweepSpec:
    path = tmp_path / "tied.yaml"
    path.write_text(FILE.format(alpha=alpha, top=top, method=method))
    return read_sweep(path)


@pytest.mark.parametrize(("text", "value"), [
    ("2 * r", 16), ("r - 2 - 1", 5), ("-(r + 1) * -2", 18), ("r / 2 / 2", 2), ("min(r, 3, x)", 0.5), ("max(r)", 8),
    ("1.5e1 + .5", 15.5), ("2 + 3 * r", 26), ("(2 + 3) * r", 40), ("r", 8), ("max(min(r, 4), 2 * x)", 4),
    ("+2 * r", 16), ("2 * adapter.r", 16)])
def test_an_expression_has_the_value_of_its_arithmetic(text: str, value: float) -> None:
    assert Tied.read(text, is_whole=False).value({"r": 8, "x": 0.5}) == pytest.approx(value)


def test_what_is_never_0_may_divide_and_a_name_that_is_nearly_one_is_asked_about(tmp_path: Path) -> None:
    assert read(tmp_path, "20 + 32 / (lora_r - 12)").typical()["lora_alpha"] == 12
    with pytest.raises(SweepError, match=r"divides by zero: what it divides by can be 0"):
        read(tmp_path, "20 + 32 / (lora_r - 16)")
    with pytest.raises(SweepError, match=r"names lora_rr, which is no parameter of this file; did you mean 'lora_r'"):
        read(tmp_path, "lora_rr")


def test_steps_that_follow_from_the_batch_are_no_oversight(tmp_path: Path) -> None:
    for steps, warned in (("100", True), ('"400 / batch_size"', False)):
        path = tmp_path / "s.yaml"
        path.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                        f"  batch_size: {{values: [2, 4]}}\n  max_steps: {{value: {steps}}}\n")
        assert any("to compare at equal rows" in warning for warning in read_sweep(path).warnings) is warned


def test_a_field_of_whole_numbers_gets_the_nearest_one() -> None:
    found = Tied.read("r / 3", is_whole=True).value({"r": 8})
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(("text", "said"), [
    ("2 *", "missing at its end"), ("r ** 2", r"missing before '\*'"), ("(r", "not closed"), ("r)", "not expected"),
    ("__import__('os')", "means nothing here"), ("open(r)", r"open\(...\) is not known"), ("min()", "missing before"),
    ("r.", "means nothing here"), ("r if r else 1", "'if' is not expected"), ("(" * 60 + "r" + ")" * 60, "50 deep"),
    ("lambda: r", "means nothing here"), ("[r]", "means nothing here"), ("+".join("r" * 3000), "more than 200 parts"),
    ("\u0663 * r", "means nothing here")])
def test_what_is_no_expression_is_said_and_never_run(text: str, said: str) -> None:
    with pytest.raises(BadExpression, match=said):
        Tied.read(text, is_whole=False)


def test_the_ends_of_an_expression_hold_all_that_it_can_be() -> None:
    spans = {"a": (-2.0, 3.0), "b": (1.0, 4.0)}
    for text in ("a * b - a", "a / b", "min(a, b) * max(a, b)", "-a + b / (b + 1)"):
        tied = Tied.read(text, is_whole=False)
        low, high = tied.span(spans)
        values = [tied.value({"a": -2 + i / 4, "b": 1 + j / 4}) for i in range(21) for j in range(13)]
        assert low <= min(values) <= max(values) <= high


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_every_trial_of_a_sweep_has_its_tied_values(method: str, tmp_path: Path) -> None:
    spec = read(tmp_path, method=method)
    for number in range(4):
        params = propose(spec, seed=0, number=number, past=[], defaults={"lora_r": 8}).params
        assert params["lora_alpha"] == 2 * params["lora_r"]
        assert params["gradient_accumulation_steps"] * params["batch_size"] == 16
        assert type(params["gradient_accumulation_steps"]) is int
        assert spec.contains(params)
        assert not spec.contains({**params, "lora_alpha": 7})


def test_equal_batches_of_tied_parts_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    assert read(tmp_path).warnings == ()


def test_parameters_that_are_tied_to_tied_ones_are_computed_after_them(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text("method: grid\nparameters: {weight_decay: {value: 'lora_alpha / 1000'}, lora_alpha: {value: "
                    "'lora_r + 1'}, lora_r: {values: [8, 16]}}\n")
    assert [point["weight_decay"] for point in read_sweep(path).grid()] == [0.009, 0.017]


@pytest.mark.parametrize(("alpha", "said"), [
    ("2 * lora_rr", r"names lora_rr, which is no parameter of this file; did you mean 'lora_r'\?"),
    ("2 * optimizer.lora_r", r"names optimizer.lora_r, which is no parameter of this file; write lora_r$"),
    ("lora_r * 1e3 * learning_rate.lora_r", r"names learning_rate.lora_r, which is no parameter of this file"),
    ("lora_r + learning.optimizer.learning_rate", r"this file; write optimizer.learning_rate$"),
    ("2 * max_length", r"names max_length, which is no parameter of this file; write max_length: value: ... beside"),
    ("lora_alpha + 1", r"goes in a circle, lora_alpha -> lora_alpha; give one of them a value"),
    ("1 / (lora_r - 16)", r"divides by zero: what it divides by can be 0; lora_r runs from 8 to 32"),
    ("lora_r / 0", r"divides by zero: what it divides by is 0"),
    ("2e308 * lora_r", r"can be too large for a number"),
    ("lora_r lora_r", r"'lora_r lora_r' is no expression: 'lora_r' is not expected there"),
    ("1 - lora_r", r"1 problem\n  parameters: lora_alpha 1 - lora_r: lora_alpha must be at least 1, got -7$"),
    ("20 - lora_r", r"1 problem\n  parameters: lora_r 32 with lora_alpha 20 - lora_r: lora_alpha must be at least 1"),
    ("auto", r"lora_alpha.value: must be a whole number, got 'auto'"),
])
def test_an_expression_that_cannot_work_is_refused_before_any_trial(alpha: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=said):
        read(tmp_path, alpha)


def test_what_is_rounded_to_0_divides_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "method: grid\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n  max_steps: {values: [2, 4, 8]}\n"
        "  eval_steps: {value: max_steps / 4}\n  samples: {value: 16 / eval_steps}\n")
    with pytest.raises(SweepError, match=r"samples\.value: '16 / eval_steps' cannot be used: it divides by zero: .* "
                                         r"can be 0; eval_steps runs from 0 to 2"):
        read_sweep(tmp_path / "s.yaml")


@pytest.mark.parametrize(("batch", "problems"), [
    ('{value: "hidden_size"}', []),
    ('{value: "hidden_size * 4"}', [r"batch_size hidden_size \* 4: max_tokens must be at least the 4096 of one step"]),
    ('{value: "hidden_size / 0"}', ["batch_size.value: 'hidden_size / 0' cannot be used: it divides by zero"]),
    ('{value: "hidden_sizes * 2"}', ["batch_size.value: 'hidden_sizes \\* 2' names hidden_sizes"]),
    ("{values: [x, 16]}", [r"batch_size.values\[0\]: must be a whole number"])])
def test_what_depends_on_a_tied_value_is_tried_with_it(batch: str, problems: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("method: random\nrun_cap: 1\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                    "  trainer: {value: charlm}\n  max_tokens: {value: 2560}\n  max_length: {value: 64}\n"
                    "  hidden_size: {value: 16}\n  num_attention_heads: {value: 2}\n"
                    f"  learning_rate: {{min: 0.001, max: 0.1}}\n  batch_size: {batch}\n")
    if not problems:
        assert read_sweep(path).with_tied({"hidden_size": 16})["batch_size"] == 16
        return
    with pytest.raises(SweepError, match=f"1 problem\n  parameters.{{1,2}}{problems[0]}"):
        read_sweep(path)


def test_what_decides_the_scored_tokens_follows_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scored.yaml"
    path.write_text("method: grid\nparameters: {lora_r: {values: [8, 16]}, max_length: {value: 'lora_r * 32'}}\n")
    with pytest.raises(SweepError, match=r"max_length.value: cannot follow from others, it decides which held-out"):
        read_sweep(path)


@pytest.mark.parametrize("path", ["lora_r", "deep.lora_r", "adapter.deep.lora_r"])
def test_a_name_may_say_what_it_lies_in(path: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("method: grid\nparameters: {lora_alpha: {value: '1.5 * " + path + "'}, adapter: "
                                     "{parameters: {deep: {parameters: {lora_r: {values: [8, 16]}}}}}}\n")
    assert [point["lora_alpha"] for point in read_sweep(tmp_path / "s.yaml").grid()] == [12, 24]


def test_a_circle_of_two_is_named(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text("method: grid\nparameters: {lora_r: {value: 'lora_alpha'}, lora_alpha: {value: 'lora_r'}}\n")
    with pytest.raises(SweepError, match="in a circle, lora_r -> lora_alpha -> lora_r"):
        read_sweep(path)


def test_nested_parameters_are_read_under_their_last_name_and_wandb_gets_them_as_they_are(tmp_path: Path) -> None:
    spec = read(tmp_path, top="sampler: optuna-tpe\nconfirm: {top: 2, seeds: 3}")
    assert "learning_rate" in spec.searched
    assert "learning_rate" in spec.for_wandb["parameters"]["optimizer"]["parameters"]
    assert spec.for_wandb["parameters"]["lora_alpha"] == {"value": "2 * lora_r"}
    assert not {"sampler", "confirm"} & spec.for_wandb.keys()
    run_config = {"optimizer": {"learning_rate": 1e-3}, "lora_r": 8, "lora_alpha": "2 * lora_r", "batch_size": 4,
                  "gradient_accumulation_steps": "16 / batch_size", "_wandb": {"lora_r": 99}}
    params = spec.with_tied(flat_values(run_config, spec.parameters))
    assert params == {"learning_rate": 1e-3, "lora_r": 8, "batch_size": 4, "lora_alpha": 16,
                      "gradient_accumulation_steps": 4}


def test_a_name_that_is_nested_and_plain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("method: grid\nparameters: {lora_r: {value: 8}, adapter: {parameters: {lora_r: {value: 16}}}}\n")
    with pytest.raises(SweepError, match=r"parameters.adapter.lora_r: lora_r is there twice"):
        read_sweep(path)


@pytest.mark.parametrize(("top", "said"), [
    ("sampler: gp", r"sampler: must be own, optuna-gp or optuna-tpe, got 'gp'"),
    ("confirm: 3x2", r"confirm: must be a mapping or false, got '3x2'; write confirm: \{top: 3, seeds: 2\}"),
    ("confirm: {top: 1, seeds: 2}", r"confirm.top: must be a whole number from 2 to 100, got 1; with one there is"),
    ("confirm: {top: 3}", r"confirm.seeds: missing; write confirm: \{top: 3, seeds: 2\}"),
    ("confirm: {top: 3, seed: 2}", r"confirm.seed: no such key; did you mean 'seeds'\?"),
])
def test_our_own_keys_are_checked_like_the_others(top: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=said):
        read(tmp_path, top=top)


def test_a_sampler_is_for_bayes(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="optuna-tpe is for method bayes, and this sweep's is random"):
        read(tmp_path, top="sampler: optuna-tpe", method="random")


@pytest.mark.parametrize(("method", "points", "as_of"), [
    ("bayes", 4, 4), ("bayes", 20, 20), ("bayes", None, 30), ("bayes", 99, 30), ("random", 4, 30)])
def test_few_points_are_worth_few_confirming_trainings(method: str, points: int | None, as_of: int) -> None:
    usual = usual_confirm(as_of)
    assert arrange(method=method, trials=30, in_file=None, asked=None, points=points) == (usual, 30 - usual.runs)


def test_a_plan_counts_the_trials_that_there_are_and_those_that_confirm(tmp_path: Path) -> None:
    def quota(body: str) -> str:
        path = tmp_path / "s.yaml"
        path.write_text(f"method: bayes\nmetric: {{name: eval/loss, goal: minimize}}\n{body}\n")
        lines = CliRunner().invoke(cli, ["plan", str(path), "--seconds-per-step", "3000"]).stdout.splitlines()
        return next(line for line in lines if line.startswith("quota"))

    rates = "parameters: {model: {value: demo}, learning_rate: {min: 1.0e-5, max: 1.0e-3}}"
    assert "; the sweep's 26 trials take " in quota(f"run_cap: 20\nconfirm: {{top: 3, seeds: 2}}\n{rates}")
    assert "; the sweep's 20 trials take " in quota(f"run_cap: 20\n{rates}")
    few = "parameters: {model: {value: demo}, lora_r: {values: [8, 16]}, lora_dropout: {values: [0.05, 0.1, 0.2]}}"
    assert "; the sweep's 6 trials take " in quota(f"run_cap: 30\n{few}")


def test_a_sweep_is_confirmed_in_a_fifth_of_its_trials_or_not_at_all() -> None:
    assert [str(usual_confirm(trials)) for trials in (5, 19, 20, 29, 30, 200)] == [
        "0x0", "0x0", "2x2", "2x2", "3x2", "3x2"]


@pytest.mark.parametrize(("text", "found"), [
    ("3x2", Confirm(top=3, seeds=2)), (" 4 X2".lower(), Confirm(top=4, seeds=2)), ("1x2", None), ("3x0", None),
    ("3", None), ("3x2x1", None), ("-3x2", None), ("3x99", None)])
def test_confirm_is_read_from_the_command_line(text: str, found: Any) -> None:
    assert parse_confirm(text) == found
