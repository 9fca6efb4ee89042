"""The hyperparameters of one trial, checked on construction.

The names are the ecosystem's, and a sweep file's parameter names are these field names: nothing is mapped or renamed.
The defaults here are the only defaults there are.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config_charlm import CHARLM_OPTIMIZERS, CharLMConfig
from kaggle_runner.config_fields import (
    DEMO_DATASET,
    ROW_FIELDS,
    SCHEDULES,
    field_types,
    plain_fields,
    shared_problems,
    type_problems,
)
from kaggle_runner.errors import ConfigError

__all__ = ["CHARLM_OPTIMIZERS", "DEMO_DATASET", "DEMO_MODEL", "MOST_SAMPLES", "OPTIMIZERS", "SCHEDULES", "TRAINERS",
           "CharLMConfig", "Config", "FinetuneConfig", "config_from_params", "field_types", "needs_bitsandbytes",
           "trainer_of"]

COLUMN_ROLES = ("prompt", "completion", "system", "context", "history", "tools", "messages", "text")
"""What a column can be, for `columns`."""
OPTIMIZERS = ("adamw_torch", "adamw_8bit", "paged_adamw_8bit")
MOST_SAMPLES = 12_000
"""Training rows where `samples` is left out: what there is, but not more."""
MOST_EPOCHS = 10_000
"""Passes over the rows beyond which a number is a slip."""
ONE_LENGTH = "max_steps and num_train_epochs are both given, and a trial has one length; leave one of them out"
DEMO_MODEL = "demo"
"""`model: demo` is the small base that ships with the package."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One LoRA fine-tune of a causal language model.

    Raises:
        ConfigError: any field outside its range, or of the wrong type; all of them in one message.
    """

    has_base = True
    """It adapts a model that is there before the trial: a base that can be measured untouched and kept warm."""

    trainer: str = "finetune"
    """The trainer of this config; a sweep file that names none means this one."""
    model: str = DEMO_MODEL
    """Hub id, local folder, or `demo` for the small base that ships with the package."""
    dataset: str = DEMO_DATASET
    """Hub id, local JSON/JSONL/CSV/Parquet file or folder, or `python-docs` for the built-in rows."""
    trust_remote_code: bool = False
    """Run the Python code that a model's folder or hub page brings along; false refuses such a model."""
    dataset_config: str | None = None
    """Which of a dataset's configurations to read, where it has several."""
    dataset_split: str | None = None
    """Which split to train on; none: `train`, or the only one."""
    dataset_revision: str | None = None
    """Branch, tag or commit of a dataset on the hub; none: its newest."""
    eval_dataset: str | None = None
    """A dataset whose rows are held out; none: the dataset's own validation or test rows, else some of its rows."""
    columns: tuple[str, ...] | None = None
    """Which column is what, as `{prompt: question, completion: answer}`, where the names do not tell it."""
    max_lost_share: float = 0.1
    """Share of the rows that may be left out, because nothing can be learned from them, before the sweep is refused."""
    samples: int | None = None
    """Training rows drawn from the dataset, always the same ones; none: what there is, up to 12,000. Ignored when
    `full_dataset` is true."""
    full_dataset: bool = False
    """Train on every row that is not held out."""
    eval_share: float = 0.05
    """Share of the rows that is held out, at most, where the dataset has no validation split of its own."""
    max_eval_samples: int = 500
    """Held-out rows that measure `eval/loss`, at most; the same rows for every trial of a study."""
    max_length: int = 512
    """Tokens in a row; longer rows are cut at the end."""
    eval_max_length: int | None = None
    """Tokens in a held-out row, where trials of different `max_length` are compared; none: `max_length`."""
    completion_only_loss: bool = True
    """Count the loss on the answers' tokens only, in training and in evaluation."""
    eval_completion_only_loss: bool | None = None
    """The same for the evaluation alone, where trials that differ in it are compared; none: `completion_only_loss`."""
    train_on: str = "all"
    """Which answers of a conversation count: `all`, or only the `last`."""
    eval_train_on: str | None = None
    """The same for the evaluation alone, where trials that differ in it are compared; none: `train_on`."""
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
    """Optimizer steps of a full trial: 12,000 rows at the default effective batch of 8. With `num_train_epochs` it is
    not given but follows: from `samples`, and exactly from the rows there are as soon as these are counted."""
    num_train_epochs: float | None = None
    """Passes over the training rows, in place of `max_steps`; trials of different batches then see the same rows."""
    eval_steps: int = 100
    """Optimizer steps between two evaluations; the last step is always evaluated."""
    early_stopping_patience: int | None = 15
    """Evaluations without a new best metric after which the trial ends: 1,500 steps with the default `eval_steps`;
    none: train to the end."""
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
    """Compute all activations again in the backward pass, or none; left out, those that there is no room to keep."""
    use_liger_kernel: bool = False
    """Use Liger's fused norms, rotations and activations, where liger-kernel is installed; GPUs only."""
    optim: str = "adamw_torch"
    """Optimizer: `adamw_torch`, or bitsandbytes' `adamw_8bit` and `paged_adamw_8bit`."""
    seed: int = 42
    """Seed of the adapter's start, dropout, and the order of the rows."""

    def __post_init__(self) -> None:
        problems = type_problems(self) or self._range_problems()
        if problems:
            raise ConfigError("; ".join(problems))
        if self.num_train_epochs is not None:
            object.__setattr__(self, "max_steps", self._steps_of(self.samples or MOST_SAMPLES))

    def counted(self, rows: int) -> "FinetuneConfig":
        """Return the config with the steps that its epochs take over so many training rows; as it is without epochs."""
        if self.num_train_epochs is None:
            return self
        return dataclasses.replace(self, max_steps=self._steps_of(rows), num_train_epochs=None)

    def for_scoring(self) -> "FinetuneConfig":
        """Return the config whose `max_length`, `completion_only_loss`, `train_on` are those of the held-out rows."""
        inherited = self.eval_completion_only_loss is None
        return dataclasses.replace(
            self, max_length=self.eval_max_length or self.max_length, train_on=self.eval_train_on or self.train_on,
            completion_only_loss=self.completion_only_loss if inherited else bool(self.eval_completion_only_loss))

    @property
    def rows_key(self) -> tuple[Any, ...]:
        """What its rows and tokens depend on: configs with equal keys share both."""
        return tuple(getattr(self, name) for name in ROW_FIELDS)

    @property
    def column_of(self) -> dict[str, str]:
        """The column of each role that `columns` names, in its order."""
        return dict(entry.split("=", 1) for entry in self.columns or ())

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
        if self.num_train_epochs is not None:
            del values["max_steps"]  # follows, and a config takes one of the two
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "FinetuneConfig":
        """Build a config from a sweep's parameters; fields that are not named keep their defaults.

        Raises:
            ConfigError: a name that is no hyperparameter, or a value that cannot work.
        """
        if "max_steps" in params and params.get("num_train_epochs") is not None:
            raise ConfigError(ONE_LENGTH)
        return cls(**plain_fields(cls, params))

    def _steps_of(self, rows: int) -> int:
        return max(1, math.ceil(round((self.num_train_epochs or 0) * rows / self.effective_batch_size, 6)))

    def _range_problems(self) -> list[str]:
        problems = []
        for name in ("samples", "max_eval_samples", "batch_size", "gradient_accumulation_steps", "max_steps",
                     "eval_steps", "lora_r", "lora_alpha"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_length", "eval_max_length"):
            if getattr(self, name) is not None and getattr(self, name) < 8:
                problems.append(f"{name} must be at least 8 tokens, got {getattr(self, name)}")
        if self.num_train_epochs is not None and not 0 < self.num_train_epochs <= MOST_EPOCHS:
            problems.append(f"num_train_epochs must be above 0 and at most {MOST_EPOCHS}, got {self.num_train_epochs}")
        if not 0 < self.eval_share < 1:
            problems.append(f"eval_share is a share of the rows, above 0 and below 1, got {self.eval_share}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            problems.append(f"early_stopping_patience must be at least 1, or null for never, "
                            f"got {self.early_stopping_patience}")
        problems += shared_problems(self)
        if not 0 <= self.lora_dropout < 1:
            problems.append(f"lora_dropout must be 0 to below 1, got {self.lora_dropout}")
        if self.trainer != "finetune":
            problems.append(f"trainer must be one of {', '.join(TRAINERS)}, got {self.trainer!r}")
        if self.optim not in OPTIMIZERS:
            problems.append(f"optim must be one of {', '.join(OPTIMIZERS)}, got {self.optim!r}")
        for name in ("train_on", "eval_train_on"):
            if getattr(self, name) not in (("all", "last") if name == "train_on" else ("all", "last", None)):
                problems.append(f"{name} must be all or last, got {getattr(self, name)!r}")
        if not 0 <= self.max_lost_share <= 1:
            problems.append(f"max_lost_share is a share of the rows, 0 to 1, got {self.max_lost_share}")
        pairs = {entry: entry.partition("=") for entry in self.columns or ()}
        odd = [entry for entry, (role, is_pair, column) in pairs.items()
               if role not in COLUMN_ROLES or not is_pair or not column]
        if odd:
            problems.append(f"columns must name a column for some of {', '.join(COLUMN_ROLES)}, got "
                            f"{', '.join(map(repr, odd))}; write {{prompt: question, completion: answer}}")
        for name in ("model", "dataset", "target_modules", "eval_dataset", "dataset_config", "dataset_split", "columns",
                     "dataset_revision"):
            if getattr(self, name) is not None and not getattr(self, name):
                problems.append(f"{name} must not be empty")
        return problems


Config = FinetuneConfig | CharLMConfig
"""The type of a trial's hyperparameters, whichever trainer it has."""
TRAINERS: dict[str, type[FinetuneConfig] | type[CharLMConfig]] = {"finetune": FinetuneConfig, "charlm": CharLMConfig}
"""The config type of each trainer, by the name that a sweep file's `trainer` has."""


def trainer_of(params: Mapping[str, Any]) -> str:
    """Name the trainer of a trial; a fine-tune where nothing is said.

    Raises:
        ConfigError: there is no such trainer.
    """
    trainer = params.get("trainer", "finetune")
    if trainer not in TRAINERS:
        raise ConfigError(f"trainer must be one of {', '.join(TRAINERS)}, got {trainer!r}")
    return str(trainer)


def needs_bitsandbytes(params: Mapping[str, Any]) -> bool:
    """Say whether fine-tunes of these parameters, values or what these are chosen from, are quantised anywhere."""
    return any(values_in(params, "load_in_4bit", True)) or any(
        name != OPTIMIZERS[0] for name in values_in(params, "optim", OPTIMIZERS[0]))


def values_in(params: Mapping[str, Any], name: str, default: Any = None) -> list[Any]:
    """Return what a hyperparameter can be: its value, or all that it is chosen from."""
    given = params.get(name, default)
    return list(getattr(given, "values", None) or [getattr(given, "value", given)])


def config_from_params(params: Mapping[str, Any]) -> Config:
    """Build the config of a trial, of the trainer that its parameters name.

    Raises:
        ConfigError: an unknown trainer, a name that is no hyperparameter of it, or a value that cannot work.
    """
    return TRAINERS[trainer_of(params)].from_params(params)


SINCE_0_2 = ("trust_remote_code", "dataset_config", "dataset_split", "dataset_revision", "eval_dataset", "columns",
             "max_lost_share", "eval_share", "eval_max_length", "eval_completion_only_loss", "train_on",
             "eval_train_on", "num_train_epochs")
"""Hyperparameters that studies and checkpoints of version 0.2 do not name: theirs are the defaults."""


def known_to_0_2(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config as version 0.2 would have written them, so that its studies can be continued.

    What is newer and at its default is left out; where `samples` is left open, it is what 0.2 had as its default.
    """
    defaults = TRAINERS[trainer_of(values)]()
    kept = {name: value for name, value in values.items()
            if name not in SINCE_0_2 or value != getattr(defaults, name)}
    return kept | ({"samples": MOST_SAMPLES} if "samples" in kept and kept["samples"] is None else {})
