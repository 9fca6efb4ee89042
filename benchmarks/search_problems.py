"""Cheap problems for benchmarks/search.py: surfaces like those of fine-tunes, and tables of trainings.

A surface is a sum of what each hyperparameter adds, in losses; noise is what another seed would add. Nothing here was
used to choose a number of the search: those were chosen on other, random surfaces.
"""

import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_runner.sweep.distributions import Choice, Parameter, Range
from kaggle_runner.sweep.spec import SweepSpec

TABLES = Path(__file__).parent / "search_tables.json"
DRAWS = 4001


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A loss to be made small."""

    name: str
    parameters: Mapping[str, Parameter]
    loss: Callable[[Mapping[str, Any]], float]
    """Without noise; infinite where a training diverges."""
    noise: float
    """Deviation of one training's loss."""
    defaults: Mapping[str, Any]

    @property
    def spec(self) -> SweepSpec:
        """The sweep over it."""
        return SweepSpec(source=self.name, name="s", method="bayes", metric="eval/loss", goal="minimize",
                         parameters=self.parameters, raw={"parameters": dict.fromkeys(self.parameters)})

    def scale(self) -> tuple[float, float]:
        """Return the least loss and a middling one: regret 0 and 1."""
        spec = self.spec
        if spec.count is not None and spec.count <= DRAWS:
            losses = [self.loss(params) for params in _grid(spec)]
            return min(losses), statistics.median(losses)
        draws = [spec.sample(seed) for seed in range(DRAWS)]
        losses = [self.loss(params) for params in draws]
        return self._least(draws[min(range(DRAWS), key=losses.__getitem__)]), statistics.median(losses)

    def _least(self, params: Mapping[str, Any]) -> float:
        """Walk down from a good point, one parameter at a time, in ever smaller steps."""
        units = {name: parameter.to_unit(params[name]) for name, parameter in self.parameters.items()}
        best = self.loss(params)
        for step in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001) * 2:
            for name in units:
                for move in (-step, step):
                    tried = {**units, name: min(1.0, max(0.0, units[name] + move))}
                    value = self.loss({n: self.parameters[n].from_unit(u) for n, u in tried.items()})
                    if value < best:
                        best, units = value, tried
        return best


def problems() -> list[Problem]:
    """List the problems of this file, and the tables where they were made."""
    rate = {"learning_rate": log(5e-6, 2e-4), "gradient_accumulation_steps": Choice(values=(4, 8)),
            "lora_dropout": Choice(values=(0.05, 0.1)), "weight_decay": Choice(values=(0.01, 0.05))}
    usual = {"learning_rate": 2e-4, "gradient_accumulation_steps": 4, "lora_dropout": 0.05, "weight_decay": 0.01,
             "lora_r": 8, "lora_alpha": 16, "warmup_ratio": 0.03, "max_grad_norm": 1.0, "batch_size": 16,
             "lr_scheduler_type": "cosine", "optim": "adamw_torch", "dropout": 0.0, "max_steps": 300}
    wide = {"learning_rate": log(1e-5, 1e-2), "lora_dropout": uniform(0.0, 0.3), "weight_decay": uniform(0.0, 0.2),
            "warmup_ratio": uniform(0.0, 0.2), "lora_r": Choice(values=(4, 8, 16, 32, 64)),
            "lora_alpha": Choice(values=(8, 16, 32, 64))}
    made = [
        ("fine-tune", rate, 0.004, lambda p: valley(p, 9e-5) + weak(p)),
        ("optimum at the upper end", rate, 0.004, lambda p: valley(p, 3e-4) + weak(p)),
        ("cliff", {"learning_rate": log(1e-5, 1e-2), "lora_r": Choice(values=(4, 8, 16, 32)),
                   "lora_dropout": uniform(0.0, 0.2)}, 0.003,
         lambda p: (0.05 * decades(p, 2e-3) ** 2 + weak(p) if p["learning_rate"] < 1.5e-3 * (16 / p["lora_r"]) ** 0.3
                    else 1.0 + 0.3 * decades(p, 1e-3))),
        ("noisy", rate, 0.03, lambda p: valley(p, 9e-5) + weak(p)),
        ("six hyperparameters", wide, 0.005,
         lambda p: valley(p, 4e-4 * (16 / p["lora_alpha"]) ** 0.7) + weak(p) + 0.01 * abs(p["warmup_ratio"] - 0.06)
         + 0.6 * (p["lora_dropout"] - 0.07) ** 2 + 0.008 * math.log2(p["lora_r"] / 24) ** 2),
        ("rate by batch", {"learning_rate": log(1e-4, 1e-1), "batch_size": whole(1, 32), "dropout": uniform(0.0, 0.5)},
         0.006, lambda p: valley(p, 3e-3 * math.sqrt(p["batch_size"] / 8)) + 0.02 * math.log2(p["batch_size"] / 6) ** 2
         + 0.4 * (p["dropout"] - 0.1) ** 2),
        ("no learning rate", {"dropout": uniform(0.0, 0.5), "weight_decay": log(1e-4, 1.0),
                              "warmup_ratio": uniform(0.0, 0.3)}, 0.004,
         lambda p: 0.8 * (p["dropout"] - 0.22) ** 2 + 0.02 * math.log10(p["weight_decay"] / 0.1) ** 2
         + 0.3 * abs(p["warmup_ratio"] - 0.1) + 0.02 * math.cos(25 * p["dropout"])),
        ("24 points", {"learning_rate": Choice(values=(1e-4, 3e-4, 1e-3, 3e-3)), "lora_r": Choice(values=(8, 16, 32)),
                       "weight_decay": Choice(values=(0.0, 0.1))}, 0.004,
         lambda p: valley(p, 6e-4) + 0.02 * abs(math.log2(p["lora_r"] / 16)) + 0.05 * p["weight_decay"]),
        ("kinds", {"learning_rate": log(3e-4, 1e-1),
                   "lr_scheduler_type": Choice(values=("cosine", "linear", "constant")),
                   "optim": Choice(values=("adamw_torch", "adamw_8bit", "paged_adamw_8bit")),
                   "max_grad_norm": log(0.1, 10.0)}, 0.005,
         lambda p: valley(p, {"cosine": 1e-2, "linear": 8e-3, "constant": 3e-3}[p["lr_scheduler_type"]])
         + {"cosine": 0.0, "linear": 0.01, "constant": 0.05}[p["lr_scheduler_type"]]
         + {"adamw_torch": 0.0, "adamw_8bit": 0.004, "paged_adamw_8bit": 0.02}[p["optim"]]
         + 0.02 * math.log10(p["max_grad_norm"] / 0.6) ** 2),
    ]
    found = [Problem(name=name, parameters=parameters, loss=lambda p, loss=loss: 1.2 + loss(p), noise=noise,
                     defaults=usual) for name, parameters, noise, loss in made]
    return found + tables()


def tables() -> list[Problem]:
    """Read the tables that benchmarks/search_tables.py trained."""
    if not TABLES.exists():
        return []
    found = []
    for name, table in json.loads(TABLES.read_text()).items():
        losses = {tuple(row[:-1]): row[-1] for row in table["rows"]}
        names = tuple(table["space"])
        found.append(Problem(
            name=name, noise=table["noise"],
            parameters={key: Choice(values=tuple(values)) for key, values in table["space"].items()},
            loss=lambda p, losses=losses, names=names: losses[tuple(p[key] for key in names)],
            defaults={"learning_rate": 3e-3, "batch_size": 16, "dropout": 0.0, "warmup_ratio": 0.0,
                      "gradient_accumulation_steps": 4, "lora_r": 8}))
    return found


def measured(problem: Problem, params: Mapping[str, Any], noise: random.Random) -> float:
    """Return the loss that one training would have."""
    return problem.loss(params) + problem.noise * noise.gauss(0, 1)


def log(low: float, high: float) -> Range:
    """Return a range in which equal ratios are equally likely."""
    return Range(distribution="log_uniform_values", low=low, high=high)


def uniform(low: float, high: float) -> Range:
    """Return an even range."""
    return Range(distribution="uniform", low=low, high=high)


def whole(low: int, high: int) -> Range:
    """Return a range of whole numbers."""
    return Range(distribution="int_uniform", low=low, high=high)


def decades(params: Mapping[str, Any], best: float) -> float:
    """Return how far a learning rate lies above the best one."""
    return math.log10(params["learning_rate"] / best)


def valley(params: Mapping[str, Any], best: float) -> float:
    """Return what a learning rate adds: slowly more below the best one, soon much more above it."""
    off = decades(params, best)
    return 0.12 * off ** 2 + 0.9 * max(0.0, off - 0.35) ** 2


def weak(params: Mapping[str, Any]) -> float:
    """Return what hyperparameters that hardly matter add."""
    return (0.01 * (params.get("gradient_accumulation_steps", 4) == 8) + 0.06 * params.get("lora_dropout", 0.0)
            + 0.05 * params.get("weight_decay", 0.0) + 0.004 * abs(math.log2(params.get("lora_r", 16) / 16)))


def _grid(spec: SweepSpec) -> Sequence[Mapping[str, Any]]:
    values = [parameter.distinct if isinstance(parameter, Choice) else parameter.grid_values()
              for parameter in spec.searched.values()]
    return [dict(zip(spec.searched, point, strict=True)) for point in itertools.product(*values)]
