"""Grouped-query attention for GPUs whose fast kernel cannot group: keys are repeated for every query head.

transformers hands torch `enable_gqa` wherever a batch has no padding, and on compute capability 7.5 torch then falls
back to the kernel that holds all T x T scores. Source: huggingface/transformers issue 48633.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kaggle_runner.errors import ModelError

NAME = "sdpa_gqa_expanded"
GROUPING_CAPABILITY = (8, 0)
"""From here on torch has a fast kernel that groups. Source: PyTorch, ATen/native/transformers/cuda/sdp_utils.cpp."""

# Shapes: B rows, H query heads, G key heads, T positions, D numbers of a head


def expand_grouped_queries(model: Any, capability: tuple[int, int]) -> bool:
    """Give a loaded model this attention where its GPU needs it; say whether that was done.

    Leaves alone a model that does not use torch's attention, such as one that caps its scores.
    """
    if capability >= GROUPING_CAPABILITY or model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, expanded_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def expanded_attention(module: torch.nn.Module, query_BHTD: torch.Tensor, key_BGTD: torch.Tensor,
                       value_BGTD: torch.Tensor, attention_mask: torch.Tensor | None, dropout: float = 0.0,
                       scaling: float | None = None, is_causal: bool | None = None,
                       **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attend as transformers' `sdpa` does, without `enable_gqa`: the same numbers from another kernel.

    Raises:
        ModelError: the family wants something of its attention that torch's kernels do not have.
    """
    unknown = [name for name in ("softcap", "position_bias") if kwargs.get(name) is not None]
    if unknown:
        raise ModelError(f"{type(module).__name__} wants {', '.join(unknown)} in its attention, which torch's kernels "
                         f"do not have; load the model with attn_implementation eager")
    group = query_BHTD.shape[1] // key_BGTD.shape[1]
    key_BHTD, value_BHTD = (_repeat(tensor, group) for tensor in (key_BGTD, value_BGTD))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    out_BHTD = F.scaled_dot_product_attention(
        query_BHTD, key_BHTD, value_BHTD, attn_mask=attention_mask, dropout_p=dropout, scale=scaling,
        is_causal=bool(causal) and attention_mask is None and query_BHTD.shape[2] > 1)
    return out_BHTD.transpose(1, 2).contiguous(), None


def _repeat(tensor_BGTD: torch.Tensor, group: int) -> torch.Tensor:
    """Repeat every key head for the query heads of its group, which stand side by side."""
    return tensor_BGTD if group == 1 else tensor_BGTD.repeat_interleave(group, dim=1)
