"""Does an 8B and a 3B model train on a 15 GB GPU, as predicted, and how fast: ours, HF Trainer + peft, and Unsloth.

    python benchmarks/gpu.py [--out gpu.json]              on a machine with a CUDA GPU; about half an hour on a T4
    python benchmarks/gpu.py --cases 8B:512:checkpointing  some of it: shape, tokens in a row, checkpointing or plain
    python benchmarks/gpu.py --cases 8B:mix:plain          rows of mixed length, as an instruction data set has them
    python benchmarks/gpu.py --device cpu --tiny           the same steps on a CPU, to try the benchmark itself

Never run on a T4. Needs no network and no account: the models have the shapes of Llama 3 8B and Llama 3.2 3B and random
4-bit weights, made here, and every row is exactly as long as the case says. Each run has a process of its own, in which
torch may take 14.5 GiB of the GPU: what a T4 has; `--as-t4` also takes away from every stack alike the attention
kernels that a T4 has not, flash-attn and xformers among them, so that stacks compare and a peak can be held against the
prediction, which is for a T4. The attention that ran is recorded. Speed is the median over the optimizer steps after
the first two. A stack that is not installed is left out and named. Prints a line for RESULTS.md and writes everything
as JSON, after every run.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stacks import Outcome, Run, run_apart

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.memory.predict import CPU, GPU, Target, predict
from kaggle_runner.training.data import builtin_docs

GIB = 2**30
CAP_BYTES = int(14.5 * GIB)
"""What a T4 leaves to torch. Source: facts, `T4 shows 14.56-14.75 GiB`."""
SHAPES: dict[str, dict[str, Any]] = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
}
"""Source: config.json of meta-llama/Meta-Llama-3-8B and meta-llama/Llama-3.2-3B."""
TINY_SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 4096, "tie_word_embeddings": False}}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MODES = ("checkpointing", "plain")
ROWS = 96
MIX = "mix"
MIX_TOKENS, MIX_SPREAD, MIX_LIMITS = 110, 0.5, (40, 512)
"""Median of the lengths of a mix, their spread as a logarithm, and their limits: made to be like Alpaca's rows in its
template, of which most have 60 to 200 tokens; not drawn from them."""
WARM_UP_STEPS, TIMED_STEPS = 2, 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape at one length, by one stack."""

    shape: str
    stack: str
    config: FinetuneConfig
    outcome: Outcome
    mixed: bool
    """Rows of mixed length."""
    predicted_bytes: int | None
    """Of our run by the memory planner, tensors alone; none for other stacks, and for a mix: it counts full rows."""

    @property
    def rates(self) -> list[float]:
        """Tokens of text per second of each optimizer step after the warm-up, in order."""
        pairs = zip(self.outcome.step_tokens, self.outcome.step_seconds, strict=True)
        return sorted(tokens / seconds for tokens, seconds in list(pairs)[WARM_UP_STEPS:])

    @property
    def tokens_per_s(self) -> float | None:
        """The median of the rates."""
        return statistics.median(self.rates) if self.rates else None


def main() -> None:
    """Run every case and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, short rows")
    parser.add_argument("--stacks", default="ours,hf,unsloth", help="of ours, hf, trl, unsloth")
    parser.add_argument("--cases", help="of all cases these, such as 8B:512:checkpointing,3B:512:plain")
    parser.add_argument("--as-t4", action="store_true", help="attend with the kernels that torch has for a T4")
    parser.add_argument("--steps", type=int, default=WARM_UP_STEPS + TIMED_STEPS,
                        help=f"optimizer steps of a run; the first {WARM_UP_STEPS} are not timed")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds after which a run is given up")
    parser.add_argument("--out", default="gpu.json")
    arguments = parser.parse_args()
    gpu = None if arguments.device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    machine = f"{platform.machine()} CPU" if gpu is None else gpu_name(gpu)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a context of this process would take memory from the runs
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = wanted_cases(arguments)
        models = {shape: write_random_base((TINY_SHAPES | SHAPES)[shape], Path(folder) / shape)
                  for shape in dict.fromkeys(shape for shape, _, _ in wanted)}
        configs = [config_of(models[shape], length, mode, arguments.steps, Path(folder))
                   for shape, length, mode in wanted]
        predicted = predictions(configs, CPU if gpu is None else GPU)
        for (shape, length, _), config, predicted_bytes in zip(wanted, configs, predicted, strict=True):
            for stack in arguments.stacks.split(","):
                is_known = stack == "ours" and length != MIX
                cases.append(Case(shape=shape, stack=stack, config=config, mixed=length == MIX,
                                  predicted_bytes=predicted_bytes if is_known else None,
                                  outcome=measure(shape, stack, config, gpu, Path(folder), length, arguments)))
                print(line(cases[-1]), flush=True)
                Path(arguments.out).write_text(json.dumps({"machine": machine, "cap_bytes": CAP_BYTES, "cases": [
                    dataclasses.asdict(case) | {"tokens_per_s": case.tokens_per_s, "rates": case.rates}
                    for case in cases]}, indent=1))
    print(f"written to {arguments.out}")
    print(summary(cases, machine))
    broken = [case for case in cases if case.outcome.status == "failed"]
    if broken:
        sys.exit(f"{len(broken)} runs failed, the first: {broken[0].stack}: {broken[0].outcome.detail}")


def gpu_name(gpu: str) -> str:
    """Return the name of the GPU that the runs will use; ends the program where there is none."""
    program = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    asked = subprocess.run([sys.executable, "-c", program], env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
                           capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        sys.exit(f"cannot ask torch for a GPU, nothing was measured: {reason}")
    if not asked.stdout.strip():
        sys.exit("no CUDA GPU here, nothing was measured; run this on a machine that has one, or try the benchmark "
                 "itself with --device cpu --tiny")
    return asked.stdout.strip()


def wanted_cases(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return shape, length and mode of every case to run; ends the program if one is not known."""
    shapes, lengths, modes = ((TINY_SHAPES, ("32", MIX), MODES[:1]) if arguments.tiny else
                              (SHAPES, ("512", "2048", MIX), MODES))
    known = [(shape, length, mode) for shape in shapes for length in lengths for mode in modes]
    if arguments.cases is None:
        return known
    by_name = {f"{shape}:{length}:{mode}": (shape, length, mode) for shape, length, mode in known}
    unknown = [name for name in arguments.cases.split(",") if name not in by_name]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in arguments.cases.split(",")]


def config_of(model: Path, length: str, mode: str, steps: int, folder: Path) -> FinetuneConfig:
    """Return the config of a case, with its rows written."""
    dataset = folder / f"rows-{length}.jsonl"
    most = MIX_LIMITS[1] if length == MIX else int(length)
    if not dataset.exists():
        write_rows(dataset, None if length == MIX else most)
    return FinetuneConfig(
        model=str(model), dataset=str(dataset), full_dataset=True, max_eval_samples=2, lora_r=16, max_length=most,
        completion_only_loss=False, max_steps=steps, eval_steps=steps,
        gradient_checkpointing=mode == "checkpointing", target_modules=LINEAR)


def predictions(configs: Sequence[FinetuneConfig], target: Target) -> list[int]:
    """Predict the peak of every config, before anything is timed and several at once."""
    contents = [json.loads((Path(config.model) / "config.json").read_text()) for config in configs]
    workers = min(len(configs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(predicted_peak, configs, contents, [target] * len(configs)))


def predicted_peak(config: FinetuneConfig, content: dict[str, Any], target: Target) -> int:
    """Predict one peak, tensors alone."""
    return predict(config, content, target=target).peak_bytes


def measure(shape: str, stack: str, config: FinetuneConfig, gpu: str | None, folder: Path, length: str,
            arguments: argparse.Namespace) -> Outcome:
    """Carry out one run."""
    directory = folder / f"{shape}-{length}-{config.gradient_checkpointing}-{stack}"
    return run_apart(Run(
        stack=stack, config=config.as_dict(), directory=str(directory), cache=str(folder / "cache"), threads=2,
        gpu=gpu, cap_bytes=None if gpu is None else CAP_BYTES, as_t4=arguments.as_t4, names_attention=True),
        timeout_s=arguments.timeout)


def write_random_base(shape: dict[str, Any], folder: Path) -> Path:
    """Write a Llama of this shape with random 4-bit weights, as save_pretrained writes a quantised model.

    Matrices of one size have the same values in all layers: neither memory nor speed depends on them, and an 8B model
    is written in the time it takes to write its file.
    """
    import bitsandbytes
    import torch
    import transformers
    from safetensors.torch import save_file

    from kaggle_runner.training.models.base_model import model_source

    torch.manual_seed(0)
    settings = transformers.LlamaConfig(**shape, max_position_embeddings=4096, dtype=torch.float16,
                                        architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings)
    matrices: dict[torch.Size, dict[str, torch.Tensor]] = {}
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in model.named_parameters():
        # a file for each layer: safetensors refuses equal tensors in one file
        tensors = shards.setdefault(name.split(".")[2] if ".layers." in name else name, {})
        if ".layers." not in name or weight.dim() == 1:
            tensors[name] = (torch.ones if weight.dim() == 1 else torch.randn)(weight.shape, dtype=torch.float16)
            if weight.dim() == 2:
                tensors[name] *= 0.02
            continue
        if weight.shape not in matrices:
            layer = bitsandbytes.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=False, quant_type="nf4",
                                               compute_dtype=torch.float16)
            layer.weight = bitsandbytes.nn.Params4bit(torch.randn(weight.shape, dtype=torch.float16) * 0.02,
                                                      requires_grad=False, quant_type="nf4").to("cpu")
            matrices[weight.shape] = layer.state_dict()
        # two matrices of a layer may have one size
        tensors |= {name.removesuffix("weight") + key: value.clone() for key, value in matrices[weight.shape].items()}
    folder.mkdir(parents=True)
    files = {key: f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i, key in enumerate(shards, start=1)}
    for key, tensors in shards.items():
        save_file(tensors, folder / files[key], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({
        "metadata": {}, "weight_map": {name: files[key] for key, tensors in shards.items() for name in tensors}}))
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16)
    (folder / "config.json").write_text(json.dumps(settings.to_dict() | {
        "quantization_config": quantization.to_dict()}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(model_source("demo")) / name, folder)
    return folder


def write_rows(path: Path, length: int | None) -> Path:
    """Write rows of at least this many tokens, or of mixed lengths, from the documentation of the running Python."""
    text = "\n".join(answer for _, answer in builtin_docs.rows())
    step = len(text) // (ROWS + 8)
    mix = np.random.default_rng(0).lognormal(np.log(MIX_TOKENS), MIX_SPREAD, ROWS).clip(*MIX_LIMITS)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(ROWS):
            # a token of the demo base's tokenizer has about three characters, eight are enough everywhere
            characters = int(3 * mix[i]) if length is None else 8 * length
            file.write(json.dumps({"instruction": f"Text {i}", "input": "",
                                   "output": text[i * step:i * step + characters]}) + "\n")
    return path


def line(case: Case) -> str:
    """Say what one case measured; on a CPU the peak has the libraries in it too, which the prediction has not."""
    o, config = case.outcome, case.config
    start = (f"{case.shape:4} {config.batch_size} x {MIX if case.mixed else config.max_length:<5} "
             f"{'checkpointing' if config.gradient_checkpointing else 'no checkpointing':16} {case.stack:8}")
    if o.status != "trained":
        words = {"out_of_memory": "does not fit", "missing": "left out", "failed": "FAILED"}
        return f"{start} {words[o.status]}: {o.detail}"
    predicted = f", predicted {case.predicted_bytes / GIB:.2f} GiB" if case.predicted_bytes else ""
    speed = f"not timed, no more than {WARM_UP_STEPS} steps"
    if case.tokens_per_s:
        speed = (f"{case.tokens_per_s:,.0f} tokens/s, median of {len(case.rates)} steps, {case.rates[0]:,.0f} to "
                 f"{case.rates[-1]:,.0f}")
    return (f"{start} fits: peak {o.peak_bytes / GIB:.2f} GiB{predicted}; {speed}; attention "
            f"{', '.join(o.attention) or 'of its own'}")


def summary(cases: Sequence[Case], machine: str) -> str:
    """Return the line for RESULTS.md."""
    parts = []
    for case in cases:
        if case.outcome.status == "missing":
            continue
        o, config = case.outcome, case.config
        name = (f"{case.stack} {case.shape} {config.batch_size} x {MIX if case.mixed else config.max_length}"
                f"{' checkpointing' if config.gradient_checkpointing else ''}")
        if o.status == "trained":
            off = f" (predicted {case.predicted_bytes / GIB:.2f})" if case.predicted_bytes else ""
            rates = f" ({case.rates[0]:,.0f} to {case.rates[-1]:,.0f})" if case.rates else ""
            parts.append(f"{name}: {o.peak_bytes / GIB:.2f} GiB{off}, {case.tokens_per_s or 0:,.0f} tokens/s{rates}")
        else:
            parts.append(f"{name}: {'does not fit' if o.status == 'out_of_memory' else 'failed'}")
    return f"gpu | {machine}, cap {CAP_BYTES / GIB:.1f} GiB | {'; '.join(parts)}"


if __name__ == "__main__":
    main()
