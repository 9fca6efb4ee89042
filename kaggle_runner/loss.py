"""The loss of a causal language model over chosen positions, in chunks.

Only positions that count reach the output matrix, a chunk at a time, so that batch x length x vocabulary logits
never exist at once, in training or in evaluation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a position that does not count, as torch's cross entropy has it."""
CHUNK_ELEMENTS = 2**25
"""Logits in a chunk: 128 MiB in float32."""

# Shapes: B rows, T positions, N positions that count, D hidden size, V vocabulary


def summed_loss(model: Any, tokens_BT: torch.Tensor, mask_BT: torch.Tensor, labels_BT: torch.Tensor, *,
                own_head: bool) -> torch.Tensor:
    """Sum the cross entropy over every position whose next token counts.

    `model` is the transformers model, adapter layers included. The sum, not the mean: the caller divides by the
    tokens of the whole optimizer step, so that how a step is cut into micro-batches does not change it.
    """
    targets_BT = labels_BT[:, 1:]
    counts_BT = targets_BT != IGNORED
    if not own_head:
        logits_BTV = model(input_ids=tokens_BT, attention_mask=mask_BT, use_cache=False).logits
        return F.cross_entropy(logits_BTV[:, :-1][counts_BT].float(), targets_BT[counts_BT], reduction="sum")
    decoder = getattr(model, model.base_model_prefix)
    hidden_BTD = decoder(input_ids=tokens_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    hidden_ND, targets_N = hidden_BTD[:, :-1][counts_BT], targets_BT[counts_BT]
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
