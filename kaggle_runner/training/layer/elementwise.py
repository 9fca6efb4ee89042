"""What a layer does number by number: norms, rotation, gated activation; each with its gradient.

Shapes: D numbers of a vector, T positions, H heads; `...` stands for any leading dimensions.
"""

import torch
import torch.nn.functional as F

from kaggle_runner.training.layer.structure import Norm


def normalise(x: torch.Tensor, norm: Norm, dtype: torch.dtype) -> torch.Tensor:
    """Divide vectors by their root mean square in float32, times a weight; the result is rounded to `dtype`."""
    x_32 = x.float()
    return (x_32 * _scale_of(x_32, norm)).mul_(norm.weight).to(dtype)


def normalise_backward(gradient: torch.Tensor, x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the gradient of the vectors that were normalised, in their dtype."""
    x_32 = x.float()
    scale = _scale_of(x_32, norm)
    n = x_32 * scale
    g = gradient * norm.weight  # float32, as the weight is
    along = (g * n).mean(-1, keepdim=True)
    return g.sub_(n.mul_(along)).mul_(scale).to(x.dtype)


def rotate_(x_BTHD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, *, back: bool = False) -> None:
    """Turn the vectors of all heads by their positions, in place; `back` undoes it, which is its gradient too.

    Where the angles are fewer than the numbers, as in Phi 4 mini, the rest stay as they are.
    """
    half = cos_BTD.shape[-1] // 2
    first, second = x_BTHD[..., :half], x_BTHD[..., half:2 * half]
    cos, sin = cos_BTD[..., None, :half], sin_BTD[..., None, :half]
    if back:
        sin = -sin
    turned = first * cos - second * sin
    second.mul_(cos).add_(first * sin)
    first.copy_(turned)


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """Return activation(gate) times up."""
    return activate(gate, activation).mul_(up)


def activate(gate: torch.Tensor, activation: str) -> torch.Tensor:
    """Return activation(gate)."""
    return F.silu(gate) if activation == "silu" else F.gelu(gate, approximate=activation)


def activate_backward_(gradient: torch.Tensor, gate: torch.Tensor, activation: str) -> torch.Tensor:
    """Return the gradient of what was activated, written over the gradient that is given."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=gradient)
    else:
        torch.ops.aten.gelu_backward.grad_input(gradient, gate, approximate=activation, grad_input=gradient)
    return gradient


def _scale_of(x_32: torch.Tensor, norm: Norm) -> torch.Tensor:
    return torch.rsqrt(x_32.square().mean(-1, keepdim=True).add_(norm.eps))
