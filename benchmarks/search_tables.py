"""Train the tables that benchmarks/search.py searches: every point of two small grids, with two seeds each.

    python benchmarks/search_tables.py [--out benchmarks/search_tables.json]

A fine-tune of the demo base over learning rate, accumulation and rank, and a character model over learning rate,
batch size, dropout and warm-up. Each point's value is the mean of its seeds; the noise is the deviation between them.
"""

import argparse
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.yaml_file import shipped_sweep
from kaggle_runner.training.charlm import to_device, train_character_model
from kaggle_runner.training.control import Control, NotFinite
from kaggle_runner.training.data.characters import load_corpus
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import train_adapter
from kaggle_runner.training.models.base_model import load_base

SEEDS = (1, 2)
FINETUNE = {"learning_rate": [3e-4, 7e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.5e-2, 5e-2],
            "gradient_accumulation_steps": [1, 4], "lora_r": [4, 16]}
CHARLM = {"learning_rate": [3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2, 2.5e-2, 5e-2, 1e-1],
          "batch_size": [8, 16, 32], "dropout": [0.0, 0.1], "warmup_ratio": [0.0, 0.1]}
CHARLM_FIXED = {"max_tokens": 49_152, "max_length": 64, "hidden_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "norm": "layernorm", "max_eval_tokens": 8192, "evaluations": 1}
FINETUNE_FIXED = {"max_steps": 12, "eval_steps": 12, "warmup_ratio": 0.1, "max_length": 40,
                  "completion_only_loss": False, "samples": 400, "max_eval_samples": 24, "load_in_4bit": False}


def main() -> None:
    """Train both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "search_tables.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tables = {"character model": table(CHARLM, character_model(Path(folder))),
                  "demo fine-tune": table(FINETUNE, fine_tune(Path(folder)))}
    asked.out.write_text(json.dumps(tables, indent=1).replace("\n    ", " ") + "\n")
    print(f"{asked.out}: " + ", ".join(f"{name} {len(found['rows'])} points" for name, found in tables.items()))


def table(space: Mapping[str, list[Any]], loss: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Return every point's loss, the mean over the seeds, and how far two seeds lie apart."""
    rows, deviations = [], []
    for values in itertools.product(*space.values()):
        point = dict(zip(space, values, strict=True))
        losses = [loss({**point, "seed": seed}) for seed in SEEDS]
        rows.append([*values, round(statistics.fmean(losses), 5)])
        deviations.append(statistics.stdev(losses))
        print(point, losses, flush=True)
    return {"space": space, "noise": round(statistics.median(deviations), 5), "rows": rows}


def character_model(folder: Path) -> Callable[[dict[str, Any]], float]:
    """Return the loss of a character model as a function of its hyperparameters."""
    shape = CharLMConfig(**CHARLM_FIXED)
    text = to_device(load_corpus(shape, cache_directory=folder), torch.device("cpu"))

    def loss(point: dict[str, Any]) -> float:
        with tempfile.TemporaryDirectory() as directory:
            control = Control(poll=lambda: None, emit=lambda event: None, directory=Path(directory))
            return trained(lambda: train_character_model(text, CharLMConfig(**CHARLM_FIXED, **point), "0", control))

    return loss


def fine_tune(folder: Path) -> Callable[[dict[str, Any]], float]:
    """Return the loss of an adapter of the demo base as a function of its hyperparameters."""
    fixed = {**read_sweep(shipped_sweep("demo")).fixed, **FINETUNE_FIXED}
    config = FinetuneConfig.from_params(fixed)
    base = load_base(config, torch.device("cpu"))
    data = encode(load_rows(config, cache_directory=folder), base.tokenizer, config, cache_directory=folder)

    def loss(point: dict[str, Any]) -> float:
        with tempfile.TemporaryDirectory() as directory:
            control = Control(poll=lambda: None, emit=lambda event: None, directory=Path(directory))
            return trained(lambda: train_adapter(base, data, FinetuneConfig.from_params(fixed | point), "0", control))

    return loss


def trained(train: Callable[[], Any]) -> float:
    """Return the final loss; twice that of guessing where it is not a number."""
    try:
        value = float(train().metric)
    except NotFinite:
        return 10.0
    return min(10.0, value) if math.isfinite(value) else 10.0


if __name__ == "__main__":
    main()
