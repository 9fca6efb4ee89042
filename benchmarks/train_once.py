"""Carry out one run of a benchmark in this process.

    python benchmarks/train_once.py RUN.json        the fields of stacks.Run

The outcome goes to `outcome.json` in the run's directory. A run that does not end as it should leaves its reason as the
last line of the output, and an exit status.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from stacks import STACKS, Outcome, Run

from kaggle_runner.config import FinetuneConfig

NOT_ON_A_T4 = ("flash_attn", "flash_attn_interface", "xformers")
"""Packages with attention kernels of their own, which a comparison on a larger GPU would otherwise measure."""


def main() -> None:
    """Carry out the run of a file."""
    run = Run(**json.loads(Path(sys.argv[1]).read_text()))
    if importlib.util.find_spec(STACKS[run.stack]) is None:
        outcome = Outcome(stack=run.stack, status="missing", detail=f"{STACKS[run.stack]} is not installed")
    else:
        outcome = train(run, FinetuneConfig.from_params(run.config))
    (Path(run.directory) / "outcome.json").write_text(json.dumps(dataclasses.asdict(outcome)))


def train(run: Run, config: FinetuneConfig) -> Outcome:
    """Train with the stack of the run."""
    if run.as_t4:
        for package in NOT_ON_A_T4:  # before anything looks for them
            sys.modules[package] = None  # type: ignore[assignment]
    if run.stack == "unsloth":
        import unsloth  # noqa: F401 - patches transformers, so it must come before it
    import torch
    from meter import Meter

    torch.set_num_threads(run.threads)
    if run.cap_bytes is not None:
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, run.cap_bytes / total_bytes))
    if run.as_t4:
        from kaggle_runner.training.models import base_model

        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
        base_model.GROUPING_CAPABILITY = (99, 0)
    meter = Meter(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
                  names_attention=run.names_attention)
    if run.stack in ("ours", "before"):
        return train_ours(run, config, meter)
    import trainers

    other = {"hf": trainers.train_hf, "trl": trainers.train_trl, "unsloth": trainers.train_unsloth}[run.stack]
    return other(run, config, encoded_rows(run, config), meter)


def train_ours(run: Run, config: FinetuneConfig, meter: Any) -> Outcome:
    """Train as the worker does, by its own code."""
    import torch

    from kaggle_runner.events import Event, Prepare, Train
    from kaggle_runner.run.worker import Worker
    from kaggle_runner.training import cpu_speed
    from kaggle_runner.training.finetune import rows_of_step
    from kaggle_runner.training.models import base_model

    if run.stack == "before":
        base_model.structures_of = lambda model: "the benchmark wants transformers' layers"
    cpu_speed.WORTH_ITS_ROUNDING = 0.0  # in the dtype of the other stacks
    failures: list[str] = []

    def emit(event: Event) -> None:
        if event.kind == "attached":
            meter.step(0)
        elif event.kind == "log" and "train/loss" in event.values:
            meter.step(event.step)
        elif event.kind == "failed":
            failures.append(f"{event.failure.replace('_', ' ')}: {event.message}")

    worker = Worker(emit, Path(run.cache))
    worker.answer(Prepare(config=run.config))
    if not failures:
        meter.begin()
        worker.answer(Train(id="0000", config=run.config, directory=run.directory))
        meter.end()
    if failures:
        sys.exit(failures[0])
    rows = encoded_rows(run, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = [[(int(rows.lengths[batch].sum()), int(rows.lengths[batch].max()) * len(batch))
              for batch in rows_of_step(rows, config, device, step)] for step in range(config.max_steps)]
    return meter.outcome(run.stack, steps)


def encoded_rows(run: Run, config: FinetuneConfig) -> Any:
    """Return the training rows, the same for every stack."""
    import transformers

    from kaggle_runner.training.data.instructions import load_rows
    from kaggle_runner.training.data.tokens import encode
    from kaggle_runner.training.models.base_model import model_source

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_source(config.model))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    cache = Path(run.cache)
    return encode(load_rows(config, cache_directory=cache), tokenizer, config, cache_directory=cache).train


if __name__ == "__main__":
    main()
