"""The loss of a causal language model over chosen positions, in chunks.

Only positions that count reach the output matrix, a chunk at a time, so that batch x length x vocabulary logits
never exist at once, in training or in evaluation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits in a chunk: 128 MiB in float32."""

# Shapes: B rows, T positions, N positions that count, D hidden size, V vocabulary


def summed_loss(model: Any, tokens_BT: torch.Tensor, positions_N: torch.Tensor, targets_N: torch.Tensor, *,
                own_head: bool) -> torch.Tensor:
    """Sum the cross entropy over the positions whose next token counts.

    `model` is the transformers model, adapter layers included; `positions_N` counts through all B x T places. The
    places are known before the batch is on its device, so nothing here waits for the device, and no mask is needed:
    a causal model never looks at the padding behind its tokens. The sum, not the mean: the caller divides by the tokens
    of the whole optimizer step, so that how a step is cut into micro-batches does not change it.
    """
    if not own_head:
        logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits
        logits_NV = logits_BTV.flatten(0, 1).index_select(0, positions_N).float()
        return F.cross_entropy(logits_NV, targets_N, reduction="sum")
    decoder = getattr(model, model.base_model_prefix)
    hidden_BTD = decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, positions_N)
    head = model.get_output_embeddings()
    cap = logit_cap(model)
    chunk = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    if len(targets_N) <= chunk:
        return _chunk_loss(head, cap, hidden_ND, targets_N)
    losses = []
    for start in range(0, len(targets_N), chunk):
        part_ND, part_N = hidden_ND[start:start + chunk], targets_N[start:start + chunk]
        if torch.is_grad_enabled():
            losses.append(checkpoint(_chunk_loss, head, cap, part_ND, part_N, use_reentrant=False))
        else:
            losses.append(_chunk_loss(head, cap, part_ND, part_N))
    return torch.stack(losses).sum()


def logits_of(head: Any, cap: float | None, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Compute logits in float32 from hidden states, capped as Gemma 2 caps its own."""
    logits_NV = head(hidden_ND).float()
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def logit_cap(model: Any) -> float | None:
    """Return the bound that a family puts on its logits; none for most."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def _chunk_loss(head: Any, cap: float | None, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_of(head, cap, hidden_ND), targets_N, reduction="sum")
