"""`best.yaml` beside a study, and what `train` makes of it, of a trial's config.json and of a study."""

import dataclasses
import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.cli.model import _print_exported, way_on
from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.errors import StudyError
from kaggle_runner.kaggle.order import KernelOrder, make_launch
from kaggle_runner.model.export import Exported
from kaggle_runner.model.measured import OTHER_ROWS
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.study.best_file import place_for, read_chosen, write_best, yaml_text
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.table import best_lines
from kaggle_runner.study.trial import Status
from tests.made_studies import Made, write_study

FINETUNE = {"learning_rate": 3.5e-05, "lora_r": 4, "target_modules": ["q_proj", "v_proj"], "num_train_epochs": 2.0,
            "columns": {"prompt": "a question", "completion": "yes"}, "dataset": "./with space & é.jsonl", "seed": 7,
            "weight_decay": 0.0, "eval_dataset": None, "load_in_4bit": False}
CHARLM = {"trainer": "charlm", "learning_rate": 1e-3, "hidden_size": 96}


@pytest.mark.parametrize(("params", "kind"), [(FINETUNE, FinetuneConfig), (CHARLM, CharLMConfig)])
def test_the_best_file_holds_every_hyperparameter_of_the_winner_and_train_reads_the_same_trial_from_it(
        tmp_path, params, kind):
    study = write_study(tmp_path / "mine", [Made(params=params, value=2.0), Made(params={}, value=3.0)], baseline=4.0)
    wanted = kind.from_params(params)
    (study / "trials" / "0000" / "config.json").write_text(json.dumps(wanted.as_dict()))
    path = write_best(read_study(study))
    assert yaml.safe_load(path.read_text()) == wanted.as_dict()
    first = path.read_text().splitlines()[0]
    assert first == ("# the best of 2 finished trials of the study made: trial 0000, eval/loss 2.0000; the untouched "
                     "base has 4.0000 (-50.0%)")
    for given, name in ((path, "mine-best"), (study, "mine-best"),
                        (study / "trials" / "0000" / "config.json", "mine-0000")):
        spec, called = read_chosen(given)
        assert called == name
        assert spec.count == 1
        assert kind.from_params(spec.grid()[0]) == wanted


@pytest.mark.parametrize("text", ["数据 🙂.jsonl", "é", "a\u2028b\x85", "\U0010fffdx", "<b>`c`", '"\\n\n\x00', "yes"])
def test_a_text_of_any_signs_is_what_yaml_reads_and_letters_stay_readable(text):
    written = yaml_text(text)
    assert yaml.safe_load(f"key: {written}") == {"key": text}
    assert not set("<`\n\x00\x85\u2028") & set(written)
    assert "数据 🙂" in written or "数" not in text


def test_a_study_without_a_complete_trial_has_no_best_file_and_no_winner_to_train(tmp_path):
    study = write_study(tmp_path / "none", [Made(value=2.0, status=Status.PRUNED), Made(status=None)])
    assert write_best(read_study(study)) is None
    assert not (study / "best.yaml").exists()
    with pytest.raises(StudyError, match=r"no trial of .*none is complete, .* run the command that made it again"):
        read_chosen(study)


def test_show_writes_the_best_file_and_shows_a_study_that_cannot_be_written_all_the_same(tmp_path):
    study = write_study(tmp_path / "mine", [Made(params={"lora_r": 4}, value=2.0)])
    show = [sys.executable, "-m", "kaggle_runner", "show", str(study), "--json"]
    done = subprocess.run(show, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "lora_r: 4\n" in (study / "best.yaml").read_text()
    (study / "best.yaml").unlink()
    (study / "best.yaml").mkdir()
    done = subprocess.run(show, capture_output=True, text=True, timeout=250)
    assert json.loads(done.stdout)["best"]["id"] == "0000"
    assert (done.returncode, done.stderr.count("warning: cannot write ")) == (0, 1)


def test_a_winner_that_changed_is_trained_beside_the_one_before_and_each_goes_on_in_its_own_place(tmp_path):
    sweeps = [{"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
               "parameters": {"learning_rate": {"value": rate}}} for rate in (0.1, 0.2, 0.3)]
    usual = tmp_path / "mine-best"
    for name, sweep in (("mine-best", sweeps[0]), ("mine-best-2", sweeps[1])):
        assert place_for(usual, sweep) == tmp_path / name
        write_study(tmp_path / name, [Made(value=1.0, steps=5)], parameters=sweep["parameters"])
    assert [place_for(usual, sweep).name for sweep in sweeps] == ["mine-best", "mine-best-2", "mine-best-3"]


def test_a_final_training_that_has_ended_is_not_trained_once_more_and_its_winner_is_what_was_chosen(tmp_path):
    params = FinetuneConfig(lora_r=4, full_dataset=True, samples=None, num_train_epochs=1.0).as_dict()
    study = write_study(tmp_path / "mine-final", [Made(params=params, value=2.0, origin="final")])
    for given in (study, write_best(read_study(study))):
        with pytest.raises(StudyError, match="mine-final is this very training, to its end; export it or ask it"):
            CliRunner().invoke(cli, ["train", str(given), "--full", "--cpu"], catch_exceptions=False)
        for epochs in ((), ("--epochs", "1")):
            with pytest.raises(StudyError, match=r"mine-final is this very training, to its end; .* with --epochs"):
                make_launch(KernelOrder(sweep=str(given), task="train", options=("--full", *epochs)), {}, print)
        launch, name = make_launch(KernelOrder(sweep=str(given), task="train", options=("--full", "--epochs", "2")),
                                   {}, lambda warning: None)
        assert (name, launch.arguments[:4]) == ("mine-final", ("train", "best.yaml", "--study", "studies/mine-final"))
    assert ("", "full_dataset true  num_train_epochs 1  lora_r 4") in best_lines(read_study(study))


@pytest.mark.parametrize(("kind", "expected"), [
    ("foreign_rows", "put the rows of then back, and: {again}; or begin anew: {again} --study {place}-2"),
    ("not_finite", "lower learning_rate in a copy of {place}/trials/0000/config.json, and: python -m kaggle_runner "
                   "train COPY --full --study {place}-2"),
    ("crash", "{again}")])
def test_what_comes_next_after_a_final_training_that_failed_is_not_the_line_that_fails_again(tmp_path, monkeypatch,
                                                                                            kind, expected):
    monkeypatch.setattr(sys, "argv", ["kaggle-runner", "train", "one.yaml", "--full", "--cpu"])
    place = write_study(tmp_path / "one-final", [Made(status=Status.FAILED, origin="final", notes={"kind": kind})])
    again = "python -m kaggle_runner train one.yaml --full --cpu"
    result = read_study(place).records[0].result
    assert way_on(result, place, again, again) == expected.format(again=again, place=place)


@pytest.mark.parametrize(("kind", "expected"), [
    ("crash", "{again}"), ("foreign_rows", "put the rows of then back, and: {again}; or begin anew: python -m "
                                           "kaggle_runner train one.yaml --full --cpu --study {place}-2"),
    ("not_finite", "lower learning_rate in a copy of {place}/trials/0000/config.json, and: python -m kaggle_runner "
                   "train COPY --full --study {place}-2")])
def test_show_of_a_final_training_that_failed_says_the_way_on_as_the_training_did(tmp_path, monkeypatch, kind,
                                                                                  expected):
    monkeypatch.setattr(sys, "argv", ["kaggle-runner", "train", "one.yaml", "--full", "--cpu"])
    place = write_study(tmp_path / "one-final", [Made(status=Status.FAILED, origin="final", notes={"kind": kind})])
    again = f"python -m kaggle_runner train one.yaml --full --cpu --study {place}"
    lines = CliRunner().invoke(cli, ["show", str(place)]).output.splitlines()
    assert lines[-2:] == [f"next     {expected.format(again=again, place=place)}",
                          f"report   python -m kaggle_runner report {place}"]
    failed = write_study(tmp_path / "sweep", [Made(status=Status.FAILED, notes={"kind": kind})])
    assert CliRunner().invoke(cli, ["show", str(failed)]).output.splitlines()[-1] == (
        f"next     python -m kaggle_runner report {failed}")


def test_an_export_measured_on_rows_that_have_changed_does_not_say_the_same_rows(tmp_path, capsys):
    of_0_2 = find_outcome(write_study(tmp_path / "mine", [Made(params={"lora_r": 4}, value=2.0)]))
    known = dataclasses.replace(of_0_2, result=dataclasses.replace(of_0_2.result, hashes={"data": "a"}))
    for outcome, remarks, rows in ((known, (), "the same rows"), (known, (OTHER_ROWS,), "other rows"),
                                   (of_0_2, (), "the held-out rows")):
        _print_exported(outcome, Exported(folder=tmp_path, adapter_loss=1.5, remarks=remarks))
        assert f"adapter  1.500000 on its base, measured now on {rows}\n" in capsys.readouterr().out
