"""Causal attention forward and backward by the kernels that torch itself would choose, without autograd's graph.

Called by hand, so that keys and values are kept once a group and not once a query head. Where torch has no fast kernel,
or a window makes a mask necessary, the backward pass runs the forward pass again.
Shapes: B rows, T positions, H query heads, G key heads, D numbers of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kaggle_runner.training.layer.structure import Structure
from kaggle_runner.training.models.attention import window_mask

FLASH, EFFICIENT = 1, 2
"""torch's numbers of its kernels. Source: PyTorch, SDPBackend."""
FLASH_MULTIPLE = 8
"""Heads of other sizes are padded for CUDA's flash kernel. Source: PyTorch, attention.cpp, pad_last_dim."""


def attend(q_BTHD: torch.Tensor, k_BTGD: torch.Tensor, v_BTGD: torch.Tensor,
           structure: Structure) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what every query head reads, contiguous, and the statistics that the backward pass needs."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTGD, v_BTGD))
    kernel, expanded = _kernel_of(q, k, v, structure)
    if kernel is None:
        out = _plain(q, k, v, structure)
        return out.transpose(1, 2).contiguous(), out.new_empty(0)
    k, v = _expanded(q, k, v) if expanded else (k, v)
    if kernel == EFFICIENT:
        out, statistics = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, 0.0, True, scale=structure.scaling)[:2]
    elif q.is_cuda:
        out, statistics = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, True, False, scale=structure.scaling)[:2]
    else:
        out, statistics = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, True, scale=structure.scaling)
    return out.transpose(1, 2).contiguous(), statistics


def attend_backward(gradient_BTHD: torch.Tensor, q_BTHD: torch.Tensor, k_BTGD: torch.Tensor, v_BTGD: torch.Tensor,
                    out_BTHD: torch.Tensor, statistics: torch.Tensor,
                    structure: Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of queries, keys and values, each contiguous as they are."""
    gradient, q, k, v, out = (x.transpose(1, 2) for x in (gradient_BTHD, q_BTHD, k_BTGD, v_BTGD, out_BTHD))
    kernel, expanded = _kernel_of(q, k, v, structure)
    groups = k.shape[1]
    gradients: Sequence[torch.Tensor]
    if kernel is None:
        gradients = _plain_backward(gradient, q, k, v, structure)
    else:
        k, v = _expanded(q, k, v) if expanded else (k, v)
        gradients = _fast_backward(kernel, gradient, q, k, v, out, statistics, structure)
    dq, dk, dv = (x.transpose(1, 2) for x in gradients)
    if dk.shape[2] != groups:  # a group's query heads stand side by side
        dk, dv = (x.unflatten(2, (groups, -1)).sum(3) for x in (dk, dv))
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def _kernel_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, structure: Structure) -> tuple[int | None, bool]:
    """Return the kernel that torch would choose, none for one that has no name here, and whether keys are expanded."""
    if (structure.window is not None and q.shape[2] > structure.window) or q.shape[2] < 2:
        return None, False
    grouped = q.shape[1] != k.shape[1]
    for expanded in (False, True) if grouped else (False,):
        keys, values = (x[:, :1].expand_as(q) if expanded else x for x in (k, v))
        chosen = torch._fused_sdp_choice(q, keys, values, None, 0.0, True, scale=structure.scaling,
                                         enable_gqa=grouped and not expanded)
        if chosen == FLASH and not (q.is_cuda and structure.head % FLASH_MULTIPLE):
            return FLASH, expanded
        if chosen == EFFICIENT:
            return EFFICIENT, expanded
    return None, False


def _expanded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    group = q.shape[1] // k.shape[1]
    return k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def _fast_backward(kernel: int, gradient: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                   out: torch.Tensor, statistics: torch.Tensor, structure: Structure) -> Sequence[torch.Tensor]:
    gradients: Sequence[torch.Tensor]
    if kernel == EFFICIENT:
        no_seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of a dropout that there is not
        gradients = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, q, k, v, None, out, statistics, no_seed, no_seed, 0.0, [True, True, True, False], True,
            scale=structure.scaling)[:3]
    elif q.is_cuda:
        no_seed = torch.zeros(2, dtype=torch.int64, device=q.device)
        length = q.shape[2]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            gradient, q, k, v, out, statistics, None, None, length, length, 0.0, True, no_seed, no_seed[:0],
            scale=structure.scaling)
    else:
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, statistics, 0.0, True, scale=structure.scaling)
    return gradients


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, structure: Structure) -> torch.Tensor:
    length = q.shape[2]
    mask: Any = None
    if structure.window is not None and length > structure.window:
        mask = window_mask(length, structure.window, q.device)
    k, v = _expanded(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=structure.scaling,
                                          is_causal=mask is None and length > 1)


def _plain_backward(gradient: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                    structure: Structure) -> Sequence[torch.Tensor]:
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = _plain(q, k, v, structure)
    return torch.autograd.grad(out, (q, k, v), gradient)
