"""What a worker says of the rows that a config comes to, and how it counts the steps of epochs."""

import math

import pytest
import torch

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.events import Note
from kaggle_runner.training import cpu_speed
from kaggle_runner.training.control import Control
from kaggle_runner.training.warm_finetune import WarmFinetune, length_warning, rows_warnings


@pytest.fixture
def params(tiny_llama, rows_file):
    return {"model": str(tiny_llama), "dataset": str(rows_file), "samples": 40, "max_eval_samples": 8,
            "max_length": 96, "max_lost_share": 0.9, "load_in_4bit": False, "batch_size": 2,
            "gradient_accumulation_steps": 2, "max_steps": 4, "eval_steps": 2, "learning_rate": 1e-3}


def test_left_out_samples_few_held_out_rows_and_many_epochs_are_told_with_the_figure():
    config = FinetuneConfig(max_steps=500)
    assert rows_warnings(config, 340, 17) == [
        "samples is left out: trials train on all 340 rows there are",
        "warning: eval/loss is measured on 17 held-out rows only, fewer than 50, so small differences are chance; "
        "raise max_eval_samples or eval_share, or give more rows"]
    assert rows_warnings(config, 12_000, 50) == [
        "samples is left out: trials train on 12,000 rows; full_dataset: true takes all"]
    assert rows_warnings(FinetuneConfig(samples=340), 340, 50) == []
    assert length_warning(config, 340) == (
        "warning: 500 steps of 8 rows are 11.8 passes over the 340 training rows, more than 10; lower max_steps, or "
        "write num_train_epochs: 3")
    assert length_warning(config, 340, is_final=True).endswith(", more than 10; give --epochs 3")
    assert length_warning(config, 400) == ""


def test_rows_that_are_not_there_are_an_error_before_the_model_is_loaded(tmp_path, params):
    events = []
    work = WarmFinetune(events.append, tmp_path, torch.device("cpu"))
    config = FinetuneConfig.from_params({**params, "samples": 1_000_000})
    with pytest.raises(DataError, match=r"training rows but samples is 1000000; set samples: \d+, or leave it out"):
        work.prepare(config)
    assert [event.phase for event in events] == ["data"]


def test_epochs_are_counted_over_the_rows_there_are_and_a_warning_comes_once(tmp_path, params):
    events = []
    work = WarmFinetune(events.append, tmp_path, torch.device("cpu"))
    del params["max_steps"]
    config = FinetuneConfig.from_params({**params, "num_train_epochs": 0.5, "samples": 41})
    warm = work.prepare(config)
    assert warm.train_rows == 41
    for name in ("a", "b"):
        result = work.train(config, name, Control(poll=lambda: None, emit=events.append, directory=tmp_path / name))
        assert result.steps == 6  # 20.5 rows in steps of 4
        assert [step for step, _ in result.evaluations] == [2, 4, 6]
    few = [event.text for event in events if isinstance(event, Note) and "held-out rows only" in event.text]
    assert len(few) == 1


def test_a_later_session_computes_as_the_first_did_whichever_trial_it_begins_with(tmp_path, params, monkeypatch):
    notes = []
    monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", 0.0)  # bfloat16 is never worth it, and later always
    for others in ({"lora_r": 8}, {"lora_r": 32, "batch_size": 4, "gradient_accumulation_steps": 1}):
        torch.set_num_threads(1)  # as in a new process: the choice before set its own
        work = WarmFinetune(notes.append, tmp_path, torch.device("cpu"))
        work.prepare(FinetuneConfig.from_params({**params, **others}))
        monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", math.inf)
    first, again = [note.text for note in notes if isinstance(note, Note) and "CPU thread" in note.text]
    assert ", float32 (" in first
    assert again == first
    torch.set_num_threads(1)
    longer = WarmFinetune(notes.append, tmp_path, torch.device("cpu"))
    longer.prepare(FinetuneConfig.from_params({**params, "max_length": 64}))
    assert ", bfloat16 (" in [note.text for note in notes if isinstance(note, Note)][-1], "other rows are measured anew"


def test_trials_that_differ_in_what_they_train_on_are_scored_on_the_same_tokens(tmp_path, params):
    work = WarmFinetune(lambda event: None, tmp_path, torch.device("cpu"))
    held = {"eval_max_length": 96, "eval_completion_only_loss": False}
    bases = [work.baseline(FinetuneConfig.from_params({**params, **held, "max_length": length,
                                                       "completion_only_loss": only}))["eval/loss"]
             for length, only in ((40, True), (96, False), (96, True))]
    assert max(bases) - min(bases) < 1e-6
    other = work.baseline(FinetuneConfig.from_params({**params, "max_length": 40}))["eval/loss"]
    assert abs(other - bases[0]) > 0.001
