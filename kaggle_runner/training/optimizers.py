"""The optimizer step of both pretraining loops: AdamW in two groups, and a step that every optimizer takes or none."""

import math
from collections.abc import Iterable, Sequence

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

    A scaler by itself skips only the optimizer whose own gradients overflowed; the other one would step with gradients
    that were clipped by a norm that is no number. Returns the norm before clipping; the gradients are gone.
    """
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    has_overflowed = scaler.is_enabled() and not math.isfinite(grad_norm.item())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if not has_overflowed:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return grad_norm
