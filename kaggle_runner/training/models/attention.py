"""Causal attention by torch's fast kernels, without a mask: rows are padded behind their tokens, where nobody looks.

transformers would ask the device before every forward pass whether the rows are padded, and wait for the answer; with
padding it would build a mask, which the fastest kernels do not take; and without padding it hands torch `enable_gqa`,
with which torch on compute capability 7.5 falls back to the kernel that holds all T x T scores.
Source: transformers 5.23, masking_utils.py; huggingface/transformers issue 48633.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from kaggle_runner.errors import ModelError
from kaggle_runner.training.libraries import FAST_ATTENTION, attention_of, caps_its_scores, makes_own_masks

GROUPED, EXPANDED = "sdpa_causal", "sdpa_causal_expanded"
GROUPING_CAPABILITY = (8, 0)
"""From here on torch has a fast kernel that groups. Source: PyTorch, ATen/native/transformers/cuda/sdp_utils.cpp."""
KNOWN_LAYERS = {"full_attention", "sliding_attention"}

# Shapes: B rows, H query heads, G key heads, T positions, D numbers of a head


def use_causal_attention(model: Any, *, groups: bool) -> bool:
    """Give a model this attention and say whether that was done; `groups`: torch has a fast kernel for grouped queries.

    Leaves alone a model that does not use torch's attention, or that attends in ways of its own; one that caps its
    scores gets the attention that its family wrote for that.
    """
    settings = model.config.get_text_config()
    if caps_its_scores(settings):
        model.set_attn_implementation("eager")
        return False
    known = set(getattr(settings, "layer_types", None) or KNOWN_LAYERS) <= KNOWN_LAYERS
    if attention_of(settings) not in (FAST_ATTENTION, GROUPED, EXPANDED) or not known or makes_own_masks(model):
        return False
    # transformers makes masks for the attentions that it has mask functions for, and these have none
    AttentionInterface.register(GROUPED, functools.partial(causal_attention, groups=True))
    AttentionInterface.register(EXPANDED, functools.partial(causal_attention, groups=False))
    model.set_attn_implementation(GROUPED if groups else EXPANDED)
    return True


def causal_attention(module: torch.nn.Module, query_BHTD: torch.Tensor, key_BGTD: torch.Tensor,
                     value_BGTD: torch.Tensor, attention_mask: torch.Tensor | None, dropout: float = 0.0,
                     scaling: float | None = None, is_causal: bool | None = None, *, groups: bool,
                     sliding_window: int | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attend as transformers' `sdpa` does to rows without padding before their tokens.

    Raises:
        ModelError: the family wants something of its attention that is not done here.
    """
    unknown = [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]
    if attention_mask is not None:
        unknown.append("a mask")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        unknown.append("to look ahead")
    if unknown:
        raise ModelError(f"{type(module).__name__} wants {', '.join(unknown)} in its attention, which this tool's does "
                         f"not do; choose another model")
    group = query_BHTD.shape[1] // key_BGTD.shape[1]
    if not groups and group > 1:  # every key head for the query heads of its group, which stand side by side
        key_BGTD, value_BGTD = (tensor.repeat_interleave(group, dim=1) for tensor in (key_BGTD, value_BGTD))
    length = query_BHTD.shape[2]
    window_TT = None
    if sliding_window is not None and length > sliding_window:
        window_TT = window_mask(length, sliding_window, query_BHTD.device)
    out_BHTD = F.scaled_dot_product_attention(
        query_BHTD, key_BGTD, value_BGTD, attn_mask=window_TT, dropout_p=dropout, scale=scaling,
        is_causal=window_TT is None and length > 1, enable_gqa=groups and group > 1)
    return out_BHTD.transpose(1, 2).contiguous(), None


def window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Return which positions a token sees that sees `window` of them at most, its own among them."""
    ones_TT = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones_TT.tril() & ones_TT.triu(1 - window)
