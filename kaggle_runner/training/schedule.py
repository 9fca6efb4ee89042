"""The learning rate of an optimizer step: up during the warm-up, then along the schedule."""

import math
from typing import Protocol


class Schedule(Protocol):
    """What the configs of both trainers say about the learning rate."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""

    @property
    def lr_scheduler_type(self) -> str:
        """Shape of the learning rate after the warm-up: cosine, linear or constant."""

    @property
    def warmup_steps(self) -> int:
        """Number of optimizer steps of the warm-up."""

    @property
    def max_steps(self) -> int:
        """Number of optimizer steps of the whole trial."""


def learning_rate_at(config: Schedule, step: int) -> float:
    """Return the learning rate of an optimizer step, counted from 0; it ends at the config's `min_lr_rate`, or zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    left = 1 - done if config.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    floor = getattr(config, "min_lr_rate", 0.0)
    return config.learning_rate * (floor + (1 - floor) * left)
