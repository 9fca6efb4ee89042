"""What an earlier trial teaches, and a seed that is the same everywhere: what every sampler is given."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Told(StrEnum):
    """What a sampler can learn from a trial."""

    VALUE = "value"
    """How good the point is."""
    BAD = "bad"
    """The point is no good, and has no loss to say how bad: it is told as the worst so far."""
    INFEASIBLE = "infeasible"
    """The point does not fit in memory: told as the worst so far, and as breaking a constraint."""
    RUNNING = "running"
    """The point is being tried now, so look elsewhere."""
    NOTHING = "nothing"
    """A bug or a crash says nothing about the point."""


TAUGHT = (Told.VALUE, Told.BAD, Told.INFEASIBLE)
"""Lessons about the point itself."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """An earlier trial as a sampler sees it."""

    params: Mapping[str, Any]
    told: Told
    value: float | None = None
    """The metric, measured or extrapolated; only with `Told.VALUE`."""
    measured: float | None = None
    """What the trial itself came to, where `value` is of further seeds too."""
    surface: int = 0
    """0 for trials that are trained as the next one will be; else the number of another study's surface."""
    is_winner: bool = False
    """Another study's best, by all of its seeds."""
    at: Mapping[str, Any] | None = None
    """Where it was measured, if that lies outside of the ranges; `params` are then their nearest point."""


def is_within(known: Observation) -> bool:
    """Say whether a trial of another study is as good as one of the search's own: trained alike, within its ranges."""
    return not known.surface and known.at is None


def stable_seed(*parts: object) -> int:
    """Return a 32-bit seed that is the same in every process for the same parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
