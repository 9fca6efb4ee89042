"""Compare our default recipe of a character model with a plain GPT-2 recipe of the same size on the same text.

    python benchmarks/charlm.py [--tokens 524288] [--seeds 3]

Plain is what nanoGPT publishes for small models: learned positions, LayerNorm with weights, biases, GELU, a tied head,
AdamW with learning rate 1e-3 down to a tenth, betas 0.9 and 0.99, weight decay 0.1, 5 % warm-up, clipping at 1. Ours
has rotary positions, squared ReLU, no weights in its norms, an untied head, and Muon. Both train on one CPU thread,
turn by turn. At equal CPU time, ours is given as many tokens as it trains in the CPU time that plain took.
Prints a line for RESULTS.md.
"""

import argparse
import dataclasses
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from kaggle_runner.char_data import load_corpus
from kaggle_runner.charlm import DeviceText, to_device, train_character_model
from kaggle_runner.config import CharLMConfig
from kaggle_runner.study import TrialResult
from kaggle_runner.trial_control import Control

SHAPE = CharLMConfig(max_length=64, batch_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
                     max_eval_tokens=32_768, evaluations=1, warmup_ratio=0.05, norm="layernorm")
OURS = dataclasses.replace(SHAPE, learning_rate=2e-2)
PLAIN = dataclasses.replace(
    SHAPE, position_embedding="learned", hidden_act="gelu", use_bias=True, zero_init=False, tie_word_embeddings=True,
    optim="adamw_torch", learning_rate=1e-3, adam_beta2=0.99)


def main() -> None:
    """Train both recipes with every seed and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=524_288)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = to_device(load_corpus(SHAPE, cache_directory=Path(folder)), torch.device("cpu"))
    results: dict[str, list[TrialResult]] = {"plain": [], "ours": [], "equal time": []}
    for seed in range(1, asked.seeds + 1):
        plain = train("plain", text, dataclasses.replace(PLAIN, max_tokens=asked.tokens, seed=seed), results)
        ours = train("ours", text, dataclasses.replace(OURS, max_tokens=asked.tokens, seed=seed), results)
        share = plain.notes["train_cpu_seconds"] / ours.notes["train_cpu_seconds"]
        train("equal time", text, dataclasses.replace(
            OURS, max_tokens=int(asked.tokens * share), seed=seed), results)
    bits = {name: [result.notes["bits_per_character"] for result in runs] for name, runs in results.items()}
    speeds = {name: statistics.median(speed(result) for result in runs) for name, runs in results.items()}
    wins = sum(ours < plain for ours, plain in zip(bits["ours"], bits["plain"], strict=True))
    listed = {name: " ".join(f"{value:.3f}" for value in values) for name, values in bits.items()}
    print(f"| `python benchmarks/charlm.py --tokens {asked.tokens} --seeds {asked.seeds}` | {platform.machine()}, one "
          f"thread | {results['ours'][0].notes['parameters']:,} parameters against "
          f"{results['plain'][0].notes['parameters']:,}; bits per character at equal tokens {listed['ours']} (mean "
          f"{statistics.fmean(bits['ours']):.3f}) against {listed['plain']} (mean "
          f"{statistics.fmean(bits['plain']):.3f}), lower on {wins} of {asked.seeds} seeds; at equal CPU time mean "
          f"{statistics.fmean(bits['equal time']):.3f}; tokens per CPU second "
          f"{speeds['ours']:.0f} against {speeds['plain']:.0f}, ratio {speeds['ours'] / speeds['plain']:.2f} |")


def train(name: str, text: DeviceText, config: CharLMConfig, results: dict[str, list[TrialResult]]) -> TrialResult:
    """Train one model, keep its result and say what came out."""
    with tempfile.TemporaryDirectory() as folder:
        control = Control(poll=lambda: None, emit=lambda event: None, directory=Path(folder))
        result = train_character_model(text, config, "0000", control)
    results[name].append(result)
    print(f"{name}, seed {config.seed}: {result.notes['bits_per_character']:.4f} bits per character after "
          f"{result.tokens:,} tokens, {speed(result):.0f} a CPU second", file=sys.stderr, flush=True)
    return result


def speed(result: TrialResult) -> float:
    """Return the tokens that a run trained in a second of CPU time."""
    return result.tokens / result.notes["train_cpu_seconds"]


if __name__ == "__main__":
    main()
