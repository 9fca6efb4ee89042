"""The keys of a sweep file that are ours and not W&B's: who chooses the points here, and how the winner is confirmed.

W&B refuses a sweep with keys that it does not know, so it never gets them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kaggle_runner.sweep.problems import Findings, spelled, suggestion

Sampler = Literal["own", "optuna-gp", "optuna-tpe"]
"""Who chooses the points of a `bayes` sweep after the first ones."""
SAMPLERS: tuple[Sampler, ...] = ("own", "optuna-gp", "optuna-tpe")
OUR_KEYS = ("sampler", "confirm")
MOST_SEEDS = 20


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """How the winner of a sweep is confirmed."""

    top: int
    """Configurations that are trained again, the best by their first loss."""
    seeds: int
    """Further seeds of each."""

    @property
    def runs(self) -> int:
        """How many trainings that is."""
        return self.top * self.seeds

    def __str__(self) -> str:
        """Return it as `--confirm` takes it."""
        return f"{self.top}x{self.seeds}"


USUAL = Confirm(top=3, seeds=2)
"""What a sweep with room for it is confirmed with. Source: benchmarks/choice.py."""
ROOM = 5
"""Confirming may cost one trial for so many of the sweep's."""
OFF = Confirm(top=0, seeds=0)


def usual_confirm(trials: int) -> Confirm:
    """Return how a sweep of so many trials is confirmed when nobody says: in a fifth of its trials, or not at all."""
    room = trials // ROOM
    if room >= USUAL.runs:
        return USUAL
    return Confirm(top=2, seeds=room // 2) if room >= 2 * USUAL.seeds else OFF


def arrange(*, method: str, trials: int | None, in_file: Confirm | None, asked: Confirm | None,
            points: int | None = None) -> tuple[Confirm, int | None]:
    """Return how a sweep is confirmed, and how many trials its search has.

    What was asked for, or stands in the file, comes on top of the sweep's trials; what nobody asked for is taken from
    them, and is as much as the points are worth that there are. A grid gives up none of its points.
    """
    wanted = in_file if asked is None else asked
    if wanted is not None or trials is None or method == "grid":
        return wanted or OFF, trials
    usual = usual_confirm(trials if points is None or method == "random" else min(trials, points))
    return usual, trials - usual.runs


def parse_confirm(text: str) -> Confirm | None:
    """Read `3x2`; none where it is not two whole numbers that make sense."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*[x×*]\s*(\d{1,3})\s*", text)
    if not match:
        return None
    top, seeds = map(int, match.groups())
    return Confirm(top=top, seeds=seeds) if top >= 2 and 1 <= seeds <= MOST_SEEDS else None


def read_sampler(found: Findings, raw: Mapping[str, Any], method: str | None) -> Sampler:
    """Return who chooses the points, after adding the problem of a file that names nobody."""
    if "sampler" not in raw:
        return "own"
    for name in SAMPLERS:
        if raw["sampler"] == name:
            if method in ("random", "grid") and name != "own":
                found.problem("sampler", f"{name} is for method bayes, and this sweep's is {method}; leave it out")
            return name
    found.problem("sampler", f"must be {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}, got {spelled(raw['sampler'])}; "
                             f"leave it out for own")
    return "own"


def read_confirm(found: Findings, raw: Mapping[str, Any]) -> Confirm | None:
    """Return how the winner is confirmed, none where the file does not say, after adding the problems."""
    value, way_out = raw.get("confirm"), "write confirm: {top: 3, seeds: 2}, or confirm: false"
    if "confirm" not in raw:
        return None
    if value is False:
        return OFF
    if not isinstance(value, Mapping):
        found.problem("confirm", f"must be a mapping or false, got {spelled(value)}; {way_out}")
        return None
    for key in value:
        if key not in ("top", "seeds"):
            found.problem(f"confirm.{key}", f"no such key; {suggestion(key, ('top', 'seeds'))}")
    numbers = {}
    for key, least, most, why in (("top", 2, 100, "with one there is nothing to choose"),
                                  ("seeds", 1, MOST_SEEDS, "more seeds cost more than they tell")):
        number = value.get(key)
        if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
            numbers[key] = number
        elif key not in value:
            found.problem(f"confirm.{key}", f"missing; {way_out}")
        elif not found.text_number(f"confirm.{key}", number):
            found.problem(f"confirm.{key}", f"must be a whole number from {least} to {most}, got "
                                                f"{spelled(number)}; {why}")
    return Confirm(**numbers) if len(numbers) == 2 else None
