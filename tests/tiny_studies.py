"""Studies of one trial on a tiny random base, really trained and really recorded."""

import dataclasses
import json

import torch

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Trial
from kaggle_runner.training.control import Control
from kaggle_runner.training.warm_finetune import WarmFinetune

PARAMS = {"samples": 20, "eval_share": 0.1, "max_eval_samples": 5, "max_length": 96, "batch_size": 2,
          "gradient_accumulation_steps": 2, "max_steps": 2, "eval_steps": 2, "learning_rate": 3e-2, "lora_r": 4,
          "lora_dropout": 0.0}


def train_study(folder, cache, **params):
    """Train one trial of a fine-tune in float32, and return the study's folder and the held-out rows."""
    config = FinetuneConfig.from_params({**PARAMS, **params})
    values = {name: {"value": value} for name, value in config.as_dict().items()}
    sweep = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": values}
    warm = WarmFinetune(lambda event: None, cache, torch.device("cpu"))
    with Study.open_for_writing(folder, name="tiny", sweep=sweep, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        study.start_session({"host": "local"})
        scores = warm.baseline(config)
        study.record_baseline(scores["eval/loss"], scores)
        trial = Trial(id="0000", number=0, params=config.as_dict(), origin="defaults")
        study.record_start(trial, config.as_dict())
        control = Control(poll=lambda: None, emit=lambda event: None, directory=study.trial_directory(trial.id))
        result = warm.train(config, trial.id, control)
        study.record_end(dataclasses.replace(result, id=trial.id))
    return folder, warm._data[1].validation


def write_rows(path, count=60):
    """Write conversations of two answers each."""
    chats = [{"messages": [{"role": "user", "content": f"say {i} and {i * 7 % 10}"},
                           {"role": "assistant", "content": f"{i} is said, {i * 7 % 10} too"},
                           {"role": "user", "content": "again"},
                           {"role": "assistant", "content": f"{i * 7 % 10} and {i}"}]} for i in range(count)]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path
