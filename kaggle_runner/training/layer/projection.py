"""A linear layer of the frozen base with its adapter: the product, and the gradients of its input and of the adapter.

Shapes: M tokens, I numbers in, O numbers out, R rank.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import bitsandbytes
import bitsandbytes.functional
import torch
import torch.nn.functional as F
from torch import nn

from kaggle_runner.training.layer.structure import base_of

Copies = Callable[[nn.Parameter, torch.dtype], torch.Tensor]
"""Returns the values of a parameter in a dtype."""


def cast(parameter: nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
    """Return a parameter in a dtype: a copy for every call, where it is in another."""
    return parameter.detach().to(dtype)


class Masks:
    """The dropout masks of one pass through a layer, kept as the state of the generator that draws them.

    A mask is as large as a layer's input, the state of a generator is not. On a CPU they are the masks that
    `torch.nn.functional.dropout` draws, in the same order.
    """

    def __init__(self, device: torch.device) -> None:
        # the generators that dropout itself draws from
        self._generator = (torch.cuda.default_generators[torch.cuda.current_device() if device.index is None
                                                         else device.index]
                           if device.type == "cuda" else torch.default_generator)
        self._states: dict[int, torch.Generator] = {}

    def draw(self, x_MI: torch.Tensor, p: float, place: int) -> torch.Tensor:
        """Return the mask of a place, the same one for every call: 0, or 1 / (1 - p)."""
        if place not in self._states:
            self._states[place] = self._generator.clone_state()
            return _mask(x_MI, p, self._generator)
        return _mask(x_MI, p, self._states[place].clone_state())


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """A linear layer of the base with or without an adapter, by its modules: their tensors may be exchanged."""

    module: Any
    place: int
    """Which of the layer's projections it is: its dropout mask goes by this name."""
    copies: Copies = field(default=cast)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The adapter's two matrices; none where there is no adapter."""
        if base_of(self.module) is self.module:
            return ()
        return (self.module.lora_A["default"].weight, self.module.lora_B["default"].weight)

    @property
    def dropout(self) -> float:
        """Share of the adapter's input that is set to zero."""
        p: float = getattr(self.module.lora_dropout["default"], "p", 0.0)
        return p if self.module.training else 0.0

    @property
    def scaling(self) -> float:
        """What the adapter's output is multiplied by."""
        scaling: float = self.module.scaling["default"]
        return scaling

    def matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the base's matrix, O x I, as numbers."""
        weight: torch.Tensor = base_of(self.module).get_parameter("weight")
        if isinstance(base_of(self.module), bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(weight, weight.quant_state)  # type: ignore
        return weight.to(dtype)

    def adapter(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the adapter's matrices, R x I and O x R, in a dtype."""
        first, second = self.parameters
        return self.copies(first, dtype), self.copies(second, dtype)


def project(x_MI: torch.Tensor, projection: Projection, masks: Masks) -> torch.Tensor:
    """Return the product of some inputs with a layer's matrix, its bias and its adapter included."""
    bias: Any = base_of(projection.module).bias
    out_MO = F.linear(x_MI, projection.matrix(x_MI.dtype), None if bias is None else bias.to(x_MI.dtype))
    if not projection.parameters:
        return out_MO
    first_RI, second_OR = projection.adapter(x_MI.dtype)
    if projection.dropout:
        x_MI = masks.draw(x_MI, projection.dropout, projection.place).mul_(x_MI)
    return out_MO.addmm_(x_MI @ first_RI.t(), second_OR.t(), alpha=projection.scaling)


def project_backward(gradient_MO: torch.Tensor, x_MI: torch.Tensor, projection: Projection, masks: Masks,
                     gradients: dict[nn.Parameter, torch.Tensor], into_MI: torch.Tensor | None = None, *,
                     needs_input: bool = True) -> torch.Tensor | None:
    """Return the gradient of a product's input, added to `into_MI` in place where that is given.

    The gradients of the adapter's matrices are added to those that the parameters have; where they have none they go
    to `gradients`. `needs_input` false: only these.
    """
    dtype = gradient_MO.dtype
    part_MI = mask_MI = None
    if projection.parameters:
        first_RI, second_OR = projection.adapter(dtype)
        if projection.dropout:
            mask_MI = masks.draw(x_MI, projection.dropout, projection.place)
            x_MI = x_MI * mask_MI
        inner_MR = (gradient_MO @ second_OR).mul_(projection.scaling)
        _collect(projection.parameters[0], inner_MR.t(), x_MI, 1.0, gradients)
        _collect(projection.parameters[1], gradient_MO.t(), x_MI @ first_RI.t(), projection.scaling, gradients)
        del x_MI
        if needs_input and mask_MI is not None:
            part_MI = mask_MI.mul_(inner_MR @ first_RI)
            del mask_MI
    if not needs_input:
        return into_MI
    matrix_OI = projection.matrix(dtype)
    out_MI = gradient_MO @ matrix_OI if into_MI is None else into_MI.addmm_(gradient_MO, matrix_OI)
    del matrix_OI
    if part_MI is not None:
        out_MI += part_MI
    elif projection.parameters:
        out_MI.addmm_(inner_MR, first_RI)
    return out_MI


def _collect(parameter: nn.Parameter, left: torch.Tensor, right: torch.Tensor, scale: float,
             gradients: dict[nn.Parameter, torch.Tensor]) -> None:
    """Add a product to a parameter's gradient, without a tensor between where both are of one dtype."""
    if parameter.grad is None:
        gradients[parameter] = (left @ right).mul_(scale).to(parameter.dtype)
    elif parameter.grad.dtype == left.dtype:
        parameter.grad.addmm_(left, right, alpha=scale)
    else:
        parameter.grad.add_(left @ right, alpha=scale)


def _mask(x_MI: torch.Tensor, p: float, generator: torch.Generator) -> torch.Tensor:
    # as ATen/native/Dropout.cpp makes its own
    return torch.empty_like(x_MI).bernoulli_(1 - p, generator=generator).div_(1 - p)
