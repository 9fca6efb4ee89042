"""The hyperparameters of one character-level language model, checked on construction."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config_fields import DEMO_DATASET, plain_fields, shared_problems, type_problems
from kaggle_runner.errors import ConfigError

CHARLM_OPTIMIZERS = ("muon", "adamw_torch")
TEXT8 = "text8"
TEXT8_HOST = "mattmahoney.net"
TEXT8_URL = f"https://{TEXT8_HOST}/dc/text8.zip"
"""Where `dataset: text8` comes from."""


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
    """The trainer of this config; a sweep file names it with `trainer: {value: charlm}`."""
    dataset: str = DEMO_DATASET
    """Text file, `text8`, or `python-docs` for the built-in text; split 90/5/5 by position."""
    symbols: str = "own"
    """`own` takes the characters of the text; `text8` takes a to z and the blank, and makes every other one of them."""
    max_length: int = 256
    """Characters in a training window."""
    max_tokens: int = 50_000_000
    """Characters to train on in all; the last step is the last that fits."""
    max_eval_tokens: int = 65_536
    """Validation characters that are scored, the same ones for every trial."""
    evaluations: int = 10
    """Number of evaluations of a trial; the last one is at its end."""
    hidden_size: int = 384
    """Width of the model."""
    num_hidden_layers: int = 6
    """Blocks of attention and network."""
    num_attention_heads: int = 6
    """Heads of each attention."""
    position_embedding: str = "rope"
    """How a position is known: `rope` turns queries and keys, `learned` adds a vector for each position."""
    norm: str = "rmsnorm"
    """Normalisation: `rmsnorm`, without weights, or `layernorm`, which has weights where there are biases."""
    hidden_act: str = "relu2"
    """Activation between the layers of a block's network: `relu2`, the square of ReLU, or `gelu`."""
    qk_norm: bool = False
    """Whether queries and keys are normalised."""
    use_bias: bool = False
    """Whether there are biases in the linear layers, and weights in LayerNorm."""
    zero_init: bool = True
    """Start with blocks that add nothing to what goes through them."""
    tie_word_embeddings: bool = False
    """Whether the embedding is the output matrix too."""
    dropout: float = 0.0
    """Dropout on the embedding, on attention, and on what each block adds."""
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
    """How slowly AdamW's second moment follows the gradients: the share of it that each step keeps."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    lr_scheduler_type: str = "cosine"
    """Shape of the learning rate after the warm-up: cosine, linear or constant."""
    min_lr_rate: float = 0.1
    """Where the learning rate ends under cosine and linear, as a share of its peak."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    save_model: bool = False
    """Whether the weights of the end are kept as `model.pt` in every trial's directory; those of the best one always
    are."""
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
        problems += shared_problems(self)
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
