"""What stands in for bitsandbytes' 4-bit weights and for a GPU's kernels while a step is traced on fake tensors.

Fake tensors say they are on the CPU: a CPU build of torch has no backward pass for any other device. So the ways in
which a GPU takes other memory than a CPU are written down here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from kaggle_runner.training.layer.attention import EFFICIENT, FLASH
from kaggle_runner.training.libraries import is_kept_in_16_bits, quantises_subclasses
from kaggle_runner.training.loss import chunk_scores, joined, rows_together, scores_at_once, scores_of_rows

QUANT_BLOCK, SCALE_BLOCK = 64, 256
"""Weights with one scale, and scales with one scale. Source: bitsandbytes, quantize_4bit with compress_statistics."""
_STATE_TENSORS = ("absmax", "code", "offset")
_FLOAT32_UNDER_AUTOCAST = (torch.layer_norm, F.layer_norm, F.softmax, F.log_softmax, torch.pow, torch.Tensor.pow,
                           torch.rsqrt, torch.Tensor.rsqrt, torch.exp, torch.sum, torch.Tensor.sum)

_GROUPED = tuple(function for function in (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None))
                 if function is not None)

# Shapes: B rows, H heads, T positions, D numbers of a head; E experts, S tokens of all of them, K and N numbers before
# and after an expert


class GpuKernels(TorchFunctionMode):
    """Gives fake tensors on the CPU the memory of CUDA's dropout, attention, scores and automatic casts."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is chunk_scores:
            return scores_at_once(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is torch._fused_sdp_choice:
            return _kernel(EFFICIENT, grouped_too=False, **kwargs)
        if func in _FLOAT32_UNDER_AUTOCAST and torch.is_autocast_enabled("cpu"):
            args = [argument.float() if _is_half(argument) else argument for argument in args]
        return func(*args, **kwargs)


class CpuKernels(TorchFunctionMode):
    """Has fake tensors attend and be scored as on a CPU; torch knows no kernel for what has no data."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is chunk_scores:
            return _scores_by_rows(*args)
        if func is torch._fused_sdp_choice:
            return _kernel(FLASH, grouped_too=True, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _scores_by_rows(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take what scores of a few rows at a time take: without data one piece stands for all, which may be thousands."""
    together = rows_together(logits_NV)
    logs_N1, hits_N = scores_of_rows(logits_NV[:together], targets_N[:together])
    left = len(targets_N) - len(hits_N)
    return joined([(logs_N1, hits_N), (logs_N1.new_empty(left, 1), hits_N.new_empty(left))])


class ExpertKernels(TorchFunctionMode):
    """Gives fake tensors the product of tokens with the matrices of their experts, for which torch wants bfloat16.

    How many tokens an expert gets is not known without data, and does not matter: together they are all the tokens.
    Source: torch 2.13, meta_grouped_mm; transformers 5.0 to 5.23, integrations/moe.py; for the split by experts 5.0,
    modeling_granitemoe.py.
    """

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        if func in _GROUPED:
            return _Grouped.apply(args[0], args[1])  # type: ignore[no-untyped-call]  # torch's own
        if func is torch.Tensor.split and len(args) > 1 and isinstance(args[1], list):
            dim = (kwargs or {}).get("dim", 0)
            return torch.split_with_sizes(args[0], _sizes(args[1], args[0].shape[dim]), dim)
        return func(*args, **(kwargs or {}))


def _sizes(counts: list[int], whole: int) -> list[int]:
    """Return how many tokens each expert gets: as counted, or equally many where they were counted without data."""
    if sum(counts) == whole:
        return counts
    return [whole // len(counts) + (number < whole % len(counts)) for number in range(len(counts))]


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_SK: torch.Tensor, weight_EKN: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight_EKN)
        return tokens_SK.new_empty(tokens_SK.shape[0], weight_EKN.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight_EKN,) = ctx.saved_tensors
        return gradients[0].new_empty(gradients[0].shape[0], weight_EKN.shape[-2]), None


def quantise(model: Any, quantization: Mapping[str, Any], *, stored_as: torch.dtype,
             compute_dtype: torch.dtype) -> None:
    """Put NF4 layers without data in the place of the linear layers of a model that has none; all but its head.

    `quantization` is a checkpoint's `quantization_config`; `stored_as` is the dtype that its weights become numbers in
    for the backward pass.
    """
    import bitsandbytes

    head = model.get_output_embeddings()
    kept = quantization.get("llm_int8_skip_modules") or ()
    nested = bool(quantization.get("bnb_4bit_use_double_quant", False))
    for name, module in list(model.named_modules()):
        turned = type(module).__name__ == "Conv1D"  # GPT-2's linear layer, which bitsandbytes takes too
        plain = type(module) is nn.Linear or (isinstance(module, nn.Linear) and quantises_subclasses()
                                              and not name.endswith("router"))
        if (turned or plain) and module is not head \
                and not is_kept_in_16_bits(name, kept):
            inputs, outputs = module.weight.shape if turned else module.weight.shape[::-1]
            with torch.device("meta"):
                layer = bitsandbytes.nn.Linear4bit(inputs, outputs, module.bias is not None, compute_dtype,
                                                   compress_statistics=nested, quant_type="nf4")
                layer._parameters["weight"] = _packed(inputs, outputs, stored_as, nested)
            if module.bias is not None:
                layer.bias = module.bias
            model.set_submodule(name, layer)
    model.is_loaded_in_4bit = True


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Return every tensor that a module keeps on its device, each once: parameters, buffers, 4-bit weights' scales."""
    found: dict[int, torch.Tensor] = {}
    for owner in module.modules():
        for tensor in (*owner._parameters.values(), *owner._buffers.values()):
            if tensor is not None:
                found[id(tensor)] = tensor
                found |= {id(part): part for part in _scales_of(tensor)}
    return list(found.values())


def materialise(module: nn.Module) -> None:
    """Turn tensors without a device into fake ones, in the fake mode that is active; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return made[id(tensor)]

    def fake_parameter(parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in made:
            new = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu"),
                               requires_grad=parameter.requires_grad)
            for state in _states_of(parameter):
                for name in _STATE_TENSORS:
                    if isinstance(getattr(state, name), torch.Tensor):
                        setattr(state, name, fake(getattr(state, name)))
            new.__dict__.update({name: value for name, value in vars(parameter).items() if name == "quant_state"})
            made[id(parameter)] = new
        known = made[id(parameter)]
        assert isinstance(known, nn.Parameter)
        return known

    keep = tensors_of(module)  # ids stay unique while their tensors live
    for owner in module.modules():
        places: tuple[tuple[dict[str, Any], Any], ...] = (
            (owner._parameters, fake_parameter), (owner._buffers, fake), (vars(owner), fake))
        for slots, make in places:
            for name, value in list(slots.items()):
                if isinstance(value, torch.Tensor) and value.device.type == "meta":
                    keep.append(value)
                    slots[name] = make(value)


def _packed(inputs: int, outputs: int, stored_as: torch.dtype, nested: bool) -> nn.Parameter:
    """Return a 4-bit weight with the memory of one that bitsandbytes has quantised; `nested` quantises its scales too.

    bitsandbytes keeps `nested` weights' scales as bytes, with scales of their own.
    """
    from bitsandbytes.functional import QuantState

    elements = inputs * outputs
    scales = -(-elements // QUANT_BLOCK)
    weight: Any = nn.Parameter(torch.empty(-(-elements // 2), 1, dtype=torch.uint8), requires_grad=False)
    second = QuantState(absmax=torch.empty(-(-scales // SCALE_BLOCK)), code=torch.empty(256), blocksize=SCALE_BLOCK,
                        dtype=torch.float32)
    weight.quant_state = QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size((outputs, inputs)), code=torch.empty(16), blocksize=QUANT_BLOCK,
        quant_type="nf4", dtype=stored_as, offset=torch.empty(()) if nested else None,
        state2=second if nested else None)
    weight.compress_statistics, weight.quant_type = nested, "nf4"
    made: nn.Parameter = weight
    return made


def _states_of(tensor: torch.Tensor) -> Iterator[Any]:
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        yield from (state, *([state.state2] if state.nested else []))


def _scales_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    for state in _states_of(tensor):
        for name in _STATE_TENSORS:
            if isinstance(getattr(state, name), torch.Tensor):
                yield getattr(state, name)


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """One kernel, and a mask of one byte a number. Source: ATen/native/Dropout.cpp, is_fused_kernel_acceptable."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def _kernel(kernel: int, *, grouped_too: bool, enable_gqa: bool = False, **kwargs: Any) -> int:
    """Choose a kernel as torch does on a device, 0 being its slow one."""
    return kernel if grouped_too or not enable_gqa else 0


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
               dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
               enable_gqa: bool = False) -> torch.Tensor:
    """The memory-efficient kernel: no T x T scores, but the mask as numbers, and keys for every query head.

    Source: ATen/native/transformers/attention.cpp, scaled_dot_product_attention, convert_boolean_attn_mask, pad_bias.
    """
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(half) for tensor in (query, key, value))
    if enable_gqa:
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            zero = torch.zeros((), dtype=query.dtype)
            attn_mask = torch.where(attn_mask, zero, zero)
        attn_mask = attn_mask.to(query.dtype)
        columns = attn_mask.shape[-1]
        if columns % 16:
            attn_mask = F.pad(attn_mask, (0, 16 - columns % 16))[..., :columns]
        attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], columns)
    keeps_statistics = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    mixed: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, keeps_statistics, dropout_p, is_causal, scale=scale)[0]
    return mixed


def _is_half(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and argument.dtype == torch.float16
