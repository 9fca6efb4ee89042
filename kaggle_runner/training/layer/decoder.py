"""A decoder layer as one function of autograd: what it does not keep for the backward pass is computed again there.

Norm, queries, keys and values, rotation, causal attention, output, residual; norm, gate and up, activation, down,
residual. The layer's input and what its list names are kept, nothing else.
Shapes: B rows, T positions, M = B x T tokens, E hidden size, D numbers of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kaggle_runner.training.layer.attention import attend, attend_backward
from kaggle_runner.training.layer.elementwise import PLAIN, Elementwise, Masks
from kaggle_runner.training.layer.keep import KEPT
from kaggle_runner.training.layer.projection import (
    Copies,
    Gradients,
    Projection,
    adapter_backward,
    cast,
    inner_gradient,
    input_backward,
    project,
    project_backward,
)
from kaggle_runner.training.layer.structure import Structure, base_of

Values = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A known decoder layer, what it computes in, and what it keeps."""

    structure: Structure
    dtype: torch.dtype
    """Of its matrix products; the residual keeps the dtype in which it comes."""
    keep: str
    by: Elementwise
    """What computes number by number: plain torch, or kernels."""
    qkv: tuple[Projection, ...]
    output: Projection
    gate_up: tuple[Projection, ...]
    down: Projection

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All of them, in the order in which transformers runs them."""
        return (*self.qkv, self.output, *self.gate_up, self.down)

    @property
    def state(self) -> tuple[tuple[float, ...], ...]:
        """What must be the same in both passes: the dropout of each projection, and how often its adapter changed."""
        return tuple((projection.dropout, *(parameter._version for parameter in projection.parameters))
                     for projection in self.projections)

    @classmethod
    def of(cls, structure: Structure, *, dtype: torch.dtype, keep: str, copies: Copies = cast,
           by: Elementwise = PLAIN) -> "Layer":
        """Return the layer of a structure; `copies` gives the adapter's matrices in the dtype of the products."""
        modules = (*structure.qkv, structure.output, *structure.gate_up, structure.down)
        made = [Projection(module=module, place=place, copies=copies) for place, module in enumerate(modules)]
        split = len(structure.qkv)
        return cls(structure=structure, dtype=dtype, keep=keep, by=by, qkv=tuple(made[:split]), output=made[split],
                   gate_up=tuple(made[split + 1:-1]), down=made[-1])

    def __call__(self, hidden_BTE: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of hidden states."""
        parameters = [parameter for projection in self.projections for parameter in projection.parameters]
        out_BTE: torch.Tensor = _Function.apply(  # type: ignore[no-untyped-call]  # torch's own
            hidden_BTE, cos_BTD, sin_BTD, self, *parameters)
        return out_BTE


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_BTE: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, layer: Layer,
                *parameters: torch.nn.Parameter) -> torch.Tensor:
        ctx.layer, ctx.masks, ctx.state = layer, layer.by.masks(), layer.state
        with torch.autocast(hidden_BTE.device.type, enabled=False):
            values: Values = {}
            _fill(values, hidden_BTE, cos_BTD, sin_BTD, layer, ctx.masks)
            down = layer.down
            inner_MI, dropped_MI = layer.by.gated(values["gate"], values["up"], layer.structure.activation, ctx.masks,
                                                  down.dropout, down.place)
            for name in values.keys() - {*KEPT[layer.keep], "middle"}:
                del values[name]
            out_ME = project(inner_MI, down, ctx.masks, layer.by, dropped_MI)
            del inner_MI, dropped_MI
            out_ME = _add(out_ME, values["middle"])
        ctx.save_for_backward(hidden_BTE, cos_BTD, sin_BTD, *(values[name] for name in KEPT[layer.keep]))
        return out_ME.view_as(hidden_BTE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_of_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: Layer = ctx.layer
        if layer.state != ctx.state:  # autograd asks this of what is saved, and the adapter is not
            raise RuntimeError("the adapter was changed, or trains no more, between forward and backward pass")
        hidden_BTE, cos_BTD, sin_BTD, *kept = ctx.saved_tensors
        gradients: Gradients = {}
        with torch.autocast(hidden_BTE.device.type, enabled=False):
            values = dict(zip(KEPT[layer.keep], kept, strict=True))
            del kept
            _fill(values, hidden_BTE, cos_BTD, sin_BTD, layer, ctx.masks)
            out_ME = gradients_of_outputs[0].reshape(-1, hidden_BTE.shape[-1])
            middle_ME = _network_backward(out_ME, values, layer, ctx.masks, gradients)
            hidden = _attention_backward(middle_ME, values, hidden_BTE, cos_BTD, sin_BTD, layer, ctx.masks, gradients,
                                         needs_input=ctx.needs_input_grad[0])
        parameters = [parameter for projection in layer.projections for parameter in projection.parameters]
        return (hidden, None, None, None, *(gradients.get(parameter) for parameter in parameters))


def _fill(values: Values, hidden_BTE: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, layer: Layer,
          masks: Masks) -> None:
    """Compute everything up to the products with gate and up that is not there yet."""
    structure, shape = layer.structure, hidden_BTE.shape
    hidden_ME = hidden_BTE.reshape(-1, shape[-1])
    if "middle" not in values:
        normed_ME = layer.by.normalise(hidden_ME, structure.input_norm, layer.dtype)
        heads = _heads([project(normed_ME, projection, masks, layer.by).view(*shape[:2], -1)
                        for projection in layer.qkv], layer)
        del normed_ME
        if structure.head_norms is None and structure.rotates:
            for x_BTHD in heads[:2]:
                layer.by.rotate_(x_BTHD, cos_BTD, sin_BTD)
        values["q"], values["k"], values["v"] = heads
        del heads
        values["out"], values["statistics"] = attend(*_turned(values, cos_BTD, sin_BTD, layer), values["v"], structure)
        attended_ME = project(values["out"].view(len(hidden_ME), -1), layer.output, masks, layer.by)
        values["middle"] = _add(attended_ME, hidden_ME)
    if "gate" not in values:
        normed_ME = layer.by.normalise(values["middle"], structure.middle_norm, layer.dtype)
        products = [project(normed_ME, projection, masks, layer.by) for projection in layer.gate_up]
        values["gate"], values["up"] = products if len(products) == 2 else products[0].chunk(2, -1)


def _heads(products_BTO: Sequence[torch.Tensor], layer: Layer) -> tuple[torch.Tensor, ...]:
    """Cut queries, keys and values into heads: views of one product or of three."""
    head = layer.structure.head
    if len(products_BTO) == 1:
        attended = _columns_of(layer.output)
        groups = (products_BTO[0].shape[-1] - attended) // 2
        products_BTO = products_BTO[0].split([attended, groups, groups], -1)
    return tuple(x_BTO.unflatten(-1, (-1, head)) for x_BTO in products_BTO)


def _columns_of(projection: Projection) -> int:
    """Return how many numbers go into a projection."""
    columns: Any = base_of(projection.module).in_features
    return int(columns)


def _turned(values: Values, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor,
            layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and keys as attention takes them: where heads are normalised, that is done again here."""
    if layer.structure.head_norms is None:
        return values["q"], values["k"]
    turned = []
    for name, norm in zip("qk", layer.structure.head_norms, strict=True):
        x_BTHD = layer.by.normalise(values[name], norm, layer.dtype)
        if layer.structure.rotates:
            layer.by.rotate_(x_BTHD, cos_BTD, sin_BTD)
        turned.append(x_BTHD)
    return turned[0], turned[1]


def _network_backward(out_ME: torch.Tensor, values: Values, layer: Layer, masks: Masks,
                      gradients: Gradients) -> torch.Tensor:
    """Return the gradient of what the second half of the layer took, its residual included."""
    structure = layer.structure
    down, product = layer.down, out_ME.to(layer.dtype)
    inner_MR = inner_gradient(product, down)
    inner_MI, part_MI = input_backward(product, inner_MR, down)
    seen_MI, gate_gradient_MI, up_gradient_MI = layer.by.gated_backward(
        inner_MI, part_MI, values.pop("gate"), values.pop("up"), structure.activation, masks, down.dropout, down.place)
    del inner_MI, part_MI
    adapter_backward(product, seen_MI, down, gradients, inner_MR)
    del product, seen_MI, inner_MR
    normed_ME = layer.by.normalise(values["middle"], structure.middle_norm, layer.dtype)
    if len(layer.gate_up) == 2:
        into = project_backward(gate_gradient_MI, normed_ME, layer.gate_up[0], masks, gradients, layer.by)
        del gate_gradient_MI
        into = project_backward(up_gradient_MI, normed_ME, layer.gate_up[1], masks, gradients, layer.by, into)
    else:
        both_MI = torch.cat([gate_gradient_MI, up_gradient_MI], -1)
        del gate_gradient_MI
        into = project_backward(both_MI, normed_ME, layer.gate_up[0], masks, gradients, layer.by)
        del both_MI
    del up_gradient_MI, normed_ME
    assert into is not None
    return layer.by.normalise_backward(into, values["middle"], structure.middle_norm, out_ME)


def _attention_backward(middle_ME: torch.Tensor, values: Values, hidden_BTE: torch.Tensor, cos_BTD: torch.Tensor,
                        sin_BTD: torch.Tensor, layer: Layer, masks: Masks, gradients: Gradients, *,
                        needs_input: bool) -> torch.Tensor | None:
    """Return the gradient of the layer's input, its residual included; none where nobody needs it."""
    structure = layer.structure
    hidden_ME = hidden_BTE.reshape(-1, hidden_BTE.shape[-1])
    del values["middle"]
    product = middle_ME.to(layer.dtype)
    out_BTHD = values["out"]
    out_gradient = project_backward(product, out_BTHD.view(len(product), -1), layer.output, masks, gradients, layer.by)
    assert out_gradient is not None
    del product
    query, key = _turned(values, cos_BTD, sin_BTD, layer)
    heads = list(attend_backward(out_gradient.view_as(out_BTHD), query, key, values["v"], out_BTHD,
                                 values["statistics"], structure))
    del out_gradient, out_BTHD, query, key, values["out"], values["v"]
    for i, name in enumerate("qk"):
        if structure.rotates:
            layer.by.rotate_(heads[i], cos_BTD, sin_BTD, back=True)
        if structure.head_norms is not None:
            heads[i] = layer.by.normalise_backward(heads[i], values[name], structure.head_norms[i])
    values.clear()
    products = [x_BTHD.reshape(len(hidden_ME), -1) for x_BTHD in heads]
    if len(layer.qkv) == 1:
        products = [torch.cat(products, -1)]
    del heads
    normed_ME = layer.by.normalise(hidden_ME, structure.input_norm, layer.dtype)
    into: torch.Tensor | None = None
    for projection in layer.qkv:
        into = project_backward(products.pop(0), normed_ME, projection, masks, gradients, layer.by, into,
                                needs_input=needs_input)
    del normed_ME
    if not needs_input:
        return None
    assert into is not None
    return layer.by.normalise_backward(into, hidden_ME, structure.input_norm, middle_ME).view_as(hidden_BTE)


def _add(product: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Add a residual in its own dtype, over the product where they have the same."""
    return product.add_(residual) if product.dtype == residual.dtype else residual + product
