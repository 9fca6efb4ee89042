"""Muon: momentum whose matrices are made orthogonal, in a form that is right without bfloat16.

`torch.optim.Muon` iterates in bfloat16, which a T4 emulates. Here the gradient is normalised in float32 and iterated
in float16 on a GPU and in float32 on a CPU. Matrices of one shape are iterated together.
Source: Keller Jordan, Muon, and its quintic coefficients; the scale that lets one learning rate serve AdamW too is
Moonlight's, arXiv:2502.16982, equation 4.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""Root mean square of an update of AdamW, which Muon's updates are scaled to."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices; every parameter must have two dimensions."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; none where `found_inf` is set and one, as `take_step` sets it."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[tuple(parameter.shape)].append(parameter)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)
        before = [] if found_inf is None else [tensor.clone() for tensor in (*parameters, *momenta)]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        steps = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
        rows, columns = parameters[0].shape
        scale = RMS_OF_ADAMW * max(rows, columns) ** 0.5
        turned = orthogonalised(torch.stack(steps)).to(parameters[0].dtype)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(turned.unbind()), alpha=-group["lr"] * scale)
        if found_inf is not None:  # on the device: the host need not wait to know
            for tensor, old in zip((*parameters, *momenta), before, strict=True):
                tensor.copy_(torch.where(found_inf > 0, old, tensor))


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices, the first dimension counting them, with their singular values moved close to 1."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.float()
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # in float32: float16 would lose small gradients
    x = x.to(torch.float16 if x.is_cuda else torch.float32)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
