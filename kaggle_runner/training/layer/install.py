"""Puts our decoder layers into a model for the time of a trial, and says which path a trial took.

The modules stay transformers' and peft's: only the layers' `forward` is exchanged, and only for training. The adapter
that is saved is peft's.
"""

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kaggle_runner.errors import ConfigError
from kaggle_runner.training.layer.decoder import Layer
from kaggle_runner.training.layer.elementwise import PLAIN, Elementwise
from kaggle_runner.training.layer.keep import PRODUCTS, from_words, in_words, keep_everywhere
from kaggle_runner.training.layer.projection import Copies, cast
from kaggle_runner.training.layer.structure import Structure, structure_of
from kaggle_runner.training.models.bare_model import layers_of

AGREEMENT = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Most that a hidden state may differ from transformers' own, as a share of the largest: rounding, and no more."""
TRIED_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Path:
    """Which way the decoder layers of a trial are computed."""

    keep: str = ""
    """What each layer keeps, where our function computes them."""
    reason: str = ""
    """Why transformers computes them, where it does."""
    by: Elementwise = PLAIN
    """What computes number by number, where our function computes them."""

    def __str__(self) -> str:
        if not self.keep:
            return f"transformers: {self.reason}"
        kernels = "" if self.by is PLAIN else "; in torch" if self.by.problem else "; in Triton"
        return f"fused: {self.keep}{kernels}"


def elementwise_on(device: torch.device) -> Elementwise:
    """Return what computes number by number on a device: kernels on a GPU where Triton is there, else plain torch."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return PLAIN
    return _kernels(device.type)


def kernels_problem(device: torch.device) -> str:
    """Say why plain torch computes what Triton's kernels were to compute; empty if it does not."""
    problem = elementwise_on(device).problem
    return f"warning: Triton's kernels are left alone, and plain torch computes instead: {problem}" if problem else ""


@functools.cache
def _kernels(device_type: str) -> Elementwise:
    """Return the kernels of this process: what failed once is not tried again."""
    from kaggle_runner.training.layer.triton_elementwise import TritonElementwise

    kernels = TritonElementwise()
    kernels.check(torch.device(device_type))
    return kernels


def structures_of(model: Any) -> tuple[Structure, ...] | str:
    """Return the structures of all decoder layers of a model, or why they are not known."""
    found = []
    for layer in layers_of(model):
        structure = structure_of(layer)
        if isinstance(structure, str):
            return structure
        found.append(structure)
    return tuple(found)


@contextmanager
def fused_layers(model: Any, structures: Sequence[Structure], keep: Sequence[str], dtype: torch.dtype,
                 copies: Copies = cast, *, by: Elementwise = PLAIN, training_only: bool = True) -> Iterator[None]:
    """Have the decoder layers of a model compute as `Layer` does, each with its list of what to keep.

    `training_only` leaves passes without gradients to the layers themselves.
    """
    layers = list(layers_of(model))
    made = [Layer.of(structure, dtype=dtype, keep=kept, copies=copies, by=by)
            for _, structure, kept in zip(layers, structures, keep, strict=True)]
    for layer, ours in zip(layers, made, strict=True):
        layer.forward = functools.partial(_forward, ours, layer.forward, layer if training_only else None)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def layers_for_training(model: Any, *, dtype: torch.dtype, again: bool, keep: str = "", copies: Copies = cast,
                        strange: str = "") -> Iterator[Path]:
    """Make the decoder layers of a model ready for a trial, and yield which way it computes them.

    `keep` is what each of them keeps, in the words of `keep.in_words`; empty: all products or, with `again`, the input
    only. `strange` is why the model is left alone whatever it looks like.

    Raises:
        ConfigError: activations are to be computed again, and the family cannot do that.
    """
    structures = strange or structures_of(model)
    if isinstance(structures, str):
        with _checkpointing(model, again):
            yield Path(reason=structures)
        return
    lists = from_words(keep) if keep else keep_everywhere(len(structures), again=again)
    by = elementwise_on(next(model.parameters()).device)
    with fused_layers(model, structures, lists, dtype, copies, by=by):
        yield Path(keep=in_words(lists), by=by)


@contextmanager
def _checkpointing(model: Any, on: bool) -> Iterator[None]:
    """Have transformers run its layers again in the backward pass."""
    if not on:
        yield
        return
    # transformers 5.17 renamed it; Kaggle's image still has the old name
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    try:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"{type(model).__name__} cannot compute its activations again; set gradient_checkpointing to "
                          f"false, with a lower batch_size or max_length if it does not fit then") from error
    try:
        yield
    finally:  # it survives the adapter, and so does the hook on the embedding
        getattr(model, f"{kind}_checkpointing_disable")()
        model.disable_input_require_grads()


@torch.no_grad()
def agrees(model: Any, structures: Sequence[Structure], dtype: torch.dtype, device: torch.device) -> bool:
    """Try a few tokens both ways: what looks like a known layer must also compute what one computes."""
    model.eval()
    decoder = getattr(model, model.base_model_prefix)
    tokens_BT = torch.arange(TRIED_TOKENS, device=device).unsqueeze(0) % model.config.get_text_config().vocab_size
    hidden = []
    for ours in (False, True):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            if not ours:
                hidden.append(decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state.float())
                continue
            with fused_layers(model, structures, [PRODUCTS] * len(structures), dtype, by=elementwise_on(device),
                              training_only=False):
                hidden.append(decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state.float())
    return bool((hidden[1] - hidden[0]).abs().max() <= AGREEMENT[dtype] * hidden[0].abs().max())


def _forward(ours: Layer, own: Any, training: nn.Module | None, hidden_states: torch.Tensor,
             attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
             past_key_values: Any = None, use_cache: bool | None = False,
             position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None, **kwargs: Any) -> Any:
    """Stand in for a layer's own forward; what it was not made for goes to that."""
    idle = training is not None and not (training.training and torch.is_grad_enabled())
    if idle or attention_mask is not None or past_key_values is not None or position_embeddings is None:
        return own(hidden_states, attention_mask=attention_mask, position_ids=position_ids,
                   past_key_values=past_key_values, use_cache=use_cache, position_embeddings=position_embeddings,
                   **kwargs)
    return ours(hidden_states, *position_embeddings)
