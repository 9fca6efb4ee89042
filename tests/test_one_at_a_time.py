"""A one-at-a-time study: its file, what may differ between two of its runs, and what a journal decides."""

import dataclasses
from pathlib import Path

import pytest

from kaggle_runner.config import CharLMConfig
from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.lab.contest import check_one_variable, finished
from kaggle_runner.lab.decision import Verdict
from kaggle_runner.lab.plan import read_plan
from kaggle_runner.lab.summary import study_summary
from kaggle_runner.lab.vary import read_vary
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.sweep.spec import read_sweep

FILE = """\
vary: dropout
values: [0.1, 0.2]
seeds: [1, 2, 3]
note: Small models need little.
baseline:
  trainer: charlm
  dataset: corpus.txt
  dropout: 0.0
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "dropout_study.yaml"
    path.write_text(FILE)
    return read_vary(path)


def journal(spec, directory, losses, *, changed=None, hashes=None, challenger=None):
    """Write the journal of a study whose trials ended with these losses, by (value, seed); none is a failure."""
    with Study.open_for_writing(directory, name=spec.name, sweep=spec.sweep(), metric="eval/loss", goal="minimize",
                                seed=None) as study:
        trials = spec.first_trials() + spec.further_trials(spec.values[1] if challenger is None else challenger)
        for trial in trials:
            key = (trial.params["dropout"], trial.params["seed"])
            if key not in losses:
                continue
            if changed and trial.id in changed:
                trial = dataclasses.replace(trial, params={**trial.params, **changed[trial.id]})
            study.record_start(trial, trial.params)
            failed = losses[key] is None
            study.record_end(TrialResult(
                id=trial.id, status=Status.FAILED if failed else Status.COMPLETE, metric=losses[key], tokens=100,
                seconds=2.0, reason="the loss became nan" if failed else "",
                hashes={"text": (hashes or {}).get(trial.id, "a")}))
    return read_study(directory)


def grid(**rows):
    """Losses for the seeds 1, 2, 3 and so on of each value, named like v0_1 for 0.1."""
    return {(float(name[1:].replace("_", ".")), seed): loss
            for name, losses in rows.items() for seed, loss in enumerate(losses, start=1)}


def test_the_default_leads_the_values_where_the_file_left_it_out(spec):
    assert spec.values == (0.0, 0.1, 0.2)
    assert (spec.variable, spec.default, spec.seeds, spec.extra_seeds) == ("dropout", 0.0, (1, 2, 3), (4, 5))
    assert spec.baseline == {name: value for name, value in CharLMConfig(dataset="corpus.txt").as_dict().items()
                             if name != "seed"}


def test_every_value_runs_on_the_same_seeds_one_seed_after_the_other(spec):
    points = [(trial.params["dropout"], trial.params["seed"]) for trial in spec.first_trials()]
    assert points == [(value, seed) for seed in (1, 2, 3) for value in (0.0, 0.1, 0.2)]
    assert [(t.id, t.params["dropout"], t.params["seed"]) for t in spec.further_trials(0.2)] == [
        ("0009", 0.0, 4), ("0010", 0.2, 4), ("0011", 0.0, 5), ("0012", 0.2, 5)]


def test_the_file_that_a_study_keeps_is_the_study(spec, tmp_path):
    copy = tmp_path / "study.yaml"
    copy.write_text(spec.as_yaml())
    again = read_vary(copy)
    assert (again.sweep()["parameters"], again.seeds) == (spec.sweep()["parameters"], spec.seeds)


def test_a_journal_decides_and_its_summary_says_why(spec, tmp_path):
    clear = journal(spec, tmp_path / "clear", grid(v0_0=[2.0, 2.1, 2.2], v0_1=[1.5, 1.61, 1.69], v0_2=[2.4, 2.5, 2.6]))
    decision = finished(spec, clear)
    assert (decision.verdict, decision.winner) == (Verdict.ADOPT, 0.1)
    text = study_summary(spec, clear, decision)
    assert "**Adopted: dropout 0.1.** 0.1 is better than 0 by 0.5" in text
    assert "| 0 (default) | 3 | 2.10000 | 3.02966 |" in text
    assert "Small models need little." in text
    assert "value that was tried" not in text
    rising = journal(spec, tmp_path / "edge", grid(v0_0=[2.0, 2.1, 2.2], v0_1=[1.9, 2.0, 2.1], v0_2=[1.1, 1.2, 1.31]))
    edge = study_summary(spec, rising, finished(spec, rising))
    assert "0.2 is the largest value that was tried: a larger one may be better still." in edge


def test_a_lean_needs_two_more_seeds_of_both_contenders(spec, tmp_path):
    lean = grid(v0_0=[1.00, 1.10, 1.20], v0_1=[0.96, 1.10, 1.13], v0_2=[1.05, 1.11, 1.27])
    assert finished(spec, journal(spec, tmp_path / "three", lean)) is None
    five = {**lean, (0.0, 4): 1.0, (0.1, 4): 0.95, (0.0, 5): 1.1, (0.1, 5): 1.04}
    decision = finished(spec, journal(spec, tmp_path / "five", five))
    assert (decision.verdict, decision.winner) == (Verdict.ADOPT, 0.1)
    failed = finished(spec, journal(spec, tmp_path / "failed", {**five, (0.1, 5): None}))
    assert (failed.verdict, failed.winner) == (Verdict.KEEP, 0.0)
    assert "trials with the further seeds failed, so the default stays" in failed.reason


def test_a_study_with_a_trial_to_run_is_not_decided(spec, tmp_path):
    assert finished(spec, journal(spec, tmp_path / "s", grid(v0_0=[1.0, 1.1], v0_1=[0.5, 0.6], v0_2=[1, 1]))) is None


def test_one_seed_is_a_screening(tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text(FILE.replace("[1, 2, 3]", "[7]"))
    spec = read_vary(path)
    snapshot = journal(spec, tmp_path / "s", {(0.0, 7): 2.0, (0.1, 7): 1.0, (0.2, 7): 3.0})
    decision = finished(spec, snapshot)
    assert (decision.verdict, decision.winner) == (Verdict.SCREENING, 0.0)
    assert "Screening, no decision: dropout stays 0." in study_summary(spec, snapshot, decision)


def test_two_runs_that_differ_in_more_than_the_variable_are_refused_with_the_difference(spec, tmp_path):
    losses = grid(v0_0=[2.0, 2.1, 2.2], v0_1=[1.5, 1.6, 1.7], v0_2=[2.4, 2.5, 2.6])
    snapshot = journal(spec, tmp_path / "s", losses, changed={"0004": {"batch_size": 32}})
    with pytest.raises(StudyError, match=r"trials 0000 and 0004 differ in batch_size \(64, 32\) besides dropout"):
        finished(spec, snapshot)
    with pytest.raises(StudyError, match="trials 0002 and 0003 differ in the text they were trained on"):
        check_one_variable(journal(spec, tmp_path / "t", losses, hashes={"0003": "b"}), spec.varied)


def test_a_baseline_that_failed_leaves_nothing_to_compare(spec, tmp_path):
    snapshot = journal(spec, tmp_path / "s", grid(v0_0=[2.0, None, 2.2], v0_1=[1.5, 1.6, 1.7], v0_2=[2.4, 2.5, 2.6]))
    with pytest.raises(StudyError, match=r"the baseline, dropout 0\.0, failed \(the loss became nan\), so nothing can"):
        finished(spec, snapshot)


def test_a_value_that_failed_is_listed_and_never_adopted(spec, tmp_path):
    snapshot = journal(spec, tmp_path / "s", grid(v0_0=[2.0, 2.1, 2.2], v0_1=[1.5, None, 1.7], v0_2=[2.4, 2.5, 2.6]))
    decision = finished(spec, snapshot)
    assert (decision.verdict, decision.winner) == (Verdict.KEEP, 0.0)
    assert "- trial 0004 failed: the loss became nan" in study_summary(spec, snapshot, decision)


def test_values_that_change_what_is_trained_on_are_scored_alike(tmp_path):
    path = tmp_path / "lengths.yaml"
    path.write_text("vary: max_length\nvalues: [48, 96]\nbaseline: {model: demo, max_length: 64, max_steps: 4}\n")
    spec = read_vary(path)
    assert spec.values == (64, 48, 96)
    assert {trial.params["eval_max_length"] for trial in spec.first_trials()} == {96}
    assert spec.sweep()["parameters"]["eval_max_length"] == {"value": 96}
    assert read_sweep_of(spec, tmp_path).first_trials() == spec.first_trials()
    path.write_text("vary: completion_only_loss\nvalues: [true, false]\n"
                    "baseline: {model: demo, eval_completion_only_loss: true}\n")
    assert {trial.params["eval_completion_only_loss"] for trial in read_vary(path).first_trials()} == {True}
    path.write_text("vary: completion_only_loss\nvalues: [true, false]\nbaseline: {model: demo}\n")
    assert {trial.params["eval_completion_only_loss"] for trial in read_vary(path).first_trials()} == {False}


def read_sweep_of(spec, tmp_path):
    (tmp_path / "again.yaml").write_text(spec.as_yaml())
    return read_vary(tmp_path / "again.yaml")


@pytest.mark.parametrize(("variable", "message"), [
    ("model", "model is no hyperparameter: losses of models that cut text into other tokens cannot be compared"),
    ("eval_share", "eval_share is no hyperparameter: it changes what is measured"),
    ("dataset_split", "dataset_split is no hyperparameter: it changes what is measured"),
    ("num_train_epochs", "num_train_epochs is no hyperparameter: values are compared at equal epochs"),
    ("lora_rank", "'lora_rank' is no hyperparameter; write lora_r, the rank of the adapter"),
])
def test_what_would_compare_losses_of_other_tokens_is_not_varied(tmp_path, variable, message):
    path = tmp_path / "x.yaml"
    path.write_text(f"vary: {variable}\nvalues: [0.1, 0.2]\nbaseline: {{model: demo}}\n")
    with pytest.raises(SweepError, match=message):
        read_vary(path)


def test_a_plan_has_one_scoring_from_its_first_study_to_its_final_sweep(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("baseline: {model: demo, max_length: 64}\nstudies:\n  - {vary: lora_r, values: [4, 8]}\n"
                    "  - {vary: max_length, values: [32, 64]}\nfinal: {run_cap: 2, parameters: {max_length: {values: "
                    "[64, 128]}, learning_rate: {min: 0.1, max: 0.2}}}\n")
    assert read_plan(path).baseline["eval_max_length"] == 128
    path.write_text("baseline: {model: demo, max_length: 64}\nstudies:\n  - {vary: max_length, values: [32, 96]}\n")
    assert read_plan(path).baseline["eval_max_length"] == 96
    path.write_text("baseline: {model: demo, max_length: 64}\nstudies:\n  - {vary: lora_r, values: [4, 8]}\n")
    assert read_plan(path).baseline["eval_max_length"] is None


@pytest.mark.parametrize(("old", "new", "message"), [
    ("values: [0.1, 0.2]", "values: [0.1]", r"values: got \[0\.1\], and one value compares nothing; list two or more"),
    ("values: [0.1, 0.2]", "values: [0.1, 0.1]", r"values\[1\]: 0\.1 is there twice; remove one"),
    ("values: [0.1, 0.2]", "values: [0.1, 2e-1]", r"values\[1\]: '2e-1' is text to YAML; write 2\.0e-1"),
    ("vary: dropout", "vary: symbols", "vary: symbols is no hyperparameter: losses over two sets of symbols"),
    ("vary: dropout", "vary: max_tokens", "vary: max_tokens is no hyperparameter: values are compared at equal tokens"),
    ("vary: dropout", "vary: lora_r", "vary: 'lora_r' is no hyperparameter; known are trainer, dataset"),
    ("  dropout: 0.0", "  dropout: 0.0\n  seed: 3", r"baseline\.seed: a study has several; write seeds: \[1, 2, 3\]"),
    ("  trainer: charlm", "  trainer: charml", "trainer must be one of finetune, charlm, got 'charml'|no such hyper"),
    ("baseline:", "base:", "base: no such key; did you mean 'baseline'"),
])
def test_a_file_that_cannot_work_is_refused_with_the_key(tmp_path, old, new, message):
    path = tmp_path / "bad.yaml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(SweepError, match=message):
        read_vary(path)


@pytest.mark.parametrize(("read", "name", "way_out"), [
    (read_vary, "demo", "is a sweep file; run it with: python -m kaggle_runner sweep"),
    (read_vary, "charlm_plan", "is a tuning plan; run it with: python -m kaggle_runner tune"),
    (read_plan, "charlm_vary", "is a one-at-a-time study; run it with: python -m kaggle_runner vary"),
    (read_sweep, "charlm_plan_small", "is a tuning plan; run it with: python -m kaggle_runner tune"),
])
def test_a_file_of_another_command_is_sent_there(read, name, way_out):
    with pytest.raises(SweepError, match=way_out):
        read(Path(f"sweeps/{name}.yaml"))


def test_a_file_that_is_not_there_lists_those_of_its_kind_that_ship():
    with pytest.raises(SweepError, match=r"one that ships: sweeps/charlm_vary\.yaml$"):
        read_vary(Path("nowhere/x.yaml"))
    with pytest.raises(SweepError, match=r"did you mean sweeps/charlm_plan_small\.yaml"):
        read_plan(Path("charlm_plan_smal.yaml"))
