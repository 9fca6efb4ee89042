"""Compare training speed, memory and quality: ours, HF Trainer + peft, and TRL's SFTTrainer where it is installed.

    python benchmarks/throughput.py [--seeds 3] [--model demo] [--dataset python-docs] [--json FILE]
    python benchmarks/throughput.py --stacks ours,before --checkpointing    computing layers again, and as 0.2.0 did

On the CPU. Every stack trains on the same rows, each row once, in a process of its own; the stacks take turns, so that
a machine that slows down slows all of them. Counted are tokens of real text, padding not, over the wall time of the
optimizer steps. All adapters are measured in the end by one evaluator, so that speed is not bought with quality.
Prints a line for RESULTS.md; the exit status is 1 if a run failed, ours is slower than `--least-ratio` times HF Trainer
+ peft, or its eval/loss is worse by more than the noise between seeds.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stacks import STACKS, Outcome, Run, run_apart

from kaggle_runner.config import FinetuneConfig

MIB = 2**20
LEAST_GAIN = 1.1
"""Least that our layers must be faster than transformers' in our loop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One run, what it measured, and how good its adapter is."""

    run: Run
    outcome: Outcome
    load: float
    """Load average of the machine when the run began; the run itself is not in it."""
    eval_loss: float | None = None


def main() -> None:
    """Run all stacks in turns, judge their adapters, and print what came out."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(run) for run in plan(arguments, Path(folder))]
        measured = judge(measured)
    for m in measured:
        print(line(m))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([dataclasses.asdict(m) for m in measured], indent=1))
    wrong = problems(measured, arguments.least_ratio)
    print(summary(measured, arguments))
    if wrong:
        sys.exit("; ".join(wrong))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", default="ours,hf,trl", help="of ours, before, hf, trl")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each stack")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dataset", default="python-docs")
    parser.add_argument("--samples", type=int, default=600, help="rows, each trained on once")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--checkpointing", action="store_true", help="compute every layer again in the backward pass")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--least-ratio", type=float, default=1.3)
    parser.add_argument("--json", help="write all measurements to this file")
    return parser.parse_args(arguments)


def plan(arguments: argparse.Namespace, folder: Path) -> list[Run]:
    """Order the runs: with every seed all stacks once, and another one first each time."""
    stacks = arguments.stacks.split(",")
    runs = []
    for seed in range(arguments.seeds):
        steps = arguments.samples // (arguments.batch_size * arguments.accumulation)
        config = FinetuneConfig(
            model=arguments.model, dataset=arguments.dataset, samples=arguments.samples, max_eval_samples=200,
            max_length=arguments.max_length, batch_size=arguments.batch_size, max_steps=steps, eval_steps=steps,
            gradient_accumulation_steps=arguments.accumulation, learning_rate=arguments.learning_rate, seed=seed,
            gradient_checkpointing=arguments.checkpointing)
        first = seed % len(stacks)
        runs += [Run(stack=stack, config=config.as_dict(), directory=str(folder / f"{stack}-{seed}"),
                     cache=str(folder / "cache"), threads=arguments.threads)
                 for stack in stacks[first:] + stacks[:first]]
    return runs


def measure(run: Run) -> Measured:
    """Carry out one run."""
    load = os.getloadavg()[0]
    print(f"{run.stack}, seed {run.config['seed']} ...", file=sys.stderr)
    return Measured(run=run, outcome=run_apart(run), load=load)


def judge(measured: Sequence[Measured]) -> list[Measured]:
    """Measure every adapter with our evaluation: token-weighted, on the same held-out rows, on one base."""
    import peft
    import torch

    from kaggle_runner.training.data.instructions import load_rows
    from kaggle_runner.training.data.tokens import encode
    from kaggle_runner.training.finetune import evaluate
    from kaggle_runner.training.models.base_model import load_base

    config = FinetuneConfig.from_params(measured[0].run.config)
    cache = Path(measured[0].run.cache)
    base = load_base(config, torch.device("cpu"))
    rows = encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache).validation
    judged = []
    for m in measured:
        loss = None
        if m.outcome.status == "trained":
            adapted = peft.PeftModel.from_pretrained(base.model, str(Path(m.run.directory) / "adapter"))
            loss = evaluate(base, rows, config)
            adapted.unload()
        judged.append(dataclasses.replace(m, eval_loss=loss))
    return judged


def rate(measured: Sequence[Measured]) -> float:
    """Return tokens of real text per second over some runs together."""
    return sum(m.outcome.tokens for m in measured) / sum(m.outcome.seconds for m in measured)


def line(m: Measured) -> str:
    """Say what one run measured."""
    o = m.outcome
    if o.status != "trained":
        return f"{o.stack:8} seed {m.run.config['seed']}  {o.status}: {o.detail}"
    return (f"{o.stack:8} seed {m.run.config['seed']}  {o.tokens:,} tokens in {o.seconds:.1f} s: "
            f"{o.tokens / o.seconds:,.0f}/s, {o.tokens / o.cpu_seconds:,.0f} per CPU second; padding "
            f"{o.padding_share:.1%}; resident {o.start_bytes / MIB:.0f} MiB before, {o.peak_bytes / MIB:.0f} MiB peak; "
            f"eval/loss {m.eval_loss:.4f}; load before {m.load:.1f}")


def compare(measured: Sequence[Measured], stack: str) -> dict[str, Any] | None:
    """Compare ours with another stack over all seeds; none where one of them did not run."""
    ours, theirs = ([m for m in measured if m.run.stack == name and m.outcome.status == "trained"]
                    for name in ("ours", stack))
    if not ours or len(ours) != len(theirs):
        return None
    losses = [[m.eval_loss for m in side if m.eval_loss is not None] for side in (ours, theirs)]
    noise = statistics.fmean(statistics.variance(side) for side in losses) ** 0.5 if len(ours) > 1 else 0.0
    by_seed = sorted(rate([a]) / rate([b]) for a, b in zip(
        *(sorted(side, key=lambda m: m.run.config["seed"]) for side in (ours, theirs)), strict=True))
    cpu = [sum(m.outcome.tokens for m in side) / sum(m.outcome.cpu_seconds for m in side) for side in (ours, theirs)]
    return {"ratio": rate(ours) / rate(theirs), "least": by_seed[0], "most": by_seed[-1], "cpu_ratio": cpu[0] / cpu[1],
            "rates": (rate(ours), rate(theirs)), "losses": tuple(map(statistics.fmean, losses)),
            "worse_by": statistics.fmean(losses[0]) - statistics.fmean(losses[1]), "noise": noise,
            "growth": tuple(max(m.outcome.peak_bytes - m.outcome.start_bytes for m in side) for side in (ours, theirs)),
            "peak": tuple(max(m.outcome.peak_bytes for m in side) for side in (ours, theirs))}


def problems(measured: Sequence[Measured], least_ratio: float) -> list[str]:
    """Say what does not hold that must."""
    wrong = [f"{m.run.stack} with seed {m.run.config['seed']}: {m.outcome.status}, {m.outcome.detail}"
             for m in measured if m.outcome.status not in ("trained", "missing")]
    facts = compare(measured, "hf")
    if facts and facts["ratio"] < least_ratio:
        wrong.append(f"ours is {facts['ratio']:.2f} times HF Trainer + peft, it should be {least_ratio}")
    before = compare(measured, "before")
    if before and before["ratio"] < LEAST_GAIN:
        wrong.append(f"ours is {before['ratio']:.2f} times what it was with transformers' layers, it should be "
                     f"{LEAST_GAIN}")
    if facts and facts["worse_by"] > facts["noise"]:
        wrong.append(f"eval/loss is worse than HF Trainer + peft's by {facts['worse_by']:.4f}, seed noise is "
                     f"{facts['noise']:.4f}")
    return wrong


def summary(measured: Sequence[Measured], arguments: argparse.Namespace) -> str:
    """Return the line for RESULTS.md."""
    parts = []
    for stack in arguments.stacks.split(","):
        facts = compare(measured, stack) if stack != "ours" else None
        if facts:
            package = "transformers' layers in" if stack == "before" else STACKS[stack]
            version = next(m.outcome.packages.get(STACKS[stack], "") for m in measured if m.run.stack == stack)
            parts.append(
                f"against {package} {version}: {facts['rates'][0]:,.0f} to {facts['rates'][1]:,.0f} tokens of text/s, "
                f"ratio {facts['ratio']:.2f} (by seed {facts['least']:.2f} to {facts['most']:.2f}; per CPU second "
                f"{facts['cpu_ratio']:.2f}); peak {facts['peak'][0] / MIB:.0f} to {facts['peak'][1] / MIB:.0f} MiB, "
                f"grown by {facts['growth'][0] / MIB:.0f} to {facts['growth'][1] / MIB:.0f}; eval/loss "
                f"{facts['losses'][0]:.4f} to {facts['losses'][1]:.4f}, difference {facts['worse_by']:+.4f}, seed "
                f"noise {facts['noise']:.4f}")
    loads = [m.load for m in measured]
    return (f"throughput | {platform.machine()}, {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f} | "
            f"{arguments.threads} threads, {arguments.batch_size} x {arguments.accumulation} rows a step, "
            f"{arguments.seeds} seeds; {'; '.join(parts) or 'nothing to compare'}")


if __name__ == "__main__":
    main()
