"""How much memory does a merge take? At most 1.5 times the largest file of the base, packages included.

    python benchmarks/merge.py [--hidden 2048] [--layers 10]

A random Llama of 16-bit weights in one file, about 1 GB with the defaults, and a random adapter on every linear layer.
A process of its own merges the two, into the base as it is stored and into what its 4 bits come back to; its peak is
the kernel's own figure of its resident memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from kaggle_runner.model.merge import PREFIX, merge, plan_merge
from kaggle_runner.model.tensor_files import NewTensor, write_weights

LIMIT = 1.5
RANK = 16


def write_base(folder: Path, hidden: int, layers: int) -> list[tuple[str, int, int]]:
    """Write a random model in one file, and return the name, outputs and inputs of its linear layers."""
    shape = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, tie_word_embeddings=True)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    model.tie_weights()
    shape.architectures = ["LlamaForCausalLM"]
    shape.save_pretrained(folder)
    write_weights(folder, [NewTensor(name=name, shape=tuple(tensor.shape), dtype=torch.bfloat16,
                                     make=lambda tensor=tensor: torch.randn(tensor.shape, dtype=torch.bfloat16) * 0.02)
                           for name, tensor in model.named_parameters()], shard_bytes=2**40)
    return [(name, module.out_features, module.in_features) for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"]


def write_adapter(folder: Path, linear: list[tuple[str, int, int]]) -> None:
    """Write a random adapter as peft does."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 2 * RANK}))
    save_file({f"{PREFIX}{name}.lora_{part}.weight": torch.randn(size) * 0.01 for name, outputs, inputs in linear
               for part, size in (("A", (RANK, inputs)), ("B", (outputs, RANK)))}, folder / "adapter_model.safetensors")


def merge_here(work: Path, how: str) -> None:
    """Merge, and print the peak of this process in bytes, before and after."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    plan = plan_merge(work / "base", work / "adapter")
    out = work / how
    out.mkdir()
    linear = {plan.modules[name] for name in plan.updates}  # what training has in 4 bits: the embedding is not
    merge(plan, out, quantised=linear if how == "trained" else ())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"before": before, "peak": peak, "seconds": time.perf_counter() - started}))


def main() -> int:
    """Make base and adapter, merge them in other processes, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--merge", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.merge:
        merge_here(Path(arguments.merge[0]), arguments.merge[1])
        return 0
    within = True
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_adapter(work / "adapter", write_base(work / "base", arguments.hidden, arguments.layers))
        shard = (work / "base" / "model.safetensors").stat().st_size
        for how in ("original", "trained"):
            done = subprocess.run([sys.executable, __file__, "--merge", str(work), how], capture_output=True, text=True,
                                  check=True)
            found = json.loads(done.stdout)
            share = found["peak"] / shard
            within = within and share <= LIMIT
            print(f"{how:<9} file {shard / 2**20:,.0f} MiB, peak {found['peak'] / 2**20:,.0f} MiB ({share:.2f}, limit "
                  f"{LIMIT}), of which {found['before'] / 2**20:,.0f} MiB before the merge; {found['seconds']:.1f} s")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
