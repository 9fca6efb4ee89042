"""Studies with known contents, written by the real writer."""

import dataclasses
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggle_runner.study.journal import Study, confirm_directory
from kaggle_runner.study.trial import Status, Trial, TrialResult

LEARNING_RATE = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One trial as it is to stand in the journal; `status` none: it still runs."""

    params: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    status: Status | None = Status.COMPLETE
    curve: Sequence[tuple[int, float]] = ()
    steps: int = 0
    seconds: float = 10.0
    peak: int | None = 500 * 2**20
    phases: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    origin: str = "random"


def write_study(directory: Path, trials: Sequence[Made], *, parameters: Mapping[str, Any] | None = None,
                name: str = "made", metric: str = "eval/loss", goal: str = "minimize", baseline: float | None = None,
                gpus: Sequence[str] = (), scores: Mapping[str, float] | None = None) -> Path:
    """Write a study whose trials are called 0000, 0001, ... and return its directory."""
    sweep = {"method": "random", "metric": {"name": metric, "goal": goal}, "parameters": dict(parameters or {})}
    with Study.open_for_writing(directory, name=name, sweep=sweep, metric=metric, goal=goal, seed=0) as study:
        study.start_session({"host": "local", "gpus": list(gpus)})
        if baseline is not None:
            study.record_baseline(baseline, scores)
        for number, made in enumerate(trials):
            trial = Trial(id=f"{number:04d}", number=number, params=made.params, origin=made.origin)
            study.record_start(trial, made.params)
            # At once, and not by `study.log`, which syncs every row to the disk.
            rows = [{"step": step, metric: value, "train/loss": value + 0.1, "tokens": 100 * step}
                    for step, value in made.curve]
            history = study.trial_directory(trial.id) / "history.jsonl"
            history.write_text("".join(json.dumps(row) + "\n" for row in rows))
            if made.status is not None:
                study.record_end(TrialResult(
                    id=trial.id, status=made.status, metric=made.value, reason=made.reason,
                    steps=made.steps or (made.curve[-1][0] if made.curve else 0), seconds=made.seconds,
                    peak_device_bytes=made.peak, evaluations=tuple(made.curve), seconds_by_phase=made.phases,
                    notes=made.notes, metrics=made.metrics))
    return directory


def write_confirmed(directory: Path, goal: str = "minimize") -> Path:
    """Write a study whose first three of eight trials changed their order when three further seeds confirmed them.

    Their means are 2.590, 2.560 and 2.525; the others have 2.56 to 2.64 with the one seed of the sweep.
    """
    sign, seen = (1 if goal == "minimize" else -1), [2.50, 2.52, 2.54, 2.56, 2.58, 2.60, 2.62, 2.64]
    params = [{"learning_rate": 10 ** (-5 + i / 4), "lora_r": [4, 8, 16][i % 3], "seed": 42} for i in range(8)]
    searched = {"learning_rate": LEARNING_RATE, "lora_r": {"values": [4, 8, 16]}}
    write_study(directory, [Made(params=one, value=sign * value, curve=loss_curve(value))
                            for one, value in zip(params, seen, strict=True)], parameters=searched, goal=goal)
    further = [(0, 2.607), (1, 2.56), (2, 2.507), (0, 2.62), (1, 2.573), (2, 2.52), (0, 2.633), (1, 2.587), (2, 2.533)]
    write_study(confirm_directory(directory), [
        Made(params={**params[of], "seed": 43 + turn // 3}, value=sign * value, origin=f"trial {of:04d}")
        for turn, (of, value) in enumerate(further)], parameters=searched, goal=goal)
    return directory


def loss_curve(final: float, steps: int = 60, every: int = 10) -> list[tuple[int, float]]:
    """Return a falling curve that ends at `final`."""
    return [(step, final + 0.5 * (math.exp(-step / 15) - math.exp(-steps / 15)))
            for step in range(every, steps + 1, every)]


def write_mixed_study(directory: Path, count: int = 30, *, name: str = "mixed", seed: int = 0) -> Path:
    """Write a study with every kind of trial, in which the learning rate carries nearly all variance.

    Of eight trials one is pruned at step 20, one failed without a value, one was infeasible; the last one still runs.
    """
    generator = random.Random(seed)
    trials = []
    for number in range(count):
        params = {"learning_rate": 10 ** generator.uniform(-5, -3), "lora_r": generator.choice([4, 8, 16]),
                  "weight_decay": generator.uniform(0, 0.1), "max_steps": 60, "seed": 42,
                  "lr_scheduler_type": generator.choice(["cosine", "linear"])}
        final = 2.7 + 0.15 * (math.log10(params["learning_rate"]) + 3.5) ** 2 + generator.gauss(0, 0.004)
        made = Made(params=params, value=final, curve=loss_curve(final), seconds=20.0,
                    phases={"attach": 0.4, "train": 14.0, "eval": 4.0}, peak=int(generator.uniform(500, 600) * 2**20),
                    notes={"predicted_peak_bytes": 560 * 2**20,
                           "predicted_parts": {"activations": 360 * 2**20, "base": 200 * 2**20}})
        if number == count - 1:
            made = dataclasses.replace(made, status=None, curve=made.curve[:3])
        elif number % 8 == 3:
            made = dataclasses.replace(made, status=Status.PRUNED, curve=made.curve[:2], value=made.curve[1][1],
                                       reason="not in the top third at step 20")
        elif number % 8 == 5:
            made = dataclasses.replace(made, status=Status.FAILED, curve=(), value=None, reason="loss is nan at step 7",
                                       peak=None)
        elif number % 8 == 6:
            made = dataclasses.replace(made, status=Status.INFEASIBLE, curve=(), value=None, seconds=0.0, peak=None,
                                       reason="needs 16.20 GiB but the budget is 14.06 GiB", phases={})
        trials.append(made)
    parameters = {"learning_rate": LEARNING_RATE, "lora_r": {"values": [4, 8, 16]},
                  "weight_decay": {"min": 0.0, "max": 0.1}, "lr_scheduler_type": {"values": ["cosine", "linear"]},
                  "max_steps": {"value": 60}}
    return write_study(directory, trials, parameters=parameters, name=name, baseline=3.3)
