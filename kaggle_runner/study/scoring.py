"""What a trial's loss was measured over: losses over other tokens cannot be compared."""

from collections.abc import Iterable, Mapping
from typing import Any

from kaggle_runner.config import FinetuneConfig, config_from_params
from kaggle_runner.errors import ConfigError
from kaggle_runner.metrics import BITS_PER_BYTE

HOW = ("max_length", "completion_only_loss", "train_on", "max_eval_samples")
OWN_ROWS = ("dataset", "dataset_config", "dataset_split", "dataset_revision", "columns", "eval_share")


def scoring_of(params: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """Return the hyperparameters that decide which tokens a trial was scored on; none where they are no trainer's."""
    try:
        config = config_from_params(params)
    except ConfigError:
        return None
    if not isinstance(config, FinetuneConfig):
        return {name: getattr(config, name) for name in ("dataset", "symbols", "max_eval_tokens")}
    scored = config.for_scoring()
    rows = OWN_ROWS if config.eval_dataset is None else ("eval_dataset", "columns")
    names = (*(() if metric == BITS_PER_BYTE else ("model",)), *rows, *HOW)
    return {name: getattr(scored, name) for name in names}


def differing(scorings: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Name the hyperparameters in which some scorings are not alike; what is not known is like everything."""
    known = [scoring for scoring in scorings if scoring is not None]
    names = dict.fromkeys(name for scoring in known for name in scoring)
    return [name for name in names if any(scoring.get(name) != known[0].get(name) for scoring in known)]
