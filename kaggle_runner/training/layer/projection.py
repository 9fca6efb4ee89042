"""A linear layer of the frozen base with its adapter: the product, and the gradients of its input and of the adapter.

Shapes: M tokens, I numbers in, O numbers out, R rank.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kaggle_runner.training.layer.elementwise import Elementwise, Masks
from kaggle_runner.training.layer.structure import base_of, is_packed

Copies = Callable[[nn.Parameter, torch.dtype], torch.Tensor]
"""Returns the values of a parameter in a dtype."""
Gradients = dict[nn.Parameter, torch.Tensor]


def cast(parameter: nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
    """Return a parameter in a dtype: a copy for every call, where it is in another."""
    return parameter.detach().to(dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """A linear layer of the base with or without an adapter, by its modules: their tensors may be exchanged."""

    module: Any
    place: int
    """Which of the layer's projections it is: its dropout mask goes by this name."""
    copies: Copies = field(default=cast)

    @functools.cached_property
    def base(self) -> Any:
        """The linear layer under the adapter."""
        return base_of(self.module)

    @functools.cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The adapter's two matrices; none where there is no adapter."""
        if self.base is self.module:
            return ()
        return (self.module.lora_A["default"].weight, self.module.lora_B["default"].weight)

    @property
    def dropout(self) -> float:
        """Share of the adapter's input that is set to zero."""
        return self._p if self.module.training else 0.0

    @functools.cached_property
    def _p(self) -> float:
        return getattr(self.module.lora_dropout["default"], "p", 0.0) if self.parameters else 0.0

    @functools.cached_property
    def scaling(self) -> float:
        """What the adapter's output is multiplied by."""
        scaling: float = self.module.scaling["default"]
        return scaling

    @functools.cached_property
    def _is_packed(self) -> bool:
        return is_packed(self.base)

    def matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the base's matrix, O x I, as numbers."""
        weight: Any = self.base.weight
        return _numbers_of(weight, dtype) if self._is_packed else weight.to(dtype)

    def adapter(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the adapter's matrices, R x I and O x R, in a dtype."""
        first, second = self.parameters
        return self.copies(first, dtype), self.copies(second, dtype)


def _numbers_of(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a 4-bit weight as numbers of a dtype at once, as bitsandbytes' own product does.

    `bitsandbytes.functional.dequantize_4bit` gives the dtype that the weight was quantised from: another rounding, and
    a copy more, for a checkpoint that was quantised elsewhere.
    Source: bitsandbytes 0.50, functional.dequantize_4bit, backends/default/ops.py, _gemm_4bit_default_impl.
    """
    state, ops = weight.quant_state, torch.ops.bitsandbytes
    absmax = state.absmax
    if state.nested:
        scales = state.state2
        absmax = ops.dequantize_blockwise.default(absmax, scales.absmax, scales.code, scales.blocksize, scales.dtype)
        absmax += state.offset
    numbers: torch.Tensor = ops.dequantize_4bit.default(weight, absmax, state.blocksize, state.quant_type, state.shape,
                                                        dtype)
    return numbers


def project(x_MI: torch.Tensor, projection: Projection, masks: Masks, by: Elementwise,
            dropped_MI: torch.Tensor | None = None) -> torch.Tensor:
    """Return the product of some inputs with a layer's matrix, its bias and its adapter included.

    `dropped` is what dropout leaves of the inputs, where that is there already.
    """
    bias = projection.base.bias
    out_MO = F.linear(x_MI, projection.matrix(x_MI.dtype), None if bias is None else bias.to(x_MI.dtype))
    if not projection.parameters:
        return out_MO
    first_RI, second_OR = projection.adapter(x_MI.dtype)
    if dropped_MI is None and projection.dropout:
        dropped_MI, _ = by.dropped(x_MI, masks, projection.dropout, projection.place, keeps=False)
    inner_MR = (x_MI if dropped_MI is None else dropped_MI) @ first_RI.t()
    return out_MO.addmm_(inner_MR, second_OR.t(), alpha=projection.scaling)


def project_backward(gradient_MO: torch.Tensor, x_MI: torch.Tensor, projection: Projection, masks: Masks,
                     gradients: Gradients, by: Elementwise, into_MI: torch.Tensor | None = None, *,
                     needs_input: bool = True) -> torch.Tensor | None:
    """Return the gradient of a product's input, added to `into_MI` in place where that is given.

    The gradients of the adapter's matrices are added to those that the parameters have; where they have none they go
    to `gradients`. `needs_input` false: only these.
    """
    inner_MR = mask_MI = None
    p = projection.dropout
    if projection.parameters:
        if p:
            x_MI, mask_MI = by.dropped(x_MI, masks, p, projection.place, keeps=needs_input)
        inner_MR = adapter_backward(gradient_MO, x_MI, projection, gradients)
        del x_MI
    if not needs_input:
        return into_MI
    out_MI, part_MI = input_backward(gradient_MO, inner_MR, projection, into_MI)
    if part_MI is not None:
        by.add_dropped_(out_MI, part_MI, mask_MI, masks, p, projection.place)
    return out_MI


def inner_gradient(gradient_MO: torch.Tensor, projection: Projection) -> torch.Tensor | None:
    """Return the gradient of what is between the adapter's two matrices; none where there is no adapter."""
    if not projection.parameters:
        return None
    return (gradient_MO @ projection.adapter(gradient_MO.dtype)[1]).mul_(projection.scaling)


def input_backward(gradient_MO: torch.Tensor, inner_MR: torch.Tensor | None, projection: Projection,
                   into_MI: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the gradient of a product's input, added to `into_MI` in place where that is given, in two parts.

    The second came through the adapter's dropout, whose mask it still has to go through; none without dropout.
    """
    dtype = gradient_MO.dtype
    part_MI = None
    if inner_MR is not None and projection.dropout:
        part_MI = inner_MR @ projection.adapter(dtype)[0]
    matrix_OI = projection.matrix(dtype)
    out_MI = gradient_MO @ matrix_OI if into_MI is None else into_MI.addmm_(gradient_MO, matrix_OI)
    del matrix_OI
    if inner_MR is not None and part_MI is None:
        out_MI.addmm_(inner_MR, projection.adapter(dtype)[0])
    return out_MI, part_MI


def adapter_backward(gradient_MO: torch.Tensor, x_MI: torch.Tensor, projection: Projection, gradients: Gradients,
                     inner_MR: torch.Tensor | None = None) -> torch.Tensor | None:
    """Add the gradients of an adapter's matrices to those there are; `x` is what it saw, after dropout.

    Returns the gradient of what is between the two matrices, which is taken where it is given.
    """
    if inner_MR is None:
        inner_MR = inner_gradient(gradient_MO, projection)
    if inner_MR is not None:
        first_RI, _ = projection.adapter(gradient_MO.dtype)
        _collect(projection.parameters[0], inner_MR.t(), x_MI, 1.0, gradients)
        _collect(projection.parameters[1], gradient_MO.t(), x_MI @ first_RI.t(), projection.scaling, gradients)
    return inner_MR


def _collect(parameter: nn.Parameter, left: torch.Tensor, right: torch.Tensor, scale: float,
             gradients: Gradients) -> None:
    """Add a product to a parameter's gradient, without a tensor between where both are of one dtype."""
    if parameter.grad is None:
        gradients[parameter] = (left @ right).mul_(scale).to(parameter.dtype)
    elif parameter.grad.dtype == left.dtype:
        parameter.grad.addmm_(left, right, alpha=scale)
    else:
        parameter.grad.add_(left @ right, alpha=scale)

