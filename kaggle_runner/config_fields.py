"""The fields of a config: their types, what fits into them, and what is made of a file's values."""

import functools
import math
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from kaggle_runner.errors import ConfigError

DEMO_DATASET = "python-docs"
"""`dataset: python-docs` is built from the documentation inside the running Python."""
SCHEDULES = ("cosine", "linear", "constant")
ROW_FIELDS = (
    "dataset", "dataset_config", "dataset_split", "dataset_revision", "eval_dataset", "columns", "max_lost_share",
    "samples", "full_dataset", "eval_share", "max_eval_samples", "max_length", "eval_max_length",
    "completion_only_loss", "eval_completion_only_loss", "train_on", "eval_train_on", "model", "trust_remote_code")
"""The fields of a fine-tune that its rows and their tokens depend on."""
MAPPINGS = {"columns": "a mapping such as {prompt: question, completion: answer}, or null"}
"""Fields that a file writes as mappings, in a user's words."""


def field_types(config_type: Any) -> dict[str, Any]:
    """Return the fields of a config type with their types, in their order."""
    return _type_hints(config_type)


def type_problems(config: Any) -> list[str]:
    """Say which fields of a config hold a value of the wrong type, in the order of the fields."""
    problems = []
    for name, expected in field_types(type(config)).items():
        value = getattr(config, name)
        if has_type(value, expected):
            continue
        wanted = MAPPINGS.get(name) or describe_type(expected)
        if value is None:
            problems.append(f"{name} must be {wanted}, got nothing; write a value behind it, or leave {name} out")
        else:
            problems.append(f"{name} must be {wanted}, got {value!r}")
    return problems


def has_type(value: Any, expected: Any) -> bool:
    """Say whether a value can stand in a field of this type; a whole number fits where a number is wanted."""
    options = get_args(expected) if get_origin(expected) not in (None, tuple) else (expected,)
    return any(_fits_one(value, option) for option in options)


def describe_type(expected: Any) -> str:
    """Name a field's type in a user's words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    options = get_args(expected) if get_origin(expected) not in (None, tuple) else (expected,)
    return " or ".join(words.get(option, "a list of names") for option in options)


def plain_fields(config_type: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a sweep's parameters into the fields' own types.

    Raises:
        ConfigError: a name that is no field.
    """
    unknown = sorted(set(params) - set(field_types(config_type)))
    if unknown:
        raise ConfigError(f"no such hyperparameter: {', '.join(unknown)}")
    return {name: _plain(value, field_types(config_type)[name]) for name, value in params.items()}


def _fits_one(value: Any, expected: Any) -> bool:
    if get_origin(expected) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def _plain(value: Any, expected: Any) -> Any:
    """Turn what YAML, JSON and W&B's server make of a value into the field's own type: lists to
    tuples, mappings to tuples of `name=value`, 8.0 to 8."""
    if isinstance(value, Mapping):
        return tuple(f"{name}={column}" for name, column in value.items())
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, float) and value.is_integer() and not has_type(value, expected):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and expected is float:
        return float(value)
    return value


@functools.cache  # 0.4 ms each time, and checking a sweep file builds a hundred configs
def _type_hints(config_type: Any) -> dict[str, Any]:
    return get_type_hints(config_type)


def shared_problems(config: Any) -> list[str]:
    """Check the fields that both configs have."""
    problems = []
    if not config.learning_rate > 0 or not math.isfinite(config.learning_rate):
        problems.append(f"learning_rate must be above 0, got {config.learning_rate}")
    if not config.max_grad_norm > 0:
        problems.append(f"max_grad_norm must be above 0, got {config.max_grad_norm}")
    if config.weight_decay < 0:
        problems.append(f"weight_decay must not be negative, got {config.weight_decay}")
    if not 0 <= config.warmup_ratio < 1:
        problems.append(f"warmup_ratio is a share of the steps, 0 to below 1, got {config.warmup_ratio}")
    if not 0 <= config.seed < 2**32:
        problems.append(f"seed must be 0 to 2**32 - 1, got {config.seed}")
    if config.lr_scheduler_type not in SCHEDULES:
        problems.append(f"lr_scheduler_type must be one of {', '.join(SCHEDULES)}, got {config.lr_scheduler_type!r}")
    return problems
