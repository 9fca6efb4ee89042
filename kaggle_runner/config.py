"""The hyperparameters of one trial, checked on construction.

The names are the ecosystem's, and a sweep file's parameter names are these field names: nothing is mapped or renamed.
The defaults here are the only defaults there are.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config_fields import field_types, plain_fields, type_problems
from kaggle_runner.errors import ConfigError

__all__ = ["CHARLM_OPTIMIZERS", "DEMO_DATASET", "DEMO_MODEL", "OPTIMIZERS", "SCHEDULES", "TRAINERS", "CharLMConfig",
           "Config", "FinetuneConfig", "config_from_params", "field_types", "trainer_of"]

COLUMN_ROLES = ("prompt", "completion", "system", "context", "history", "tools", "messages", "text")
"""What a column can be, for `columns`."""
SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw_torch", "adamw_8bit", "paged_adamw_8bit")
CHARLM_OPTIMIZERS = ("muon", "adamw_torch")
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

    has_base = True
    """It adapts a model that is there before the trial: a base that can be measured untouched and kept warm."""

    trainer: str = "finetune"
    """What trains this config; a sweep file that says nothing means this one."""
    model: str = DEMO_MODEL
    """Hub id, local folder, or `demo` for the small base that ships with the package."""
    dataset: str = DEMO_DATASET
    """Hub id, local JSON/JSONL/CSV/Parquet file or folder, or `python-docs` for the built-in rows."""
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
    samples: int = 12_000
    """Training rows drawn from the dataset, by seed; ignored when `full_dataset` is true."""
    full_dataset: bool = False
    """Train on every row that is not held out."""
    max_eval_samples: int = 500
    """Held-out rows that measure `eval/loss`; the same rows for every trial of a study."""
    max_length: int = 512
    """Tokens in a row; longer rows are cut at the end."""
    completion_only_loss: bool = True
    """Count the loss on the answers' tokens only, in training and in evaluation."""
    train_on: str = "all"
    """Which answers of a conversation count: `all`, or only the `last`."""
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
    early_stopping_patience: int | None = 15
    """Evaluations without a new best `eval/loss` after which the trial ends: 1,500 steps with the default `eval_steps`;
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
    """Compute activations again in the backward pass: about half the memory for a fifth of the speed."""
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
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "FinetuneConfig":
        """Build a config from a sweep's parameters; fields that are not named keep their defaults.

        Raises:
            ConfigError: a name that is no hyperparameter, or a value that cannot work.
        """
        return cls(**plain_fields(cls, params))

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
        problems += _shared_problems(self)
        if not 0 <= self.lora_dropout < 1:
            problems.append(f"lora_dropout must be 0 to below 1, got {self.lora_dropout}")
        if self.trainer != "finetune":
            problems.append(f"trainer must be one of {', '.join(TRAINERS)}, got {self.trainer!r}")
        if self.optim not in OPTIMIZERS:
            problems.append(f"optim must be one of {', '.join(OPTIMIZERS)}, got {self.optim!r}")
        if self.train_on not in ("all", "last"):
            problems.append(f"train_on must be all or last, got {self.train_on!r}")
        if not 0 <= self.max_lost_share <= 1:
            problems.append(f"max_lost_share is a share of the rows, 0 to 1, got {self.max_lost_share}")
        for entry in self.columns or ():
            role, is_pair, column = entry.partition("=")
            if role not in COLUMN_ROLES or not is_pair or not column:
                problems.append(f"columns must name a column for some of {', '.join(COLUMN_ROLES)}, got {entry!r}")
        for name in ("model", "dataset", "target_modules", "eval_dataset", "dataset_config", "dataset_split", "columns",
                     "dataset_revision"):
            if getattr(self, name) is not None and not getattr(self, name):
                problems.append(f"{name} must not be empty")
        return problems


@dataclass(frozen=True, kw_only=True)
class CharLMConfig:
    """One character-level language model, trained from nothing; a token is a character.

    Trials are compared at equal tokens: the number of steps follows from `max_tokens` and the size of a step.

    Raises:
        ConfigError: any field outside its range, or of the wrong type; all of them in one message.
    """

    has_base = False
    """It trains a model from nothing."""

    trainer: str = "charlm"
    """What trains this config; a sweep file says `trainer: {value: charlm}`."""
    dataset: str = DEMO_DATASET
    """Text file, `text8`, or `python-docs` for the built-in text; split 90/5/5 by position."""
    symbols: str = "own"
    """`own`: the characters of the text; `text8`: a to z and the blank, every other character made one of them."""
    max_length: int = 256
    """Characters in a training window."""
    max_tokens: int = 50_000_000
    """Characters to train on in all; the last step is the last that fits."""
    max_eval_tokens: int = 65_536
    """Validation characters that are scored, the same ones for every trial."""
    evaluations: int = 10
    """Evaluations of a trial, the last one at its end."""
    hidden_size: int = 384
    """Width of the model."""
    num_hidden_layers: int = 6
    """Blocks of attention and network."""
    num_attention_heads: int = 6
    """Heads of each attention."""
    position_embedding: str = "rope"
    """How a position is known: `rope` turns queries and keys, `learned` adds a vector for each position."""
    norm: str = "rmsnorm"
    """`rmsnorm`, without weights, or `layernorm`, with weights where there are biases."""
    hidden_act: str = "relu2"
    """Between the layers of a block's network: `relu2`, the square of ReLU, or `gelu`."""
    qk_norm: bool = False
    """Normalise queries and keys."""
    use_bias: bool = False
    """Biases in the linear layers, and weights in LayerNorm."""
    zero_init: bool = True
    """Start with blocks that do nothing."""
    tie_word_embeddings: bool = False
    """Use the embedding as the output matrix too."""
    dropout: float = 0.0
    """On the embedding, on attention, and on what a block adds."""
    label_smoothing_factor: float = 0.0
    """Share of the target spread over all symbols, in training only: eval/loss is always the plain one."""
    batch_size: int = 64
    """Windows in one forward pass on one device."""
    gradient_accumulation_steps: int = 1
    """Forward passes for one optimizer step."""
    optim: str = "muon"
    """`muon` for the matrices of the blocks with AdamW for the rest, or `adamw_torch` for all."""
    learning_rate: float = 3e-3
    """Peak learning rate of both optimizers, reached at the end of the warm-up."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices."""
    adam_beta2: float = 0.95
    """How slowly AdamW's second moment follows."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    lr_scheduler_type: str = "cosine"
    """Shape of the learning rate after the warm-up: cosine, linear or constant."""
    min_lr_rate: float = 0.1
    """Where cosine and linear end, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    save_model: bool = False
    """Keep the weights of the end as `model.pt` in the trial's directory."""
    seed: int = 42
    """Seed of the weights, dropout, and the order of the windows."""

    def __post_init__(self) -> None:
        problems = type_problems(self) or self._range_problems()
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def effective_batch_size(self) -> int:
        """Windows that contribute to one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def step_tokens(self) -> int:
        """Characters of one optimizer step."""
        return self.effective_batch_size * self.max_length

    @property
    def max_steps(self) -> int:
        """Optimizer steps that fit into `max_tokens`, at least one."""
        return max(1, self.max_tokens // self.step_tokens)

    @property
    def eval_steps(self) -> int:
        """Optimizer steps between two evaluations; the last step is always evaluated."""
        return math.ceil(self.max_steps / self.evaluations)

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up, rounded up."""
        return math.ceil(self.warmup_ratio * self.max_steps)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "CharLMConfig":
        """Build a config from a sweep's parameters; fields that are not named keep their defaults.

        Raises:
            ConfigError: a name that is no hyperparameter, or a value that cannot work.
        """
        return cls(**plain_fields(cls, params))

    def _range_problems(self) -> list[str]:
        whole = ("max_eval_tokens", "evaluations", "hidden_size", "num_hidden_layers", "num_attention_heads",
                 "batch_size", "gradient_accumulation_steps")
        problems = [f"{name} must be at least 1, got {value}" for name in whole if (value := getattr(self, name)) < 1]
        problems += _shared_problems(self)
        for name in ("dropout", "label_smoothing_factor", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be 0 to below 1, got {getattr(self, name)}")
        if not 0 <= self.min_lr_rate <= 1:
            problems.append(f"min_lr_rate is a share of the peak, 0 to 1, got {self.min_lr_rate}")
        if self.max_length < 8:
            problems.append(f"max_length must be at least 8 characters, got {self.max_length}")
        if not problems and self.max_tokens < self.step_tokens:
            problems.append(f"max_tokens must be at least the {self.step_tokens} of one step "
                            f"(batch_size {self.batch_size} x max_length {self.max_length}), got {self.max_tokens}")
        if not problems and self.hidden_size % (2 * self.num_attention_heads):
            problems.append(f"hidden_size must be a multiple of twice num_attention_heads "
                            f"{self.num_attention_heads}, got {self.hidden_size}")
        choices = {"trainer": ("charlm",), "symbols": ("own", "text8"), "position_embedding": ("rope", "learned"),
                   "norm": ("rmsnorm", "layernorm"), "hidden_act": ("relu2", "gelu"), "optim": CHARLM_OPTIMIZERS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                problems.append(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.dataset:
            problems.append("dataset must not be empty")
        return problems


Config = FinetuneConfig | CharLMConfig
"""The hyperparameters of a trial of either trainer."""
TRAINERS: dict[str, type[FinetuneConfig] | type[CharLMConfig]] = {"finetune": FinetuneConfig, "charlm": CharLMConfig}
"""The config of each trainer, by what a sweep file's `trainer` says."""


def trainer_of(params: Mapping[str, Any]) -> str:
    """Name the trainer of a trial; a fine-tune where nothing is said.

    Raises:
        ConfigError: there is no such trainer.
    """
    trainer = params.get("trainer", "finetune")
    if trainer not in TRAINERS:
        raise ConfigError(f"trainer must be one of {', '.join(TRAINERS)}, got {trainer!r}")
    return trainer


def config_from_params(params: Mapping[str, Any]) -> Config:
    """Build the config of a trial, of the trainer that its parameters name.

    Raises:
        ConfigError: an unknown trainer, a name that is no hyperparameter of it, or a value that cannot work.
    """
    return TRAINERS[trainer_of(params)].from_params(params)


def _shared_problems(config: Any) -> list[str]:
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
