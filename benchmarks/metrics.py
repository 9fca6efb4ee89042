"""Measure what the metrics beside the loss cost an evaluation: the same pass with them and without, turn by turn.

    python benchmarks/metrics.py [--rounds 15] [--threads 1]

The passes run over the held-out rows of the built-in text: of the demo base in 4 bits, as its trials are evaluated, and
of a random Llama with the 128,256 tokens of Llama 3 and few other weights, which is the worst there is: most of its
work is the output matrix, whose logits the metrics look at once more. The loss must be the same to the last bit.
Each prints a line for RESULTS.md.
"""

import argparse
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.metrics import LOSS
from kaggle_runner.training import finetune
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.models.base_model import BaseModel, load_base

MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"
LIMIT = 0.03
"""Most of an evaluation that the metrics may take."""
WIDE = {"vocab_size": 128_256, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 256}


@torch.no_grad()
def loss_alone(base: BaseModel, rows: EncodedRows, config: FinetuneConfig) -> float:
    """Evaluate as it was done before there were other metrics."""
    base.model.eval()
    scoring = config.for_scoring()
    losses, count = [], 0
    for indices in finetune.eval_batches(rows, scoring):
        batch = finetune.collate(rows, indices, pad_id=base.tokenizer.pad_token_id,
                                 completion_only=scoring.completion_only_loss)
        losses.append(finetune.loss_of(base, batch))
        count += len(batch.targets_N)
    return math.fsum(torch.stack(losses).tolist()) / count


def measured(name: str, config: FinetuneConfig, cache: Path, rounds: int) -> bool:
    """Print what the metrics cost on one model, and say whether that is little."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(config, device)
    rows = encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache).validation
    assert loss_alone(base, rows, config) == finetune.measure(base, rows, config)[LOSS]
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # others share a machine's cores
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        ways = [(seconds[0], loss_alone), (seconds[1], finetune.measure)]
        for taken, way in ways if turn % 2 else ways[::-1]:
            started = clock()
            way(base, rows, config)
            taken.append(clock() - started)
    ratios = sorted(after / before for before, after in zip(*seconds, strict=True))
    cost = statistics.median(ratios) - 1
    print(f"metrics, {name} | {MACHINE}, {device.type} | {len(rows)} rows, {rounds} rounds: an evaluation of "
          f"{statistics.median(seconds[0]):.2f} s takes {cost:+.1%} with all metrics (quartiles "
          f"{ratios[len(ratios) // 4] - 1:+.1%}, {ratios[3 * len(ratios) // 4] - 1:+.1%}; limit {LIMIT:.0%})",
          flush=True)
    return cost <= LIMIT


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    common = {"dataset": "python-docs", "max_eval_samples": 48, "max_length": 160, "samples": 100}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        demo = FinetuneConfig(model="demo", **common)
        tokenizer = load_base(demo, torch.device("cpu")).tokenizer
        torch.manual_seed(0)
        wide = cache / "wide"
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE)).save_pretrained(wide)
        tokenizer.save_pretrained(wide)
        good = [measured("demo base", demo, cache, options.rounds),
                measured("128,256 tokens", FinetuneConfig(model=str(wide), load_in_4bit=False, **common), cache,
                         options.rounds)]
    if not all(good):
        raise SystemExit(f"the metrics take more than {LIMIT:.0%} of an evaluation")


if __name__ == "__main__":
    main()
