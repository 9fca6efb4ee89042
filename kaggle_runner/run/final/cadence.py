"""How a training of hours is arranged: its evaluations, its checkpoints, and the rows of each step among processes."""

import dataclasses
import math

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError

MOST_EVALUATIONS = 40
"""Evaluations of a whole training, at most: of 500 rows, each takes the time of about 250 trained rows."""
CHECKPOINTS = 100
"""Checkpoints of a whole training where they are not rarer than evaluations: of 24 hours, a quarter of one is lost."""


def spread(config: FinetuneConfig) -> FinetuneConfig:
    """Return a config whose evaluations are as many as a long training can bear, but not more frequent than its own."""
    rarest = math.ceil(config.max_steps / MOST_EVALUATIONS)
    return dataclasses.replace(config, eval_steps=max(config.eval_steps, rarest))


def steps_between_checkpoints(config: FinetuneConfig) -> int:
    """Return the optimizer steps between two checkpoints."""
    return max(1, min(config.eval_steps, config.max_steps // CHECKPOINTS))


def shares_of(config: FinetuneConfig, processes: int) -> int:
    """Return into how many parts the rows of each step are dealt: two for one process, so that a second may join.

    Raises:
        ConfigError: the rows of a step cannot be dealt evenly to so many processes.
    """
    rows = config.effective_batch_size
    if rows % processes:
        fits = [count for count in range(processes - 1, 0, -1) if rows % count == 0]
        raise ConfigError(f"a step of {rows} rows (batch_size {config.batch_size} times gradient_accumulation_steps "
                          f"{config.gradient_accumulation_steps}) cannot be dealt evenly to {processes} processes; "
                          f"give --processes {fits[0]}, or a configuration whose product is a multiple of {processes}")
    return processes if processes > 1 else 2 - rows % 2


def dealt(config: FinetuneConfig, shares: int) -> FinetuneConfig:
    """Return a config whose micro-batches are no larger than a share, so that half of one is really smaller."""
    rows = config.effective_batch_size // shares
    if config.batch_size <= rows:
        return config
    return dataclasses.replace(config, batch_size=rows, gradient_accumulation_steps=shares)


def processes_for(shares: int, wanted: int, asked: bool) -> int:
    """Return how many processes go on with a training that was begun with so many shares.

    Raises:
        ConfigError: so many were `asked` for, and the shares cannot be dealt evenly to them.
    """
    if shares % wanted and asked:
        fits = " or ".join(str(count) for count in range(1, shares + 1) if shares % count == 0)
        raise ConfigError(f"this training was begun with the rows of each step dealt into {shares} parts, which "
                          f"{wanted} processes cannot share evenly; give --processes {fits}")
    return math.gcd(shares, wanted)
