"""The optimizer step of both pretraining loops: AdamW in two groups, and a step that every optimizer takes or none."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn


def adamw(parameters: Iterable[nn.Parameter], *, learning_rate: float, beta2: float,
          weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW for some parameters; weight decay pulls at matrices only, not at vectors."""
    given = list(parameters)
    groups = [{"params": [parameter for parameter in given if parameter.dim() >= 2], "weight_decay": weight_decay},
              {"params": [parameter for parameter in given if parameter.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, beta2),
                             fused=True)


def take_step(optimizers: Sequence[torch.optim.Optimizer], parameters: Iterable[nn.Parameter], *,
              learning_rate: float, max_grad_norm: float, scaler: torch.amp.GradScaler | None = None) -> torch.Tensor:
    """Clip all gradients together and let every optimizer step, or none of them where float16 has overflowed in one.

    Whether it has is known on the device only, and nothing waits for it: with a scaler each optimizer must leave out
    the step itself where its `found_inf` is one, as torch's fused ones do. A scaler's own `step` would let the
    optimizer step whose gradients did not overflow, with gradients that were clipped by a norm that is no number.
    Returns the norm before clipping, on the device; the gradients are gone.
    """
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if scaler.is_enabled():
            with _leaving_out(optimizer, (~torch.isfinite(grad_norm)).float()):
                optimizer.step()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return grad_norm


@contextlib.contextmanager
def _leaving_out(optimizer: torch.optim.Optimizer, found_inf: torch.Tensor) -> Iterator[None]:
    """Tell an optimizer where its next step finds out whether to be left out: by the names that torch's scaler uses."""
    told: Any = optimizer
    told.grad_scale, told.found_inf = None, found_inf
    try:
        yield
    finally:
        del told.grad_scale, told.found_inf
