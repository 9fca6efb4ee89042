"""The hyperparameters of a trial: names, defaults and refusals."""

import dataclasses
import json

import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError


def test_the_defaults_are_the_missions():
    config = FinetuneConfig()
    assert (config.batch_size, config.gradient_accumulation_steps, config.effective_batch_size) == (2, 4, 8)
    assert (config.lora_r, config.lora_alpha, config.samples, config.max_steps) == (8, 16, None, 1_500)


def test_warm_up_rounds_up_to_whole_steps():
    assert FinetuneConfig(max_steps=10, warmup_ratio=0.03).warmup_steps == 1
    assert FinetuneConfig(max_steps=10, warmup_ratio=0.0).warmup_steps == 0
    assert FinetuneConfig(max_steps=1_000, warmup_ratio=0.1).warmup_steps == 100


def test_a_config_survives_json():
    config = FinetuneConfig(target_modules=("q_proj", "v_proj"), learning_rate=3e-4)
    assert FinetuneConfig.from_params(json.loads(json.dumps(config.as_dict()))) == config


def test_whole_numbers_that_a_server_turned_into_floats_come_back_whole():
    config = FinetuneConfig.from_params({"lora_r": 16.0, "max_grad_norm": 1})
    assert config.lora_r == 16
    assert isinstance(config.lora_r, int)
    assert isinstance(config.max_grad_norm, float)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="no such hyperparameter: lora_rr"):
        FinetuneConfig.from_params({"lora_rr": 8})


@pytest.mark.parametrize(("params", "message"), [
    ({"lora_r": 0}, "lora_r must be at least 1, got 0"),
    ({"lora_r": 2.5}, "lora_r must be a whole number, got 2.5"),
    ({"learning_rate": "1e-5"}, "learning_rate must be a number, got '1e-5'"),
    ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
    ({"learning_rate": float("inf")}, "learning_rate must be above 0, got inf"),
    ({"load_in_4bit": 1}, "load_in_4bit must be true or false, got 1"),
    ({"lora_dropout": 1.0}, "lora_dropout must be 0 to below 1, got 1.0"),
    ({"warmup_ratio": 1.5}, "warmup_ratio is a share of the steps"),
    ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
    ({"num_train_epochs": 0}, "num_train_epochs must be above 0 and at most 10000, got 0"),
    ({"eval_share": 5}, "eval_share is a share of the rows, above 0 and below 1, got 5"),
    ({"eval_max_length": 4}, "eval_max_length must be at least 8 tokens, got 4"),
    ({"samples": 0}, "samples must be at least 1, got 0"),
    ({"max_length": 4}, "max_length must be at least 8 tokens, got 4"),
    ({"early_stopping_patience": 0}, "early_stopping_patience must be at least 1, or null for never"),
    ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type must be one of cosine, linear, constant, got 'cosin'"),
    ({"optim": "sgd"}, "optim must be one of adamw_torch"),
    ({"seed": -1}, "seed must be 0 to"),
    ({"model": ""}, "model must not be empty"),
    ({"target_modules": 3}, "target_modules must be text or a list of names"),
    ({"train_on": "first"}, "train_on must be all or last, got 'first'"),
    ({"max_lost_share": 1.5}, "max_lost_share is a share of the rows, 0 to 1, got 1.5"),
    ({"columns": {"frage": "a"}}, "columns must name a column for some of prompt, completion, .*, got 'frage=a'"),
    ({"columns": {}}, "columns must not be empty"),
    ({"columns": ["q", "prompt=a"]}, r"columns must name a column .*, got 'q'; write \{prompt: question"),
    ({"columns": "foo"}, r"columns must be a mapping such as \{prompt: question, completion: answer\}, or null, got"),
    ({"max_length": None}, "max_length must be a whole number, got nothing; write a value behind it, or leave"),
    ({"eval_dataset": ""}, "eval_dataset must not be empty"),
])
def test_values_that_cannot_work_are_refused_with_the_value(params, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.from_params(params)


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError, match=r"lora_r must be at least 1.*optim must be one of"):
        FinetuneConfig(lora_r=0, optim="sgd")


def test_epochs_become_steps_of_the_rows_there_are():
    config = FinetuneConfig.from_params({"num_train_epochs": 1.5, "samples": 1_000, "batch_size": 2})
    assert config.max_steps == 188  # 1,500 rows in steps of 8, the last one not full
    assert config.counted(900).max_steps == 169
    assert config.counted(900).num_train_epochs is None
    assert "max_steps" not in config.as_dict()
    assert FinetuneConfig.from_params(config.as_dict()) == config
    assert FinetuneConfig.from_params(config.counted(900).as_dict()) == config.counted(900)
    assert dataclasses.replace(config, batch_size=1, gradient_accumulation_steps=8).max_steps == 188
    assert FinetuneConfig(num_train_epochs=1.0).max_steps == 1_500
    assert FinetuneConfig(num_train_epochs=0.0001, samples=10).max_steps == 1
    assert FinetuneConfig(max_steps=7).counted(900).max_steps == 7


def test_a_trial_has_one_length():
    with pytest.raises(ConfigError, match="max_steps and num_train_epochs are both given, and a trial has one length"):
        FinetuneConfig.from_params({"max_steps": 10, "num_train_epochs": 1})
    assert FinetuneConfig.from_params({"max_steps": 10, "num_train_epochs": None}).max_steps == 10


def test_what_scores_the_held_out_rows_is_what_trains_unless_it_is_said():
    plain = FinetuneConfig(max_length=96)
    assert plain.for_scoring() == plain
    held = FinetuneConfig(max_length=96, eval_max_length=128, eval_completion_only_loss=False).for_scoring()
    assert (held.max_length, held.completion_only_loss) == (128, False)


def test_columns_are_read_from_a_mapping_and_from_what_a_record_keeps():
    config = FinetuneConfig.from_params({"columns": {"prompt": "frage", "completion": "antwort"}})
    assert config.column_of == {"prompt": "frage", "completion": "antwort"}
    assert FinetuneConfig.from_params(config.as_dict()) == config
    assert FinetuneConfig().column_of == {}
