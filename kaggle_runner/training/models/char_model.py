"""A decoder over characters: from a plain GPT-2 to rotary positions and squared ReLU, each part a hyperparameter.

Written for few operations: on a CPU a small model spends its time between the matrix products, not in them.
Shapes: B windows, T positions, D hidden size, H heads, V symbols.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kaggle_runner.config import CharLMConfig

INITIAL_DEVIATION = 0.02
"""Standard deviation of the weights at the start. Source: GPT-2, as nanoGPT has it."""
ROPE_BASE = 10_000.0
"""Slowest rotation of rotary positions. Source: RoFormer, arXiv:2104.09864, section 3.2.2."""


class CharModel(nn.Module):
    """Predicts the next symbol from the symbols before it."""

    rotations: torch.Tensor | None

    def __init__(self, config: CharLMConfig, symbols: int) -> None:
        """Draw the weights from torch's global generator: seed it before."""
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = nn.Embedding(symbols, size)
        self.positions = nn.Embedding(config.max_length, size) if config.position_embedding == "learned" else None
        blocks = [_Block(config) for _ in range(config.num_hidden_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = _norm(config, size)
        self.head = nn.Linear(size, symbols, bias=False)
        self.apply(_initialise)
        if config.zero_init:  # each block starts as the identity
            for block in blocks:
                nn.init.zeros_(block.out.weight)
                nn.init.zeros_(block.down.weight)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        rotations = None
        if self.positions is None:
            width = size // config.num_attention_heads
            speeds = ROPE_BASE ** (-torch.arange(0, width, 2) / width)
            rotations = torch.outer(torch.arange(config.max_length).float(), speeds)
            rotations = torch.polar(torch.ones_like(rotations), rotations)
        self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, symbols_BT: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next symbol at each position, as logits_BTV."""
        length = symbols_BT.shape[1]
        hidden_BTD = self.embedding(symbols_BT)
        if self.positions is not None:
            hidden_BTD = hidden_BTD + self.positions.weight[:length]
        hidden_BTD = _dropout(hidden_BTD, self.config.dropout, self.training)
        rotations = None if self.rotations is None else self.rotations[:length]
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD, rotations)
        logits_BTV: torch.Tensor = self.head(self.norm(hidden_BTD))
        return logits_BTV

    @property
    def parameter_count(self) -> int:
        """Number of trainable numbers; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


class _Block(nn.Module):
    """Attention and a two-layer network, each on a normalised copy of the stream."""

    def __init__(self, config: CharLMConfig) -> None:
        super().__init__()
        size, bias = config.hidden_size, config.use_bias
        self.config = config
        self.norm1, self.norm2 = _norm(config, size), _norm(config, size)
        self.qkv = nn.Linear(size, 3 * size, bias=bias)
        self.out = nn.Linear(size, size, bias=bias)
        self.up = nn.Linear(size, 4 * size, bias=bias)
        self.down = nn.Linear(4 * size, size, bias=bias)

    def forward(self, hidden_BTD: torch.Tensor, rotations: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        batch, length, size = hidden_BTD.shape
        heads = config.num_attention_heads
        # 1. attention: queries and keys are turned together, as one tensor
        qkv = self.qkv(self.norm1(hidden_BTD)).view(batch, length, 3 * heads, size // heads)
        turned, value = qkv.split((2 * heads, heads), dim=2)
        if config.qk_norm:
            turned = F.layer_norm(turned, turned.shape[-1:]) if config.norm == "layernorm" else \
                F.rms_norm(turned, turned.shape[-1:])
        if rotations is not None:
            turned = _turn(turned, rotations)
        query, key = turned.to(value.dtype).transpose(1, 2).chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value.transpose(1, 2), is_causal=True,
                                               dropout_p=config.dropout if self.training else 0.0)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, size))
        hidden_BTD = hidden_BTD + _dropout(mixed, config.dropout, self.training)
        # 2. the network
        inner = self.up(self.norm2(hidden_BTD))
        inner = _SquaredReLU.apply(inner) if config.hidden_act == "relu2" else F.gelu(inner)
        return hidden_BTD + _dropout(self.down(inner), config.dropout, self.training)


class _RMSNorm(nn.Module):
    """Scale to unit root mean square, without a weight."""

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden_BTD, hidden_BTD.shape[-1:])


class _SquaredReLU(torch.autograd.Function):
    """The square of ReLU, with a backward of one pass: torch's own for the two takes four.

    Source: Primer, arXiv:2109.08668, section 4.
    """

    @staticmethod
    def forward(ctx: Any, inner: torch.Tensor) -> torch.Tensor:
        positive = inner.clamp_min(0)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (positive,) = ctx.saved_tensors
        return torch.addcmul(positive.new_zeros(()), positive, gradient, value=2)


def summed_cross_entropy(logits_BTV: torch.Tensor, targets_BT: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return the loss summed over all positions, in nats, in float32."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum",
                           label_smoothing=smoothing)


def bits_per_character(nats: float) -> float:
    """Convert a mean loss in nats into bits."""
    return nats / math.log(2)


def _norm(config: CharLMConfig, size: int) -> nn.Module:
    """Return a normalisation; `use_bias` decides whether LayerNorm has weights, as it does for the other layers."""
    return nn.LayerNorm(size, elementwise_affine=config.use_bias) if config.norm == "layernorm" else _RMSNorm()


def _turn(heads: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Rotate neighbouring pairs of each head by their position: one complex product."""
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations[None, :, None, :]).flatten(-2)


def _dropout(hidden: torch.Tensor, share: float, training: bool) -> torch.Tensor:
    return F.dropout(hidden, share) if training and share > 0 else hidden


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
