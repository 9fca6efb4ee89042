"""The hyperparameters of one trial, checked on construction.

The names are the ecosystem's, and a sweep file's parameter names are these field names: nothing is mapped or renamed.
The defaults here are the only defaults there are.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from kaggle_runner.errors import ConfigError

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw_torch", "adamw_8bit", "paged_adamw_8bit")
DEMO_MODEL = "demo"
"""`model: demo` is the small base that ships with the package."""
DEMO_DATASET = "python-docs"
"""`dataset: python-docs` is built from the documentation inside the running Python."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One LoRA fine-tune of a causal language model.

    Raises:
        ConfigError: any field outside its range, or of the wrong type; all of them in one message.
    """

    model: str = DEMO_MODEL
    """Hub id, local folder, or `demo` for the small base that ships with the package."""
    dataset: str = DEMO_DATASET
    """Hub id, local JSON/JSONL/CSV/Parquet file or folder, or `python-docs` for the built-in rows."""
    samples: int = 12_000
    """Training rows drawn from the dataset, by seed; ignored when `full_dataset` is true."""
    full_dataset: bool = False
    """Train on every row that is not held out."""
    max_eval_samples: int = 500
    """Held-out rows that measure `eval/loss`; the same rows for every trial of a study."""
    max_length: int = 512
    """Tokens in a row; longer rows are cut at the end."""
    completion_only_loss: bool = True
    """Count the loss on the answer's tokens only, in training and in evaluation."""
    batch_size: int = 2
    """Rows in one forward pass on one device."""
    gradient_accumulation_steps: int = 4
    """Forward passes for one optimizer step; the effective batch is this times `batch_size`."""
    learning_rate: float = 2e-4
    """Peak learning rate, reached at the end of the warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW, on the adapter's matrices."""
    warmup_ratio: float = 0.03
    """Share of `max_steps` in which the learning rate rises from zero."""
    lr_scheduler_type: str = "cosine"
    """Shape of the learning rate after the warm-up: cosine or linear to zero, or constant."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    max_steps: int = 1_500
    """Optimizer steps of a full trial: 12,000 rows at the default effective batch of 8."""
    eval_steps: int = 100
    """Optimizer steps between two evaluations; the last step is always evaluated."""
    early_stopping_patience: int | None = None
    """Evaluations without a new best `eval/loss` after which the trial ends; none: train to the end."""
    lora_r: int = 8
    """Rank of the adapter."""
    lora_alpha: int = 16
    """The adapter's output is scaled by `lora_alpha / lora_r`."""
    lora_dropout: float = 0.05
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: `all-linear`, or names of modules."""
    load_in_4bit: bool = True
    """Quantise the base to NF4 with double quantisation; false keeps it in 16 or 32 bits."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about half the memory for a fifth of the speed."""
    optim: str = "adamw_torch"
    """Optimizer: `adamw_torch`, or bitsandbytes' `adamw_8bit` and `paged_adamw_8bit`."""
    seed: int = 42
    """Seed of the adapter's start, dropout, and the order of the rows."""

    def __post_init__(self) -> None:
        problems = type_problems(self)
        if not problems:
            problems = self._range_problems()
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def effective_batch_size(self) -> int:
        """Rows that contribute to one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up, rounded up."""
        return math.ceil(self.warmup_ratio * self.max_steps)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = dataclasses.asdict(self)
        if isinstance(self.target_modules, tuple):
            values["target_modules"] = list(self.target_modules)
        return values

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "FinetuneConfig":
        """Build a config from a sweep's parameters; fields that are not named keep their defaults.

        Raises:
            ConfigError: a name that is no hyperparameter, or a value that cannot work.
        """
        unknown = sorted(set(params) - set(field_types(cls)))
        if unknown:
            raise ConfigError(f"no such hyperparameter: {', '.join(unknown)}")
        return cls(**{name: _plain(value, field_types(cls)[name]) for name, value in params.items()})

    def _range_problems(self) -> list[str]:
        problems = []
        for name in ("samples", "max_eval_samples", "batch_size", "gradient_accumulation_steps", "max_steps",
                     "eval_steps", "lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length < 8:
            problems.append(f"max_length must be at least 8 tokens, got {self.max_length}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            problems.append(f"early_stopping_patience must be at least 1, or null for never, "
                            f"got {self.early_stopping_patience}")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.max_grad_norm > 0:
            problems.append(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        if self.weight_decay < 0:
            problems.append(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.warmup_ratio < 1:
            problems.append(f"warmup_ratio is a share of the steps, 0 to below 1, got {self.warmup_ratio}")
        if not 0 <= self.lora_dropout < 1:
            problems.append(f"lora_dropout must be 0 to below 1, got {self.lora_dropout}")
        if not 0 <= self.seed < 2**32:
            problems.append(f"seed must be 0 to 2**32 - 1, got {self.seed}")
        if self.lr_scheduler_type not in SCHEDULES:
            problems.append(f"lr_scheduler_type must be one of {', '.join(SCHEDULES)}, got {self.lr_scheduler_type!r}")
        if self.optim not in OPTIMIZERS:
            problems.append(f"optim must be one of {', '.join(OPTIMIZERS)}, got {self.optim!r}")
        for name in ("model", "dataset", "target_modules"):
            if not getattr(self, name):
                problems.append(f"{name} must not be empty")
        return problems


def field_types(config_type: Any) -> dict[str, Any]:
    """Return the fields of a config type with their types, in their order."""
    return _type_hints(config_type)


def type_problems(config: Any) -> list[str]:
    """Say which fields of a config hold a value of the wrong type, in the order of the fields."""
    problems = []
    for name, expected in field_types(type(config)).items():
        value = getattr(config, name)
        if not fits_type(value, expected):
            problems.append(f"{name} must be {describe_type(expected)}, got {value!r}")
    return problems


def fits_type(value: Any, expected: Any) -> bool:
    """Say whether a value can stand in a field of this type; a whole number fits where a number is wanted."""
    options = get_args(expected) if get_origin(expected) not in (None, tuple) else (expected,)
    return any(_fits_one(value, option) for option in options)


def describe_type(expected: Any) -> str:
    """Name a field's type in a user's words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    options = get_args(expected) if get_origin(expected) not in (None, tuple) else (expected,)
    return " or ".join(words.get(option, "a list of names") for option in options)


def _fits_one(value: Any, expected: Any) -> bool:
    if get_origin(expected) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def _plain(value: Any, expected: Any) -> Any:
    """Turn what YAML, JSON and W&B's server make of a value into the field's own type: lists to tuples, 8.0 to 8."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, float) and value.is_integer() and not fits_type(value, expected):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and expected is float:
        return float(value)
    return value


@functools.cache  # 0.4 ms each time, and checking a sweep file builds a hundred configs
def _type_hints(config_type: Any) -> dict[str, Any]:
    return get_type_hints(config_type)
