"""What version 0.2.0 began is continued: its checkpoints, its studies and its studies of the lab."""

import json

import pytest

from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.errors import StudyError
from kaggle_runner.lab.contest import check_one_variable
from kaggle_runner.study.journal import Study, changed_parameters, read_study
from kaggle_runner.study.trial import Trial
from kaggle_runner.training.checkpoint import config_hash

# config_hash of each, as the code of 0.2.0 gives it
HASHES_OF_0_2 = [
    (FinetuneConfig(), "ed0ede079fd87b27df60fee15c168ffdace162343369c7b00e9048b406d827d6"),
    (FinetuneConfig(max_steps=30, learning_rate=1e-3),
     "73b3178cc9959ce621cd0b53028fc534580ab242bedd82585f903256f96346f5"),
    (CharLMConfig(), "a1aec229ed1b0d2b60e0cf64811d4f6d0f27f58b5426051fc57fec1ba9c24930")]


@pytest.mark.parametrize(("config", "written_by_0_2"), HASHES_OF_0_2)
def test_a_checkpoint_of_0_2_is_of_the_same_config(config, written_by_0_2):
    assert config_hash(config) == written_by_0_2


def test_what_is_newer_and_not_at_its_default_makes_another_checkpoint():
    assert config_hash(FinetuneConfig(train_on="last")) != config_hash(FinetuneConfig())
    assert config_hash(FinetuneConfig(eval_share=0.2)) != config_hash(FinetuneConfig())


def whole_sweep(config, left_out=()):
    values = json.loads(json.dumps(config.as_dict()))
    return {"method": "grid", "metric": {"name": "eval/loss", "goal": "minimize"},
            "parameters": {name: {"value": value} for name, value in values.items() if name not in left_out}
            | {"lora_r": {"values": [8, 16]}}}


NEWER = ("train_on", "eval_train_on", "columns", "eval_share", "max_lost_share", "num_train_epochs", "dataset_config")


def test_a_study_that_names_every_hyperparameter_of_0_2_is_the_same_sweep(tmp_path):
    old = whole_sweep(FinetuneConfig(samples=12_000), left_out=NEWER)
    new = whole_sweep(FinetuneConfig())
    assert changed_parameters(old, new) == []
    facts = {"name": "s", "metric": "eval/loss", "goal": "minimize", "seed": 0}
    with Study.open_for_writing(tmp_path, sweep=old, **facts) as study:
        study.log("0000", {"step": 1})
    with Study.open_for_writing(tmp_path, sweep=new, **facts) as study:
        assert study.snapshot().info.sweep == old
    other = whole_sweep(FinetuneConfig(train_on="last", weight_decay=0.3))
    assert changed_parameters(old, other) == ["train_on", "weight_decay"]

    def open_other():
        with Study.open_for_writing(tmp_path, sweep=other, **facts):
            pass

    with pytest.raises(StudyError, match=r"another sweep file: parameters\.train_on, parameters\.weight_decay differ"):
        open_other()


def test_trials_of_0_2_and_of_today_differ_in_nothing_but_the_variable(tmp_path):
    today = FinetuneConfig().as_dict()
    then = {name: value for name, value in today.items() if name not in NEWER} | {"samples": 12_000}
    with Study.open_for_writing(tmp_path, name="s", sweep={}, metric="eval/loss", goal="minimize", seed=0) as study:
        for number, params in enumerate([then, today | {"lora_r": 64}, today | {"seed": 2}]):
            study.record_start(Trial(id=f"{number:04d}", number=number, params=params), params)
    check_one_variable(read_study(tmp_path), ["lora_r"])
    with pytest.raises(StudyError, match="trials 0000 and 0001 differ in lora_r"):
        check_one_variable(read_study(tmp_path), ["dropout"])
