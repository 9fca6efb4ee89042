"""The loss of a causal language model over chosen positions, in chunks.

Only positions that count reach the output matrix, a chunk at a time, so that batch x length x vocabulary logits
never exist at once, in training or in evaluation. In training the gradient of a chunk is made beside its loss: the
logits are there, and no product is run twice. In evaluation each chunk also says which answers were the likeliest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.checkpoint import checkpoint

from kaggle_runner.metrics import BITS_PER_BYTE, EXACT_MATCH, LOSS, TOKEN_ACCURACY
from kaggle_runner.training.data.batches import EncodedRows, MicroBatch
from kaggle_runner.training.layer.structure import is_changed

CHUNK_ELEMENTS = 2**25
"""Logits in a chunk: 128 MiB in float32."""
CACHED_ELEMENTS = 2**18
"""Logits that a core looks at twice: 1 MiB, and their probabilities as much."""
FLOAT16_SCALE = 2.0**8
"""What float16 gradients of logits are multiplied by until the backward pass: a probability of 1e-5, one of 100,000
symbols, would keep two digits of three."""

# Shapes: B rows of a batch, T positions, N positions that count, D hidden size, V vocabulary


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
    hidden_ND, head, cap = _before_the_head(model, tokens_BT, positions_N)
    if hidden_ND.requires_grad and torch.is_grad_enabled() and _is_frozen(head):
        loss: torch.Tensor = _LossWithGradient.apply(  # type: ignore[no-untyped-call]  # torch's own
            hidden_ND, head, cap, targets_N)
        return loss
    chunk = _chunk_rows(head)
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


@torch.no_grad()
def scored_loss(model: Any, tokens_BT: torch.Tensor, positions_N: torch.Tensor, targets_N: torch.Tensor, *,
                own_head: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the loss as `summed_loss` does, to the same bit, and say of each position whether its token is the likeliest.

    A token that shares the first place with others counts as the likeliest.
    """
    if not own_head:
        logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits
        return chunk_scores(logits_BTV.flatten(0, 1).index_select(0, positions_N).float(), targets_N)
    hidden_ND, head, cap = _before_the_head(model, tokens_BT, positions_N)
    parts = [chunk_scores(logits_of(head, cap, part_ND), part_N)
             for part_ND, part_N in zip(hidden_ND.split(_chunk_rows(head)), targets_N.split(_chunk_rows(head)),
                                        strict=True)]
    if len(parts) == 1:
        return parts[0]
    return torch.stack([loss for loss, _ in parts]).sum(), torch.cat([hits_N for _, hits_N in parts])


def _before_the_head(model: Any, tokens_BT: torch.Tensor,
                     positions_N: torch.Tensor) -> tuple[torch.Tensor, Any, float | None]:
    """Return the hidden states of some positions, the output matrix, and the bound of the logits."""
    decoder = getattr(model, model.base_model_prefix)
    hidden_BTD = decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state
    return hidden_BTD.flatten(0, 1).index_select(0, positions_N), model.get_output_embeddings(), logit_cap(model)


def likeliest(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Say of each target whether no other logit is larger.

    By the largest value and not by its place, which takes a CPU five times as long.
    """
    return logits_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1) >= logits_NV.amax(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredBatch:
    """What the model said to one batch of held-out rows."""

    rows: np.ndarray
    """Their places among all."""
    batch: MicroBatch
    loss: torch.Tensor
    """Summed over the positions, on the device."""
    hits_N: torch.Tensor
    """bool, whether the true token is the likeliest one."""

    @property
    def hits(self) -> np.ndarray:
        """The same on the host."""
        return self.hits_N.cpu().numpy()

    def exact(self, ends: Sequence[int]) -> np.ndarray:
        """Say of each row whether it has an answer, and the tokens of its answers up to an end are all the likeliest.

        What a row has behind the first of `ends` in an answer no decoding ever reaches. Of a row without a question,
        which may be the text of a whole conversation, everything counts.
        """
        counts_B, answers_N = self.batch.counts_B, self.batch.answers_N
        starts_B = np.cumsum(counts_B) - counts_B
        asks_B = (self.batch.positions_N[starts_B] % self.batch.tokens_BT.shape[1] > 0) | ~answers_N[starts_B]
        ends_N = answers_N & np.isin(self.batch.targets_N, ends) & np.repeat(asks_B, counts_B)
        ended_N: np.ndarray = np.cumsum(ends_N) - ends_N
        begins_N = (np.diff(self.batch.positions_N, prepend=-2) > 1) | np.diff(answers_N, prepend=False)
        asked_N = answers_N & (ended_N == np.maximum.accumulate(np.where(begins_N, ended_N, 0)))
        return np.logical_and.reduceat(self.hits | ~asked_N, starts_B) & np.logical_or.reduceat(answers_N, starts_B)


def scores_of(rows: EncodedRows, scored: Sequence[ScoredBatch], ends: Sequence[int]) -> dict[str, float]:
    """Return the metrics of held-out rows from what the model said to them.

    A row whose answer tokens are all the likeliest ones, each after the true ones before it, is a row that greedy
    decoding answers exactly: where every next token is right, what was decoded before it is the true text. So nothing
    is generated. Its answers alone make a row exact, each up to its first token of `ends`, where decoding ends;
    accuracy is over all that counts in the loss. Bits of a byte leave special tokens out of the bytes, so that
    tokenizers compare.
    """
    nats = math.fsum(torch.stack([part.loss for part in scored]).tolist())
    hits_N = np.concatenate([part.hits for part in scored])
    exact = np.concatenate([part.exact(ends) for part in scored])
    scores = {LOSS: nats / len(hits_N), EXACT_MATCH: float(exact.mean()), TOKEN_ACCURACY: float(hits_N.mean())}
    if rows.scored_bytes is not None:
        of_rows = np.concatenate([part.rows for part in scored])
        scores[BITS_PER_BYTE] = nats / math.log(2) / max(1, int(rows.scored_bytes[of_rows].sum()))
    return scores


def logits_of(head: Any, cap: float | None, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Compute logits in float32 from hidden states, capped as Gemma 2 caps its own."""
    logits_NV = head(hidden_ND).float()
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def logit_cap(model: Any) -> float | None:
    """Return the bound that a family puts on its logits; none for most."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


class _LossWithGradient(torch.autograd.Function):
    """The summed loss; what is kept for the backward pass is the gradient of the hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, head: Any, cap: float | None,
                targets_N: torch.Tensor) -> torch.Tensor:
        gradient_ND = torch.empty_like(hidden_ND)
        losses = []
        for start in range(0, len(targets_N), _chunk_rows(head)):
            rows = slice(start, start + _chunk_rows(head))
            losses.append(_chunk_with_gradient(head, cap, hidden_ND[rows], targets_N[rows], gradient_ND[rows]))
        ctx.save_for_backward(gradient_ND)
        ctx.scale = _scale_of(gradient_ND)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum() if losses else hidden_ND.float().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return (gradient_ND * (gradients[0] / ctx.scale)).to(gradient_ND.dtype), None, None, None


def _chunk_with_gradient(head: Any, cap: float | None, hidden_ND: torch.Tensor, targets_N: torch.Tensor,
                         gradient_ND: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of some positions, and write the gradient of their hidden states."""
    bounded_NV = None
    logits_NV = head(hidden_ND)
    if cap is not None:
        bounded_NV = torch.tanh(logits_NV.float() / cap)
        logits_NV = cap * bounded_NV
    log_NV = F.log_softmax(logits_NV, -1, dtype=torch.float32)
    del logits_NV
    targets_N1 = targets_N.unsqueeze(1)
    loss = F.nll_loss(log_NV, targets_N, reduction="sum")
    log_NV.exp_()  # probabilities, which are the gradient of the logits but for a one at the target
    log_NV.scatter_add_(1, targets_N1, torch.full_like(targets_N1, -1, dtype=log_NV.dtype))
    if bounded_NV is not None:
        log_NV.mul_(bounded_NV.square_().neg_().add_(1.0))
    scale = _scale_of(gradient_ND)
    product_NV = (log_NV if scale == 1.0 else log_NV.mul_(scale)).to(_product_dtype(head, hidden_ND))
    with torch.autocast(hidden_ND.device.type, enabled=False):
        gradient_ND.copy_(product_NV @ head.weight.to(product_NV.dtype))
    return loss


def _product_dtype(head: Any, hidden_ND: torch.Tensor) -> torch.dtype:
    """Return what the product with the output matrix is computed in: autocast's dtype where that is on."""
    device = hidden_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype


def _scale_of(gradient_ND: torch.Tensor) -> float:
    return FLOAT16_SCALE if gradient_ND.dtype is torch.float16 else 1.0


def _is_frozen(head: Any) -> bool:
    """Whether an output matrix is a plain one, without an adapter or a hook, whose gradient nobody wants."""
    return (type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())
            and not is_changed(head))


def _chunk_rows(head: Any) -> int:
    return max(1, CHUNK_ELEMENTS // int(head.weight.shape[0]))


def chunk_scores(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss and what `likeliest` says.

    On CPUs a few rows at a time, which stay in a core's cache while they are looked at twice. Each row's probabilities
    and the order of the sum are those of one `cross_entropy`, and so are its bits.
    """
    if has_torch_function_unary(logits_NV):  # of a forecast, whose tensors say CPU for a GPU's too
        return handle_torch_function(chunk_scores, (logits_NV,), logits_NV, targets_N)
    if logits_NV.device.type != "cpu":
        return scores_at_once(logits_NV, targets_N)
    together = rows_together(logits_NV)
    return joined([scores_of_rows(rows_NV, part_N) for rows_NV, part_N in
                   zip(logits_NV.split(together), targets_N.split(together), strict=True)])


def rows_together(logits_NV: torch.Tensor) -> int:
    """Return how many rows of logits stay in the cores' caches."""
    return max(1, CACHED_ELEMENTS * torch.get_num_threads() // logits_NV.shape[1])


def scores_of_rows(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log probability of each target, (N, 1), and what `likeliest` says."""
    return F.log_softmax(logits_NV, 1).gather(1, targets_N.unsqueeze(1)), likeliest(logits_NV, targets_N)


def joined(pieces: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the loss of pieces that `scores_of_rows` made, in the order of one `cross_entropy`, and join the rest."""
    logs_N1, hits_N = torch.cat([logs for logs, _ in pieces]), torch.cat([hits for _, hits in pieces])
    return F.nll_loss(logs_N1, torch.zeros_like(hits_N, dtype=torch.long), reduction="sum"), hits_N


def scores_at_once(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `chunk_scores` does, as a GPU computes it: with probabilities as large as the logits."""
    return F.cross_entropy(logits_NV, targets_N, reduction="sum"), likeliest(logits_NV, targets_N)


def _chunk_loss(head: Any, cap: float | None, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_of(head, cap, hidden_ND), targets_N, reduction="sum")
