"""Measure what the rung gate saves and whether it loses the winner.

    python benchmarks/pruning.py [--configurations 20] [--seeds 3] [--surface-seeds 10] [--out curves.json]

Part 1: fixed configurations of the demo model, trained to their end with an evaluation at every rung. A trial that
the gate lets on is the same as one that was never judged, so the gate is replayed exactly on the recorded losses,
with the package's own decision, in the order of the trials.
Part 2: the embedded search with its Gaussian process on a cheap surface with noise, with and without the gate at
equal cost, counted in steps. Prints two lines for RESULTS.md.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.metrics import Metric
from kaggle_runner.run.rungs import RungGate, extrapolated, rung_gate, scores_at, stays
from kaggle_runner.run.search import OptunaSearch, run_sweep
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.yaml_file import shipped_sweep
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import train_adapter
from kaggle_runner.training.models.base_model import load_base

STEPS = 50
SHORT = {"gradient_accumulation_steps": 1, "warmup_ratio": 0.05, "max_length": 40, "completion_only_loss": False,
         "max_eval_samples": 24, "load_in_4bit": False}
"""Settings of the demo sweep that keep a trial at a few seconds; the first rung must lie after the warm-up."""
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--surface-seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the recorded losses of part 1 as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo_model(Path(folder), arguments)
        surface(Path(folder), arguments.surface_seeds)


def demo_model(folder: Path, arguments: argparse.Namespace) -> None:
    """Part 1."""
    configurations, seeds = arguments.configurations, arguments.seeds
    spec = read_sweep(shipped_sweep("demo"))
    base_config = FinetuneConfig.from_params({**spec.fixed, **SHORT, "max_steps": STEPS, "eval_steps": STEPS})
    gate = rung_gate(spec, base_config)
    base = load_base(base_config, torch.device("cpu"))
    data = encode(load_rows(base_config, cache_directory=folder), base.tokenizer, base_config, cache_directory=folder)
    shares, kept, recorded = [], 0, []
    for seed in range(seeds):
        draw = random.Random(seed)
        curves = []
        for number in range(configurations):
            rate = math.exp(draw.uniform(math.log(5e-4), math.log(2e-2)))
            config = replace(base_config, seed=seed, learning_rate=rate,
                             lora_r=draw.choice([8, 16, 32]), lora_dropout=draw.choice([0.05, 0.1]))
            result = train_adapter(base, data, config, str(number), Control(
                poll=lambda: None, emit=lambda event: None, directory=folder / "trial", rung_steps=gate.steps))
            curves.append(dict(result.evaluations))
        recorded.append(curves)
        if arguments.out:
            arguments.out.write_text(json.dumps(recorded))
        ended = replayed(gate, curves)
        winner = min(range(configurations), key=lambda n: curves[n][STEPS])
        survivors = [n for n in range(configurations) if ended[n] == STEPS]
        found = min(survivors, key=lambda n: curves[n][STEPS])
        shares.append(sum(ended) / (STEPS * configurations))
        kept += found == winner
        print(f"seed {seed}: best {winner} of {configurations} ({curves[winner][STEPS]:.4f}), with the gate {found}; "
              f"{len(survivors)} trained to the end, {shares[-1]:.0%} of the steps", flush=True)
    print(f"pruning, demo model | {MACHINE} | {configurations} configurations, {seeds} seeds: the same best trial in "
          f"{kept} of {seeds}, {max(shares):.0%} of the steps at most")


def replayed(gate: RungGate, curves: list[dict[int, float]]) -> list[int]:
    """Return the step at which each trial ends under the gate, in the order in which they come."""
    reached: dict[int, list[float]] = {step: [] for step in gate.steps}
    ended = []
    for curve in curves:
        end = STEPS
        for step in gate.steps:
            goes_on = stays(gate, (curve[step], None), [(value, None) for value in reached[step]])
            reached[step].append(curve[step])
            if not goes_on:
                end = step
                break
        ended.append(end)
    return ended


def surface(folder: Path, seeds: int) -> None:
    """Part 2."""
    file = folder / "surface.yaml"
    file.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                    "  learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: 2.0e-3}\n"
                    "  lora_dropout: {min: 0.0, max: 0.3}\n  lora_r: {values: [8, 16, 32]}\n")
    spec = read_sweep(file)
    gate = RungGate(steps=(10, 30), eta=3.0, metric=Metric())
    best: dict[bool, list[float]] = {True: [], False: []}
    trials: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(seeds):
        for gated in (True, False):
            value, count = search_at_cost(spec, folder / f"{seed}-{gated}", gate if gated else None, seed, budget=1_000)
            best[gated].append(value)
            trials[gated].append(count)
    difference = [a - b for a, b in zip(best[True], best[False], strict=True)]
    error = statistics.stdev(difference) / math.sqrt(seeds)
    print(f"pruning, search | {MACHINE} | cost of 10 full trials, {seeds} seeds: best true loss with the gate "
          f"{statistics.mean(best[True]):.4f} ({statistics.mean(trials[True]):.1f} trials), without "
          f"{statistics.mean(best[False]):.4f} ({statistics.mean(trials[False]):.1f}); paired difference "
          f"{statistics.mean(difference):+.4f} +- {error:.4f}")


def search_at_cost(spec, directory: Path, gate: RungGate | None, seed: int, *, budget: int) -> tuple[float, int]:
    """Search until the steps are spent; return the true final loss of the observed best, and the trials begun."""
    spent, noise = 0, random.Random(seed)

    with Study.open_for_writing(directory, name="s", sweep=spec.raw, metric="eval/loss", goal="minimize",
                                seed=seed) as study:
        def run_trial(trial: Trial) -> TrialResult:
            nonlocal spent
            study.record_start(trial, {})
            evaluations, status = [], Status.COMPLETE
            for step in (10, 30, 100):
                value = true_loss(trial.params, step) + noise.gauss(0, 0.004)
                evaluations.append((step, value))
                if gate and step in gate.steps and not stays(
                        gate, (value, None), scores_at(study.snapshot(), step, without=trial.id)):
                    status = Status.PRUNED
                    break
            spent += step
            result = TrialResult(id=trial.id, status=status, metric=value, steps=step, evaluations=tuple(evaluations))
            study.record_end(result)
            return result

        search = OptunaSearch(study, spec, told_value=lambda result: extrapolated(result, study.snapshot()))
        run_sweep(search, run_trial=run_trial, count=100, may_start=lambda: "spent" if spent >= budget else None)
        snapshot = study.snapshot()
        return true_loss(snapshot.best.trial.params, 100), len(snapshot.records)


def true_loss(params, step: int) -> float:
    """A fine-tune-like surface: a valley in the learning rate that moves with the steps, two weak hyperparameters."""
    share = step / 100
    rate = math.log10(params["learning_rate"])
    optimum = -3.6 + 0.2 * (1 - share)
    valley = 0.12 * (rate - optimum) ** 2 + (0.6 * max(0.0, rate + 3.1) ** 2)
    weak = 0.05 * (params["lora_dropout"] - 0.08) ** 2 + 0.004 * abs(math.log2(params["lora_r"] / 16))
    return 1.2 + 0.5 * math.exp(-3 * share) + (valley + weak) * (0.4 + 0.6 * share)


if __name__ == "__main__":
    main()
