"""Measure how often a report is wrong: every claim on made studies whose truth is known.

    python benchmarks/truth.py [STUDIES]

STUDIES of each kind and size, by default 200. Each has five hyperparameters: two ranges, lists of two and of three
numbers, and one of four names; an effect, cliffs apart, carries two thirds of the variance. Half of the studies are
searched: their points crowd around the best value so far. Exits with 1 if a rate is over its limit.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaggle_runner.report.analysis.analysis import Analysis, analyse
from kaggle_runner.study.journal import Snapshot, StudyInfo
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult

PARAMETERS = {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
              "weight_decay": {"min": 0.0, "max": 0.1}, "batch_size": {"values": [1, 2]},
              "lora_r": {"values": [8, 16, 32]}, "scheduler": {"values": ["cosine", "linear", "constant", "step"]}}
CLIFFS = ("cliff", "ragged", "corner")
KINDS = ("none", "heavy", "pruned", "seeds", "valley", "vee", "step", "categorical", "two", *CLIFFS)
"""No effect with normal noise, with heavy tails, with pruned trials, with repeated seeds; with an effect; and with
trials that diverge above some learning rate: to one loss, to any of high losses, and with one batch size only."""
SIZES = (8, 12, 20, 40)
MOST_FALSE, LEAST_FOUND, LEAST_COVERED = 0.10, 0.80, 0.90
DIVERGED = 5.0
"""Loss above which a trial of a cliff has diverged: what converged has 2.5 to 2.7."""
SHARE = 2 / 3
NOISES: dict[str, Callable[[np.random.Generator], float]] = {
    "normal": lambda g: g.normal(), "student": lambda g: g.standard_t(3) / math.sqrt(3),
    "exponential": lambda g: g.exponential() - 1, "uniform": lambda g: g.uniform(-1, 1) * math.sqrt(3),
    "lognormal": lambda g: (math.exp(0.7 * g.normal()) - math.exp(0.245)) / 1.0115,
    "outliers": lambda g: g.normal() * (5 if g.random() < 0.08 else 1) / math.sqrt(0.92 + 0.08 * 25)}
"""All of mean 0 and deviation 1, the log-normal's to 1 %."""
HEAVY = ("student", "exponential", "lognormal", "outliers")


@dataclass(frozen=True, kw_only=True)
class Made:
    """One made study with its truth."""

    snapshot: Snapshot
    noise: float
    mattered: frozenset[str]


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", type=int, nargs="?", default=200)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    arguments = parser.parse_args()
    print(f"{'kind':12s}{'trials':>7s}{'false':>8s}{'found':>8s}{'covered':>9s}{'wrong first':>13s}{'share it':>10s}"
          f"{'too wide':>10s}{'share in 90 %':>15s}")
    kept = True
    for kind in arguments.kinds:
        for size in SIZES:
            rates = measure(kind, size, arguments.studies)
            kept &= within(kind, size, rates)
            print(f"{kind:12s}{size:7d}{rates['false']:8.3f}{rates['found']:8.3f}{rates['covered']:9.3f}"
                  f"{rates['wrong first']:13.3f}{rates['share it']:10.2f}{rates['too wide']:10.3f}"
                  f"{rates['share in']:15.3f}", flush=True)
    print("all rates are within their limits" if kept else "A RATE IS OVER ITS LIMIT")
    return 0 if kept else 1


def within(kind: str, size: int, rates: dict[str, float]) -> bool:
    """Say whether the rates keep what is promised."""
    found = rates["found"] >= LEAST_FOUND or size < 20 or kind not in ("valley", "vee", "step", "categorical")
    return bool(found and rates["false"] <= MOST_FALSE and rates["covered"] >= LEAST_COVERED
                and rates["wrong first"] <= MOST_FALSE and rates["too wide"] <= MOST_FALSE)


def measure(kind: str, size: int, studies: int) -> dict[str, float]:
    """Return the rates over so many made studies.

    `false`: something is said to matter that does not. `found`: all that matters is said to. `covered`: the noise is
    under its stated upper bound, or said to be unknown. `wrong first`: a configuration is said to be worse that is not
    - the truly best of all, and where nothing matters any of them. `share it`: part of the configurations that share
    first place. `too wide`: one that diverged is among them, though several did not. `share in`: the true share lies in
    the stated interval.
    """
    counts: Counter[str] = Counter()
    for seed in range(studies):
        made = make(kind, size, seed)
        analysis = analyse(made.snapshot)
        resolved = frozenset(analysis.resolved)
        counts["false"] += bool(resolved - made.mattered)
        counts["found"] += made.mattered <= resolved
        counts["covered"] += analysis.noise is None or analysis.noise.upper >= made.noise
        counts["wrong first"] += is_wrong(analysis, made)
        counts["share it"] += len(analysis.first.shared) / max(1, len(analysis.first.ranked))
        counts["too wide"] += kind in CLIFFS and is_too_wide(analysis, made)
        true = SHARE if len(made.mattered) == 1 else 0.0
        stated = [share for share in analysis.shares if not made.mattered or share.name in made.mattered]
        counts["share in"] += (sum(share.low <= true <= share.high for share in stated) / len(stated)
                               if stated and len(made.mattered) < 2 and kind not in CLIFFS else 1)
    return {name: counts[name] / studies for name in ("false", "found", "covered", "wrong first", "share it",
                                                      "too wide", "share in")}


def is_wrong(analysis: Analysis, made: Made) -> bool:
    """Say whether a configuration is called worse that is not."""
    truth = _truth(made)
    kept = set(analysis.first.trial_ids)
    best = min(truth[row.id] for row in analysis.complete)
    return any(truth[row.id] <= best + 1e-12 and row.id not in kept for row in analysis.complete)


def is_too_wide(analysis: Analysis, made: Made) -> bool:
    """Say whether one that diverged is said to share first place, where three or more did not diverge."""
    truth = _truth(made)
    return (sum(truth[row.id] < DIVERGED for row in analysis.complete) > 2
            and any(truth[trial] > DIVERGED for trial in analysis.first.trial_ids))


def _truth(made: Made) -> dict[str, float]:
    return {record.trial.id: record.result.notes["truth"] for record in made.snapshot.records if record.result}


def make(kind: str, size: int, seed: int) -> Made:
    """Make one study of so many complete trials."""
    generator = np.random.default_rng([seed, size, sum(map(ord, kind))])
    searched, noise = bool(seed % 2), 10.0 ** generator.uniform(-4, 0)
    law = NOISES[HEAVY[seed // 2 % len(HEAVY)] if kind == "heavy" else
                 ("normal", "uniform")[seed // 2 % 5 == 4]]
    effect, mattered = make_effect(kind, generator)
    scale = noise * math.sqrt(SHARE / (1 - SHARE))
    if kind in CLIFFS:
        noise, scale = min(noise, 0.1), 1.0
    records: list[TrialRecord] = []
    best: tuple[float, np.ndarray] | None = None
    complete = 0
    while complete < size:
        at = generator.uniform(size=5)
        if searched and best is not None and len(records) >= 4 and generator.random() < 0.6:
            at = np.clip(best[1] + 0.15 * generator.normal(size=5), 0.0, 0.999)
        repeats = 3 if kind == "seeds" and complete < size - 3 and generator.random() < 0.15 else 1
        truth = 2.0 + scale * effect(at)
        for run in range(repeats):
            value = truth + noise * law(generator)
            if truth > DIVERGED:
                value = max(value + (generator.normal() if kind == "ragged" else 0.05 * generator.normal()), DIVERGED)
            is_pruned = kind == "pruned" and len(records) > 4 and generator.random() < 0.3
            records.append(record(len(records), params_of(at) | {"seed": run}, value, truth, is_pruned))
            complete += not is_pruned
            if best is None or value < best[0]:
                best = value, at
    info = StudyInfo(name=kind, metric="eval/loss", goal="minimize", seed=seed, created=0.0,
                     sweep={"parameters": PARAMETERS})
    snapshot = Snapshot(directory=Path("/nonexistent"), info=info, records=tuple(records), sessions=(), baseline=None)
    return Made(snapshot=snapshot, noise=noise, mattered=mattered)


def make_effect(kind: str, generator: np.random.Generator) -> tuple[Callable[[np.ndarray], float], frozenset[str]]:
    """Return an effect of deviation 1 over evenly drawn points, with the hyperparameters that have it."""
    turn = generator.uniform(0.25, 0.75)
    levels = generator.permutation([-1.2, -0.6, 0.3, 1.5])
    raw: dict[str, tuple[Callable[[np.ndarray], float], frozenset[str]]] = {
        "valley": (lambda at: (at[0] - turn) ** 2, frozenset({"learning_rate"})),
        "vee": (lambda at: abs(at[0] - turn), frozenset({"learning_rate"})),
        "step": (lambda at: float(at[0] > turn), frozenset({"learning_rate"})),
        "categorical": (lambda at: float(levels[int(4 * at[4])]), frozenset({"scheduler"})),
        "cliff": (lambda at: 8.4 if at[0] > turn else 0.5 + 0.4 * (at[0] - 0.5) ** 2, frozenset({"learning_rate"})),
        "ragged": (lambda at: 7.0 if at[0] > turn else 0.5 + 0.4 * (at[0] - 0.5) ** 2, frozenset({"learning_rate"})),
        "corner": (lambda at: 8.4 if at[0] > turn - 0.2 and at[2] < 0.5 else 0.5 + 0.4 * (at[0] - 0.5) ** 2,
                   frozenset({"learning_rate", "batch_size"})),
        "two": (lambda at: 3 * (at[0] - turn) ** 2 + 0.4 * at[1], frozenset({"learning_rate", "weight_decay"}))}
    if kind not in raw:
        return lambda at: 0.0, frozenset()
    shape, mattered = raw[kind]
    if kind in CLIFFS:
        return shape, mattered
    values = [shape(at) for at in np.random.default_rng(0).uniform(size=(2000, 5))]
    deviation = float(np.std(values))
    return lambda at: shape(at) / deviation, mattered


def params_of(at: np.ndarray) -> dict[str, object]:
    """Return a point's hyperparameters."""
    return {"learning_rate": 10 ** (-5 + 2 * float(at[0])), "weight_decay": 0.1 * float(at[1]),
            "batch_size": [1, 2][int(2 * at[2])], "lora_r": [8, 16, 32][int(3 * at[3])],
            "scheduler": ["cosine", "linear", "constant", "step"][int(4 * at[4])]}


def record(number: int, params: dict[str, object], value: float, truth: float, is_pruned: bool) -> TrialRecord:
    """Return one trial as the journal knows it."""
    trial = Trial(id=f"{number:04d}", number=number, params=params, origin="random")
    result = TrialResult(id=trial.id, status=Status.PRUNED if is_pruned else Status.COMPLETE, metric=float(value),
                         steps=20 if is_pruned else 60, seconds=10.0, notes={"truth": float(truth)})
    return TrialRecord(trial=trial, result=result, attempts=1, started=0.0)


if __name__ == "__main__":
    sys.exit(main())
