"""What a layer does number by number as six Triton kernels, one pass through memory each.

No matrix product: Triton has no tensor cores on compute capability 7.5, and cuBLAS has. All compute in float32 and
round once. A dropout mask is a function of seed and place, so the backward pass draws it again and nothing is kept.
Names: rows and columns of what a program works on; `inside` is where a block has numbers.
"""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def norm_forward(x: Any, weight: Any, y: Any, columns: Any, eps: Any, offset: Any, BLOCK: tl.constexpr) -> None:
    """y = x divided by its root mean square, times weight + offset; a program for a row."""
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    a = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(a * a, 0) / columns + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + offset
    tl.store(y + row + column, (a * scale * w).to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(gradient: Any, x: Any, weight: Any, residual: Any, out: Any, columns: Any, eps: Any, offset: Any,
                  HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """out = the gradient of x, plus the gradient that went around the norm; a program for a row."""
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    a = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(a * a, 0) / columns + eps)
    n = a * scale
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + offset
    g = tl.load(gradient + row + column, mask=inside, other=0.0).to(tl.float32) * w
    d = (g - n * (tl.sum(g * n, 0) / columns)) * scale
    if HAS_RESIDUAL:
        d += tl.load(residual + row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + column, d.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate(x: Any, cos: Any, sin: Any, sign: Any, token_stride: Any, head_stride: Any, row_stride: Any,
           angle_stride: Any, length: Any, heads: Any, half: Any, HEADS: tl.constexpr, HALF: tl.constexpr) -> None:
    """Turn the vectors of all heads of a token, in place; sign -1 turns them back; a program for a token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, HALF)
    angle = (token // length) * row_stride + (token % length) * angle_stride + column
    c = tl.load(cos + angle, mask=column < half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + angle, mask=column < half, other=0.0).to(tl.float32)[None, :] * sign
    head = tl.arange(0, HEADS)[:, None]
    place = x + token * token_stride + head * head_stride + column[None, :]
    inside = (head < heads) & (column[None, :] < half)
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (first * c - second * s).to(x.dtype.element_ty), mask=inside)
    tl.store(place + half, (second * c + first * s).to(x.dtype.element_ty), mask=inside)


@triton.jit
def _kept(seed: Any, place: Any, threshold: Any) -> Any:
    """Whether dropout keeps the numbers of some places: by Philox, whose counter is the place."""
    drawn = tl.randint(seed, place.to(tl.uint32)).to(tl.uint32, bitcast=True)
    return drawn >= threshold.to(tl.uint32)


@triton.jit
def _activated(g: Any, GELU: tl.constexpr) -> Any:
    """The activation of g and its slope; SiLU, or GELU by its approximation with a hyperbolic tangent."""
    if GELU:
        bent = 0.7978845608028654 * g * (1.0 + 0.044715 * g * g)
        upper = tl.sigmoid(2.0 * bent)  # (1 + tanh(bent)) / 2
        slope = upper + 2.0 * g * upper * (1.0 - upper) * 0.7978845608028654 * (1.0 + 0.134145 * g * g)
    else:
        upper = tl.sigmoid(g)
        slope = upper * (1.0 + g * (1.0 - upper))
    return g * upper, slope


@triton.jit(do_not_specialize=["seed", "threshold"])
def gated_forward(gate: Any, up: Any, out: Any, dropped: Any, gate_stride: Any, up_stride: Any, columns: Any, seed: Any,
                  threshold: Any, scale: Any, GELU: tl.constexpr, DROP: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """out = activation(gate) x up, and dropped = the same after dropout; a program for a piece of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    active, _ = _activated(g, GELU)
    value = active * u
    place = row * columns + column
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
    if DROP:
        value = tl.where(_kept(seed, place, threshold), value * scale, 0.0)
        tl.store(dropped + place, value.to(dropped.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "threshold"])
def gated_backward(gradient: Any, part: Any, gate: Any, up: Any, gate_stride: Any, up_stride: Any, columns: Any,
                   seed: Any, threshold: Any, scale: Any, GELU: tl.constexpr, DROP: tl.constexpr,
                   BLOCK: tl.constexpr) -> None:
    """In place: gate and up become their gradients, and gradient becomes what `gated_forward` dropped or made.

    `part` is the gradient that came through the dropout.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    place = row * columns + column
    d = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    active, slope = _activated(g, GELU)
    seen = active * u
    if DROP:
        kept = _kept(seed, place, threshold)
        seen = tl.where(kept, seen * scale, 0.0)
        d += tl.where(kept, tl.load(part + place, mask=inside, other=0.0).to(tl.float32) * scale, 0.0)
    tl.store(gradient + place, seen.to(gradient.dtype.element_ty), mask=inside)
    tl.store(gate + row * gate_stride + column, (d * u * slope).to(gate.dtype.element_ty), mask=inside)
    tl.store(up + row * up_stride + column, (d * active).to(up.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "threshold"])
def masked_add(sum_: Any, part: Any, count: Any, seed: Any, threshold: Any, scale: Any, ADDS: tl.constexpr,
               BLOCK: tl.constexpr) -> None:
    """sum += part after dropout, or sum = that without `ADDS`; a program for a piece."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    value = tl.load(part + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(_kept(seed, place, threshold), value * scale, 0.0)
    if ADDS:
        value += tl.load(sum_ + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(sum_ + place, value.to(sum_.dtype.element_ty), mask=inside)
