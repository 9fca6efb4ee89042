"""Does the memory planner predict what a real step takes, and what do the common models need?

    python benchmarks/memory.py [--out memory.json]        predicted against real, about ten minutes on two cores
    python benchmarks/memory.py --table                    the common models on a GPU with float16, predictions only

The real step is the trainer's own: a random model of each shape is saved, loaded and quantised by bitsandbytes, and
`train_adapter` trains peft's adapter for two optimizer steps and evaluates it, on the CPU. Its peak is
what torch's allocator says: the profiler records every allocation and every release, and what the base holds before is
added. That is another way than the planner's, which sums the storages of fake tensors.
"""

import argparse
import dataclasses
import gc
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.memory.fake_kernels import tensors_of
from kaggle_runner.memory.predict import CPU, GPU, Target, predict
from kaggle_runner.memory.trace import fullest_evaluation
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.tokens import EncodedData
from kaggle_runner.training.finetune import train_adapter
from kaggle_runner.training.models import base_model
from kaggle_runner.training.models.attention import use_causal_attention
from kaggle_runner.training.models.base_model import BaseModel, load_base, model_source
from kaggle_runner.training.models.shapes import known_models

GIB = 2**30
TOLERANCE = 0.03
DEVICE = torch.device("cpu")
HALF_ON_CPU = Target(cuda=False, half=True)
LARGEST = "Llama 3 and 3.1 8B"
LARGEST_BYTES = {(512, "off"): 9.5 * GIB, (2048, "on"): 8 * GIB}
"""Most that the largest may take, by length and whether all layers are computed again."""
LENGTHS = (512, 2048)


def shape(model_type: str, vocabulary: int, hidden: int, inner: int, layers: int, heads: int, groups: int,
          **others: Any) -> dict[str, Any]:
    """Write a `config.json`; the special tokens are the demo tokenizer's, whose ids every vocabulary here has."""
    return {"model_type": model_type, "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048, **others}


BRIEF = {"batch_size": 2, "max_length": 64, "eval_steps": 2}
"""For the shapes that take a CPU minutes."""
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "Llama, small": (shape("llama", 8000, 256, 1024, 6, 8, 2), {"max_length": 256}, False),
    "SmolLM2 135M, 10 layers": (shape("llama", 49152, 576, 1536, 10, 9, 3, tie_word_embeddings=True),
                     {**BRIEF, "gradient_checkpointing": True, "lora_r": 16}, False),
    "Qwen2.5 0.5B, 4 layers": (shape("qwen2", 151936, 896, 4864, 4, 14, 2, tie_word_embeddings=True),
                               {**BRIEF, "gradient_checkpointing": True}, False),
    "Llama 3.2 1B, 2 layers": (shape("llama", 128256, 2048, 8192, 2, 32, 8, tie_word_embeddings=True),
                               {**BRIEF, "lora_r": 16, "optim": "adamw_8bit"}, False),
    "Qwen3, small, 32 bits": (shape("qwen3", 16000, 512, 1536, 5, 8, 4, head_dim=64),
                              {"max_length": 192, "load_in_4bit": False, "lora_dropout": 0.0}, False),
    "Gemma, wide": (shape("gemma", 32000, 512, 4096, 4, 4, 1, head_dim=256, tie_word_embeddings=True),
                    {"max_length": 128, "gradient_checkpointing": True, "lora_r": 32}, False),
    "Gemma 2, capped logits": (shape("gemma2", 16000, 384, 1536, 5, 6, 2, head_dim=64, tie_word_embeddings=True),
                               {"max_length": 192}, False),
    "Phi 3, fused": (shape("phi3", 16000, 512, 1536, 5, 8, 8), {"max_length": 192, "target_modules": ("qkv_proj",)},
                     False),
    "Llama, small, float16": (shape("llama", 4000, 192, 512, 5, 6, 2),
                              {"max_length": 96, "gradient_checkpointing": True}, True),
}
"""Name: the model's shape, the trial's settings, and whether it computes in float16, as on a GPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A real peak and its prediction."""

    name: str
    real_bytes: int
    predicted_bytes: int
    parts: Mapping[str, int]
    layers_traced: int
    predicting_s: float
    training_s: float

    @property
    def off(self) -> float:
        """Share by which the prediction is too large."""
        return self.predicted_bytes / self.real_bytes - 1


def compare(name: str) -> Compared:
    """Train a case for two steps and predict it."""
    model_config, settings, half = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        config = FinetuneConfig(**{"model": folder, "batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2,
                                   "eval_steps": 1, **settings})
        save_random(model_config, Path(folder))
        base = load_half(config) if half else load_base(config, DEVICE)
        started = time.perf_counter()
        real_bytes = real_peak_bytes(base, config, Path(folder))
        training_s = time.perf_counter() - started
    prediction = predict(config, model_config, target=HALF_ON_CPU if half else CPU)
    return Compared(name=name, real_bytes=real_bytes, predicted_bytes=prediction.peak_bytes, parts=prediction.parts,
                    layers_traced=prediction.layers_traced, predicting_s=prediction.seconds, training_s=training_s)


def save_random(model_config: Mapping[str, Any], folder: Path) -> None:
    """Save a model with random weights and the demo base's tokenizer."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**model_config)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model_source("demo")).save_pretrained(folder)


def load_half(config: FinetuneConfig) -> BaseModel:
    """Load a base that computes in float16 on a CPU, which the trainer does on a GPU only."""
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                   bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float16)
    model = transformers.AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float16, device_map={"": "cpu"},
                                                              quantization_config=quantization)
    base_model.freeze(model, torch.float16)
    use_causal_attention(model, groups=True)
    return BaseModel(key=base_model.base_key(config), model=model, device=DEVICE, compute_dtype=torch.float16,
                     tokenizer=transformers.AutoTokenizer.from_pretrained(config.model), sha256="", own_head=True,
                     seconds=0.0)


def real_peak_bytes(base: BaseModel, config: FinetuneConfig, folder: Path) -> int:
    """Train and evaluate, and return the most bytes that torch's allocator had given out at once."""
    gc.collect()  # what loading left behind must not be given back while the profiler counts
    held_bytes = sum(tensor.nbytes for tensor in tensors_of(base.model))
    count, length = fullest_evaluation(config)
    data = EncodedData(train=rows([config.max_length] * 6 + [config.max_length - 1] * 2),
                       validation=rows([length] * count), sha256="", notes={})
    control = Control(poll=lambda: None, emit=lambda event: None, directory=folder)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        train_adapter(base, data, config, "0", control)
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
                     if event.name() == "[memory]")
    return held_bytes + int(np.cumsum([change for _, change in changes]).max())


def rows(lengths: list[int]) -> EncodedRows:
    """Make rows of given lengths, all of whose tokens but the first count."""
    return EncodedRows(tokens=np.random.default_rng(0).integers(3, 1000, sum(lengths)).astype(np.int32),
                       starts=np.cumsum([0, *lengths]), trained=np.ones(sum(lengths), dtype=bool))


def table(cache: Path) -> tuple[list[str], dict[str, Any]]:
    """Predict the common models in 4 bits, rank 16, batch 2, at two lengths, with and without recomputing."""
    lines = ["| model | 2 x 512 | 2 x 512, recomputed | 2 x 2,048 | 2 x 2,048, recomputed |", "|---|---|---|---|---|"]
    peaks: dict[str, Any] = {}
    for known in known_models():
        cells = []
        for length in LENGTHS:
            for again in (False, True):
                config = FinetuneConfig(model=f"{known.owners[0]}/{known.names[0]}", batch_size=2, lora_r=16,
                                        max_length=length, gradient_checkpointing=again)
                prediction = predict(config, known.config, target=GPU, cache_directory=cache)
                cells.append(f"{prediction.peak_bytes / GIB:.2f}")
                peaks[f"{known.title}, {length}, {'on' if again else 'off'}"] = dataclasses.asdict(prediction)
        lines.append(f"| {known.title} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines, peaks


def main() -> int:
    """Run the cases or the table, print the lines for RESULTS.md, and say by the exit status whether they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="predict the common models instead")
    parser.add_argument("--only", help="run the cases whose name has this text")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--cache", type=Path, help="keep predictions of the table here")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"
    content: Any
    if arguments.table:
        with tempfile.TemporaryDirectory() as folder:
            lines, content = table(arguments.cache or Path(folder))
        largest = {case: content[f"{LARGEST}, {case[0]}, {case[1]}"] for case in LARGEST_BYTES}
        holds = all(largest[case]["peak_bytes"] <= most for case, most in LARGEST_BYTES.items())
        print("\n".join(lines))
        peaks = "; ".join(f"2 x {length:,}, all layers again {again}: {largest[length, again]['peak_bytes'] / GIB:.2f} "
                          f"GiB (limit {most / GIB:.1f})" for (length, again), most in LARGEST_BYTES.items())
        figure = f"{LARGEST}, NF4, rank 16: {peaks}; {largest[2048, 'on']['seconds']:.1f} s to predict"
    else:
        compared = []
        for name in (name for name in CASES if not arguments.only or arguments.only in name):
            compared.append(compare(name))
            c = compared[-1]
            print(f"{name:<24} real {c.real_bytes / 2**20:9.1f} MiB  predicted {c.predicted_bytes / 2**20:9.1f} MiB  "
                  f"{c.off:+.2%}  ({c.training_s:.0f} s to train, {c.predicting_s:.1f} s to predict)", flush=True)
        holds = all(abs(c.off) <= TOLERANCE for c in compared)
        worst = max(compared, key=lambda c: abs(c.off))
        content = [dataclasses.asdict(c) | {"off": c.off} for c in compared]
        figure = (f"predicted peak against the real one on {len(compared)} shapes: {min(c.off for c in compared):+.2%} "
                  f"to {max(c.off for c in compared):+.2%}, worst on {worst.name} (limit {TOLERANCE:.0%})")
    print(f"| `benchmarks/memory.py{' --table' if arguments.table else ''}` | {machine} | {figure} |")
    if arguments.out:
        arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
