"""What a layer does number by number: norms, rotation, gated activation, dropout; each with its gradient.

`Elementwise` is plain torch and runs everywhere; `triton_elementwise` has the same functions as one kernel each.
Shapes: D numbers of a vector, T positions, H heads, M tokens, I numbers of a token; `...` stands for any leading
dimensions.
"""

import numpy as np
import torch
import torch.nn.functional as F

from kaggle_runner.training.layer.structure import Norm

PLACES = 64
"""More than a layer has projections."""
PIECE = 2**16
"""Numbers of a mask that are drawn at once: what is drawn stays in the processor's cache."""


class Masks:
    """The dropout masks of one pass through a layer: a function of one seed, of the projection and of the place in it.

    Nothing is kept of them but the seed, which comes from the host's generator: a checkpoint brings that back, and
    nothing waits for a device.
    """

    def __init__(self) -> None:
        self._seed: int | None = None

    def seed(self, place: int) -> int:
        """Return the seed of a projection's mask."""
        if self._seed is None:
            self._seed = int(torch.randint(2**31 - PLACES, ()))
        return self._seed + place

    def draw(self, x_MI: torch.Tensor, p: float, place: int) -> torch.Tensor:
        """Return the mask of a projection, the same one for every call: 0, or 1 / (1 - p)."""
        mask_MI = torch.empty_like(x_MI)
        if x_MI.is_cuda:
            generator = torch.Generator(x_MI.device).manual_seed(self.seed(place))
            return mask_MI.bernoulli_(1 - p, generator=generator).div_(1 - p)
        if type(mask_MI) is torch.Tensor:  # one without data stays without
            _draw_(mask_MI.view(-1), p, np.random.SFC64(self.seed(place)))
        return mask_MI


class Elementwise:
    """The functions in plain torch."""

    problem = ""
    """Why they are not the kernels that they were to be."""

    def masks(self) -> Masks:
        """Return the masks of one pass through a layer."""
        return Masks()

    def normalise(self, x: torch.Tensor, norm: Norm, dtype: torch.dtype) -> torch.Tensor:
        """Divide vectors by their root mean square in float32, times a weight; the result is rounded to `dtype`."""
        x_32 = x.float()
        return (x_32 * _scale_of(x_32, norm)).mul_(norm.weight).to(dtype)

    def normalise_backward(self, gradient: torch.Tensor, x: torch.Tensor, norm: Norm,
                           residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gradient of the vectors that were normalised, in their dtype, plus that of what went around."""
        x_32 = x.float()
        scale = _scale_of(x_32, norm)
        n = x_32 * scale
        g = gradient * norm.weight  # float32, as the weight is
        along = (g * n).mean(-1, keepdim=True)
        out = g.sub_(n.mul_(along)).mul_(scale).to(x.dtype)
        return out if residual is None else out.add_(residual)

    def rotate_(self, x_BTHD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, *,
                back: bool = False) -> None:
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

    def gated(self, gate_MI: torch.Tensor, up_MI: torch.Tensor, activation: str, masks: Masks, p: float,
              place: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return activation(gate) times up, and the same after dropout where that costs no pass of its own."""
        return _activate(gate_MI, activation).mul_(up_MI), None

    def gated_backward(self, gradient_MI: torch.Tensor, part_MI: torch.Tensor | None, gate_MI: torch.Tensor,
                       up_MI: torch.Tensor, activation: str, masks: Masks, p: float,
                       place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `gated` came to after dropout, and the gradients of gate and up.

        `part` is the gradient that came through the dropout and joins the one that did not. All four may be written
        over.
        """
        mask_MI = masks.draw(gradient_MI, p, place) if p else None
        if part_MI is not None:
            gradient_MI += part_MI if mask_MI is None else part_MI.mul_(mask_MI)
        active_MI = _activate(gate_MI, activation)
        seen_MI = torch.mul(active_MI, up_MI, out=part_MI)  # into the room of what is not needed any more
        if mask_MI is not None:
            seen_MI.mul_(mask_MI)
            del mask_MI
        up_gradient_MI = active_MI.mul_(gradient_MI)
        return seen_MI, _activate_backward_(gradient_MI.mul_(up_MI), gate_MI, activation), up_gradient_MI

    def dropped(self, x_MI: torch.Tensor, masks: Masks, p: float, place: int, *,
                keeps: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return numbers after dropout; `keeps`: the mask too, where it is worth keeping for `add_dropped_`."""
        mask_MI = masks.draw(x_MI, p, place)
        return (x_MI * mask_MI, mask_MI) if keeps else (mask_MI.mul_(x_MI), None)

    def add_dropped_(self, sum_MI: torch.Tensor, part_MI: torch.Tensor, mask_MI: torch.Tensor | None, masks: Masks,
                     p: float, place: int) -> torch.Tensor:
        """Add to a sum, in place, what is left of a part after dropout; the part may be written over."""
        if mask_MI is None:
            mask_MI = masks.draw(part_MI, p, place)
        return sum_MI.add_(part_MI.mul_(mask_MI))


PLAIN = Elementwise()


def _activate(gate: torch.Tensor, activation: str) -> torch.Tensor:
    return F.silu(gate) if activation == "silu" else F.gelu(gate, approximate=activation)


def _activate_backward_(gradient: torch.Tensor, gate: torch.Tensor, activation: str) -> torch.Tensor:
    """Return the gradient of what was activated, written over the gradient that is given."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=gradient)
    else:
        torch.ops.aten.gelu_backward.grad_input(gradient, gate, approximate=activation, grad_input=gradient)
    return gradient


def _scale_of(x_32: torch.Tensor, norm: Norm) -> torch.Tensor:
    return torch.rsqrt(x_32.square().mean(-1, keepdim=True).add_(norm.eps))


def _draw_(mask: torch.Tensor, p: float, words: np.random.BitGenerator) -> None:
    """Fill a mask of one dimension from 16 random bits a number.

    Six times as fast as `bernoulli_`, which takes 64 bits a number, one after the other (measured: 0.6 and 3.5 ns a
    number on one core).
    """
    least = min(round(p * 2**16), 2**16 - 1) - 2**15  # of signed numbers
    for piece in mask.split(PIECE):
        drawn = words.random_raw((len(piece) + 3) // 4).view(np.int16)[:len(piece)]
        torch.ge(torch.from_numpy(drawn), least, out=piece)
        piece.mul_(1 / (1 - p))
