"""What a decoder layer launches and moves in a forward and a backward pass, before and after, counted on the real code.

    python benchmarks/launches.py [--tokens 512] [--rows 2] [--json FILE]

Llama 3 8B in 4 bits, LoRA of rank 16 with dropout on all linear layers, float16, with a T4's kernels, on tensors
without data: no GPU and no weights. A layer is what two layers do more than one. What is counted, and how, is said in
`traffic.py`; the optimizer step is left out. Before is peft's path, after are our layers in plain torch and by
Triton's kernels. Prints a table; nothing is timed.
"""

import argparse
import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from gpu import SHAPES
from torch._subclasses.fake_tensor import FakeTensorMode
from traffic import OTHER, Traffic, TrafficOfKernels

from kaggle_runner.memory.fake_kernels import GpuKernels, materialise, quantise
from kaggle_runner.training.adapter_buffer import AdapterBuffer
from kaggle_runner.training.layer.elementwise import PLAIN
from kaggle_runner.training.layer.install import fused_layers, layers_for_training, structures_of
from kaggle_runner.training.layer.keep import INPUT, PRODUCTS
from kaggle_runner.training.models import base_model
from kaggle_runner.training.models.attention import use_causal_attention
from kaggle_runner.training.models.bare_model import bare_model

PATHS = ("peft", "ours in torch", "ours in Triton")


def main() -> None:
    """Count every path, with everything kept and with the input only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="of a row")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = []
    print("| layer | launches | matrix products | dequantisations | attention | number by number | MB a token moved by "
          "these |\n|---|---|---|---|---|---|---|")
    for again in (False, True):
        for path in PATHS:
            counts.append(layer_counts(path, arguments.rows, arguments.tokens, again=again))
            print(line(counts[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=1) + "\n")


def layer_counts(path: str, rows: int, tokens: int, *, again: bool) -> dict[str, Any]:
    """Return launches and bytes of one layer, by kind; `again`: computed again from its input."""
    two, one = (counted(path, layers, rows, tokens, again=again) for layers in (2, 1))
    return {"path": path, "again": again, "tokens": rows * tokens,
            "launches": dict(two.launches - one.launches), "moved_bytes": dict(two.moved_bytes - one.moved_bytes)}


def counted(path: str, layers: int, rows: int, tokens: int, *, again: bool) -> Traffic:
    """Run a model of a few layers forward and backward on tensors without data, and count."""
    shape = {"model_type": "llama", **SHAPES["8B"], "num_hidden_layers": layers, "vocab_size": 256}
    model = bare_model(shape, half=True)
    quantise(model, {"bnb_4bit_use_double_quant": True}, stored_as=torch.float16, compute_dtype=torch.float16)
    base_model.freeze(model, torch.float16)
    use_causal_attention(model, groups=False)
    with torch.device("meta"):
        adapted = peft.get_peft_model(model, peft.LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_dropout=0.05, target_modules="all-linear"))
    traffic = Traffic()
    with FakeTensorMode(allow_non_fake_inputs=True), GpuKernels(), contextlib.ExitStack() as stack:
        materialise(adapted)
        model.train()
        if path == "peft":
            stack.enter_context(layers_for_training(model, dtype=torch.float16, again=again, strange="as before"))
        else:
            by = TrafficOfKernels(traffic) if path == "ours in Triton" else PLAIN
            buffer = AdapterBuffer([p for p in adapted.parameters() if p.requires_grad], torch.float16)
            stack.enter_context(fused_layers(model, structures_of(model), [INPUT if again else PRODUCTS] * layers,
                                             torch.float16, buffer.copies, by=by))
        stack.enter_context(traffic)
        with torch.autocast("cpu", dtype=torch.float16):
            hidden_BTE = model.model(input_ids=torch.zeros(rows, tokens, dtype=torch.int64), use_cache=False)[0]
        # backward() would leave the function mode, and with it what a layer does when it runs again
        torch.autograd.Variable._execution_engine.run_backward(
            (hidden_BTE,), (torch.ones_like(hidden_BTE),), False, False, (), allow_unreachable=True,
            accumulate_grad=True)
        if path != "peft" and by.problem:
            raise RuntimeError(by.problem)
    return traffic


def line(counts: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    launches = counts["launches"]
    cells = [sum(launches.values()), *(launches.get(kind, 0) for kind in (
        "matrix product", "dequantisation", "attention", OTHER))]
    name = f"{counts['path']}, {'computed again from its input' if counts['again'] else 'everything kept'}"
    return (f"| {name} | {' | '.join(f'{cell:.0f}' for cell in cells)} | "
            f"{counts['moved_bytes'][OTHER] / counts['tokens'] / 1e6:.2f} |")


if __name__ == "__main__":
    main()
