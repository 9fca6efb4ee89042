"""Compare our default recipe of a character model with a plain GPT-2 recipe of the same size on the same text.

    python benchmarks/charlm.py [--tokens 524288] [--seeds 3]

Plain is what nanoGPT publishes for small models: learned positions, LayerNorm with weights, biases, GELU, a tied head,
AdamW with learning rate 1e-3 down to a tenth, betas 0.9 and 0.99, weight decay 0.1, 5 % warm-up, clipping at 1. Ours
has rotary positions, squared ReLU, no weights in its norms, an untied head, and Muon. Both train on one CPU thread,
turn by turn. At equal CPU time, ours is given as many tokens as it trains in the CPU time that plain took.

    python benchmarks/charlm.py --characters 100000000 [--corpus FILE] [--plan sweeps/charlm_plan.yaml]

measures instead what a corpus of so many characters costs: memory and CPU time up to the first batch, as it is and as
text8's symbols, and the evaluations of a trial of the plan's baseline beside its training. The corpus is a text file,
or the built-in text as often as it takes. Each way prints a line for RESULTS.md.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from kaggle_runner.config import CharLMConfig
from kaggle_runner.lab.plan import read_plan
from kaggle_runner.study.trial import TrialResult
from kaggle_runner.training.charlm import DeviceText, evaluate, to_device, train_character_model
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.characters import load_corpus
from kaggle_runner.training.data.windows import window_starts
from kaggle_runner.training.models.char_model import CharModel
from kaggle_runner.training.phases import peak_bytes, reset_peak_bytes

SHAPE = CharLMConfig(max_length=64, batch_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
                     max_eval_tokens=32_768, evaluations=1, warmup_ratio=0.05, norm="layernorm")
OURS = dataclasses.replace(SHAPE, learning_rate=2e-2)
PLAIN = dataclasses.replace(
    SHAPE, position_embedding="learned", hidden_act="gelu", use_bias=True, zero_init=False, tie_word_embeddings=True,
    optim="adamw_torch", learning_rate=1e-3, adam_beta2=0.99)
TIMED_STEPS = 3
"""Training steps that an evaluation is held against."""


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=524_288)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--characters", type=int, help="measure a corpus of so many characters instead")
    parser.add_argument("--corpus", type=Path, help="text file to take them from [the built-in text, repeated]")
    parser.add_argument("--plan", type=Path, default=Path("sweeps/charlm_plan.yaml"), help="whose baseline evaluates")
    parser.add_argument("--read", nargs=2, metavar=("FILE", "SYMBOLS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.read:
        print(json.dumps(read(asked.read[0], asked.read[1])))
    elif asked.characters:
        measure_corpus(asked)
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    """Train both recipes with every seed and print what came out."""
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


def measure_corpus(asked: argparse.Namespace) -> None:
    """Read a corpus both ways, each in a process of its own, and evaluate beside training; print what that took."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_corpus(Path(folder), asked.characters, asked.corpus)
        reads = {}
        for symbols in ("own", "text8"):
            command = [sys.executable, __file__, "--read", str(path), symbols]
            reads[symbols] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        share, seconds, configuration = evaluation_share(path, asked)
    told = "; ".join(
        f"{'' if symbols == 'own' else 'as text8 '}{found['cpu_s']:.1f} s of CPU to the first batch, "
        f"{found['resident'] / 1e6:.0f} MB resident over the process's {found['before'] / 1e6:.0f}, peak "
        f"{found['peak'] / 1e6:.0f} MB over it, {found['symbols']} symbols" for symbols, found in reads.items())
    corpus = asked.corpus.name if asked.corpus else "the built-in text, repeated"
    arguments = [f"--characters {asked.characters}", *(["--corpus FILE"] if asked.corpus else []),
                 f"--plan {asked.plan}"]
    print(f"| `python benchmarks/charlm.py {' '.join(arguments)}` | {platform.machine()}, one thread | "
          f"{reads['own']['characters']:,} characters ({corpus}): {told}; an evaluation of "
          f"{configuration.max_eval_tokens:,} characters takes {seconds:.1f} s of CPU, and the "
          f"{configuration.evaluations} of a trial of {configuration.max_tokens:,} characters {share:.1%} of the time "
          f"of its training (limit 5 %) |")


def write_corpus(folder: Path, characters: int, source: Path | None) -> Path:
    """Write so many bytes of a text, from its beginning again where it ends, and a last character that is whole."""
    if source is None:
        load_corpus(SHAPE, cache_directory=folder)
        (source,) = folder.glob("corpora/*.txt")
    text = source.read_bytes()
    path = folder / "corpus.txt"
    with open(path, "wb") as file:
        left = characters
        while left > 0:
            file.write(text[:left].decode(errors="ignore").encode())
            left -= len(text)
    return path


def read(path: str, symbols: str) -> dict[str, float]:
    """Read a corpus and index its first batch; return what that took of this process."""
    config = CharLMConfig(dataset=path, symbols=symbols)
    device, before, started = torch.device("cpu"), resident_bytes(), time.process_time()
    reset_peak_bytes(device)
    text = to_device(load_corpus(config, cache_directory=Path(path).parent), device)
    starts_B = window_starts(0, length=len(text.train), window=config.max_length, batch=config.batch_size, seed=1)
    text.train[(starts_B[:, None] + torch.arange(config.max_length + 1)) % len(text.train)].long()
    return {"cpu_s": time.process_time() - started, "before": before, "resident": resident_bytes() - before,
            "peak": peak_bytes(device) - before, "symbols": text.symbols,
            "characters": round(len(text.train) / 0.9)}


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def evaluation_share(path: Path, asked: argparse.Namespace) -> tuple[float, float, CharLMConfig]:
    """Return the time of a whole trial's evaluations over that of its training, one evaluation's, and the trial."""
    config = CharLMConfig.from_params({**read_plan(asked.plan).baseline, "dataset": str(path), "symbols": "text8"})
    text = to_device(load_corpus(config, cache_directory=path.parent), torch.device("cpu"))
    short = dataclasses.replace(config, max_tokens=config.step_tokens * TIMED_STEPS, evaluations=1,
                                max_eval_tokens=config.max_length)
    result = train("ours", text, short, {"ours": []})
    per_character = result.notes["train_cpu_seconds"] / result.tokens
    model = CharModel(config, text.symbols)
    started = time.process_time()
    evaluate(model, text, config)
    seconds = time.process_time() - started
    return config.evaluations * seconds / (per_character * config.max_tokens), seconds, config


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
