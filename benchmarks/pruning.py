"""Measure what ending trials early saves and whether it loses the winner: by curves, and by rank as it was before.

    python benchmarks/pruning.py [--configurations 20] [--seeds 3] [--first-seed 0] [--orders 300]
                                 [--surface-seeds 10] [--out FILE]

Part 1: fixed configurations of the demo model, trained to their end with an evaluation at every rung. A trial that
is let on is the same as one that was never judged, so both rules are replayed exactly on the recorded losses, with the
package's own decisions: in the order of the trials, in other orders, and in orders that draw near to the best one as a
search does; and at equal cost, how much worse than the best of all is the best one that is complete when the steps of 4
to 10 full trials are spent.
Part 2: the embedded search with its Gaussian process on a cheap surface with noise, with each rule and without one at
equal cost, counted in steps. Prints lines for RESULTS.md.
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
from kaggle_runner.run.rungs import RungGate, extrapolated, may_win, rung_gate, stays, why_it_ends
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
RANKED = 0.3
"""Trials were ranked at the rungs up to this share of the steps."""
BUDGETS = (4, 6, 8, 10)
"""Full trials whose steps the trials together may take."""
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--orders", type=int, default=300, help="orders of each seed's trials that are replayed")
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
    rules = {"curves": gate, "ranks": replace(gate, steps=tuple(step for step in gate.steps if step <= RANKED * STEPS),
                                              eta=3.0)}
    recorded = []
    for seed in range(arguments.first_seed, arguments.first_seed + seeds):
        draw = random.Random(seed)
        curves, rates = [], []
        for number in range(configurations):
            rate = math.exp(draw.uniform(math.log(5e-4), math.log(2e-2)))
            config = replace(base_config, seed=seed, learning_rate=rate,
                             lora_r=draw.choice([8, 16, 32]), lora_dropout=draw.choice([0.05, 0.1]))
            result = train_adapter(base, data, config, str(number), Control(
                poll=lambda: None, emit=lambda event: None, directory=folder / "trial", rung_steps=gate.steps))
            curves.append(dict(result.evaluations))
            rates.append(math.log(rate))
        recorded.append({"curves": curves, "rates": rates})
        if arguments.out:
            arguments.out.write_text(json.dumps(recorded))
        for name, rule in rules.items():
            share, lost = replayed(rule, curves)
            print(f"seed {seed}, by {name}: {share:.0%} of the steps, the best trial is "
                  f"{f'lost for one {lost:.4f} worse' if lost else 'found'}", flush=True)
    for how, order in (("any order", any_order), ("orders of a search", searched_order)):
        orders = [[one["curves"][place] for place in order(one["curves"], one["rates"], random.Random(number))]
                  for one in recorded for number in range(arguments.orders)]
        for name, rule in rules.items():
            ends = [replayed(rule, curves) for curves in orders]
            print(f"pruning, demo model | {MACHINE} | {configurations} configurations, {seeds} seeds, {how} "
                  f"({arguments.orders}), by {name}: {statistics.mean(share for share, _ in ends):.0%} of the steps, "
                  f"the best trial found in {statistics.mean(not lost for _, lost in ends):.0%}, loss lost "
                  f"{statistics.mean(lost for _, lost in ends):.4f}", flush=True)
    for name, rule in {**rules, "none": replace(gate, steps=())}.items():
        cells = []
        for trials in BUDGETS:
            lost = [replayed(rule, [one["curves"][place] for place in any_order(
                one["curves"], one["rates"], random.Random(number))], trials * STEPS)[1]
                for one in recorded for number in range(arguments.orders)]
            cells.append(f"{statistics.mean(lost):.4f}")
        print(f"pruning, demo model | {MACHINE} | loss lost at the cost of {'/'.join(map(str, BUDGETS))} full trials, "
              f"{seeds} seeds, any order, by {name}: {'/'.join(cells)}", flush=True)


def any_order(curves: list[dict[int, float]], rates: list[float], generator: random.Random) -> list[int]:
    """Return the trials' numbers in a random order."""
    return generator.sample(range(len(curves)), len(curves))


def searched_order(curves: list[dict[int, float]], rates: list[float], generator: random.Random) -> list[int]:
    """Return numbers of trials in an order in which a search might ask for them: four anywhere, then near the best."""
    rest = any_order(curves, rates, generator)
    order = [rest.pop() for _ in range(min(4, len(rest)))]
    while rest and len(order) < 15:
        best = min(order, key=lambda number: curves[number][STEPS])
        rest.sort(key=lambda number: abs(rates[number] - rates[best]) * generator.uniform(0.5, 2.0))
        order.append(rest.pop(0))
    return order


def replayed(gate: RungGate, curves: list[dict[int, float]], budget: float = math.inf) -> tuple[float, float]:
    """Return the share of the steps that trials take in this order, and by how much the best that is left is worse.

    No trial begins when the steps of the budget are spent.
    """
    reached: dict[int, list[float]] = {step: [] for step in gate.steps}
    complete: list[dict[int, float]] = []
    steps = 0
    for curve in curves:
        if steps >= budget:
            break
        for step in gate.steps:
            on = may_win(curve[step], [(one[step], one[STEPS]) for one in complete], gate.metric) if gate.eta is None \
                else stays(gate.metric, gate.eta, (curve[step], None), [(value, None) for value in reached[step]])
            reached[step].append(curve[step])
            if not on:
                steps += step
                break
        else:
            steps += STEPS
            complete.append(curve)
    return steps / (STEPS * len(curves)), min(c[STEPS] for c in complete) - min(c[STEPS] for c in curves)


def surface(folder: Path, seeds: int) -> None:
    """Part 2."""
    file = folder / "surface.yaml"
    file.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                    "  learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: 2.0e-3}\n"
                    "  lora_dropout: {min: 0.0, max: 0.3}\n  lora_r: {values: [8, 16, 32]}\n")
    spec = read_sweep(file)
    rules = {"curves": RungGate(steps=(10, 30, 60), eta=None, metric=Metric()),
             "ranks": RungGate(steps=(10, 30), eta=3.0, metric=Metric()), "none": None}
    runs = {name: [search_at_cost(spec, folder / f"{seed}-{name}", gate, seed, budget=1_000) for seed in range(seeds)]
            for name, gate in rules.items()}
    for name, found in runs.items():
        apart = [own - other for (own, _), (other, _) in zip(found, runs["none"], strict=True)]
        print(f"pruning, search | {MACHINE} | cost of 10 full trials, {seeds} seeds, by {name}: best true loss "
              f"{statistics.mean(value for value, _ in found):.4f} ({statistics.mean(n for _, n in found):.1f} "
              f"trials); against none {statistics.mean(apart):+.4f} +- "
              f"{statistics.stdev(apart) / math.sqrt(seeds):.4f}")


def search_at_cost(spec, directory: Path, gate: RungGate | None, seed: int, *, budget: int) -> tuple[float, int]:
    """Search until the steps are spent; return the true final loss of the observed best, and the trials begun."""
    spent, noise = 0, random.Random(seed)

    with Study.open_for_writing(directory, name="s", sweep=spec.raw, metric="eval/loss", goal="minimize",
                                seed=seed) as study:
        def run_trial(trial: Trial) -> TrialResult:
            nonlocal spent
            study.record_start(trial, {})
            evaluations, status = [], Status.COMPLETE
            for step in (10, 30, 60, 100):
                value = true_loss(trial.params, step) + noise.gauss(0, 0.004)
                evaluations.append((step, value))
                if gate and step in gate.steps and why_it_ends(gate, trial.id, step, (value, None), study.snapshot()):
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
