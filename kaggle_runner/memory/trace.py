"""Trace one training micro-batch and one evaluation batch of a config on fake tensors: real code, no weights, no GPU.

The model is transformers' own, built from its config alone; adapter, loss and evaluation are the trainer's. Only the
4-bit weights and the kernels of a GPU are stood in for.
"""

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.memory.fake_kernels import ExpertKernels, GpuKernels, materialise, quantise, tensors_of
from kaggle_runner.memory.live_bytes import BLOCK_BYTES, LiveBytes
from kaggle_runner.memory.timeline import TRACED_LAYERS, Event, Peak, peak_of, peak_of_layers
from kaggle_runner.training import finetune
from kaggle_runner.training.data.batches import EncodedRows, collate
from kaggle_runner.training.models import base_model
from kaggle_runner.training.models.attention import use_causal_attention
from kaggle_runner.training.models.bare_model import (
    bare_model,
    keep_layers,
    layers_of,
    outline,
    own_head,
    quantization_of,
    stored_dtype,
)
from kaggle_runner.training.models.base_model import BaseModel

CPU = torch.device("cpu")
STATE_BLOCK, SMALLEST_8BIT, SMALLEST_PAGED = 256, 4096, 100_000
"""8-bit AdamW: numbers with one scale, parameters below which states stay float32, and below which they are not paged.
Source: bitsandbytes 0.50, optim/optimizer.py, Optimizer2State.init_state and get_state_buffer."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The peaks of the parts of a trial."""

    peaks: Mapping[str, Peak]
    """`training`, `optimizer step` and `evaluation`."""
    layers: int
    layers_traced: int


class _Tokenizer:
    """All that the evaluation asks of a tokenizer."""

    pad_token_id = 0


def trace(config: FinetuneConfig, model_config: Mapping[str, Any], *, cuda: bool, half: bool) -> Trace:
    """Trace a config on a model given by its `config.json`; `half` computes in float16, else in float32.

    Every row is `max_length` tokens, all of which count: the most a batch can take. Traces `TRACED_LAYERS` layers and
    unrolls them to all, or all of them where they are not alike.

    Raises:
        ModelError: transformers cannot build or run a causal language model from this config.
        ConfigError: `target_modules` names nothing in this model.
    """
    with warnings.catch_warnings(), _quiet_fakes():
        warnings.simplefilter("ignore")
        model = bare_model(model_config, half)
        layers = len(layers_of(model))
        alike = len({outline(layer) for layer in layers_of(model)}) == 1 and not _names_single_layers(config)
        for traced in (TRACED_LAYERS, layers) if alike and layers > TRACED_LAYERS else (layers,):
            model = bare_model(model_config, half)
            keep_layers(model, traced)
            try:
                peaks = _peaks(config, model, model_config, cuda=cuda, half=half, layers=layers)
            except (RuntimeError, NotImplementedError, TypeError, AttributeError, IndexError, ValueError) as error:
                raise ModelError(f"cannot forecast the memory of a {model_config['model_type']} model: "
                                 f"{str(error).splitlines()[0]}; choose another model, or run it without a forecast"
                                 ) from error
            if peaks is not None:
                break
    assert peaks is not None
    return Trace(peaks=peaks, layers=layers, layers_traced=traced)


@contextlib.contextmanager
def _quiet_fakes() -> Iterator[None]:
    """Keep torch from printing the trace of what cannot be run without data: the error says it in one line."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def fullest_evaluation(config: FinetuneConfig) -> tuple[int, int]:
    """Return rows and length of the evaluation batch that has the most tokens."""
    config = config.for_scoring()
    limit = max(config.batch_size * config.max_length, finetune.EVAL_TOKENS)
    return max(((limit // length, length) for length in range(8, config.max_length + 1)),
               key=lambda shape: (shape[0] * shape[1], shape[1]))


def _peaks(config: FinetuneConfig, model: Any, model_config: Mapping[str, Any], *, cuda: bool, half: bool,
           layers: int) -> Mapping[str, Peak] | None:
    """Return the peaks with `layers` layers from a bare model that may have fewer; none if these are not alike."""
    # 1. base and adapter as the trainer makes them, without data
    dtype = torch.float16 if half else torch.float32
    quantization = quantization_of(config, model_config)
    if quantization is not None:
        quantise(model, quantization, stored_as=stored_dtype(model_config, dtype), compute_dtype=dtype)
    base_model.freeze(model, dtype)
    use_causal_attention(model, groups=not cuda)  # a GPU that groups takes less
    base = BaseModel(key=base_model.base_key(config), model=model, tokenizer=_Tokenizer(), device=CPU,
                     compute_dtype=dtype, sha256="", own_head=own_head(model.config), seconds=0.0)
    with torch.device("meta"):
        adapted = finetune.attach(base, config)
    if config.gradient_checkpointing:
        finetune.set_checkpointing(model, True)
    # 2. what is there before a micro-batch starts
    start, parameters = _standing(model, layers, block_bytes=BLOCK_BYTES if cuda else 1)
    start["optimizer"] = sum(_state_bytes(size, config.optim, cuda) for size in parameters)
    adapter_bytes = start["adapter"]
    if not cuda and config.eval_steps < config.max_steps:
        start["adapter"] += adapter_bytes  # the best adapter so far is kept in RAM
    held = start + Counter(gradients=adapter_bytes)
    accumulates = config.gradient_accumulation_steps > 1
    # 3. a micro-batch and an evaluation on fake tensors
    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as modes:
        modes.enter_context(ExpertKernels())
        if cuda:
            modes.enter_context(GpuKernels())
        live = modes.enter_context(LiveBytes(block_bytes=BLOCK_BYTES if cuda else 1))
        materialise(adapted)
        for parameter in adapted.parameters():
            if parameter.requires_grad and accumulates:
                parameter.grad = torch.empty_like(parameter)
                live.relabel(parameter.grad, "gradients")
        _mark_segments(model, live)
        live.take_events()
        _micro_batch(base, config, live)
        training = live.take_events()
        _evaluate(base, config, live)
        evaluation = live.take_events()
    peaks: dict[str, Peak | None] = {
        "training": _unroll(training, held if accumulates else start, model, layers),
        "evaluation": _unroll(evaluation, start, model, layers)}
    # 4. the optimizer step: on a CPU two copies of one parameter, on a GPU one kernel that takes none
    step_bytes = 0 if cuda and config.optim == "adamw_torch" else 8 * max(parameters)
    peaks["optimizer step"] = Peak(total_bytes=held.total() + step_bytes, parts=held + Counter(activations=step_bytes))
    known = {name: peak for name, peak in peaks.items() if peak is not None}
    return known if len(known) == len(peaks) else None


def _micro_batch(base: BaseModel, config: FinetuneConfig, live: LiveBytes) -> None:
    """Forward and backward pass of one micro-batch, as `finetune` does it."""
    base.model.train()
    rows = _full_rows(config.batch_size, config.max_length)
    loss = finetune.loss_of(base, collate(rows, range(config.batch_size), pad_id=0, completion_only=False))
    # loss.backward() would leave the function mode, and with it what a checkpointed layer does when it runs again
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)
    live.enter("after")


def _evaluate(base: BaseModel, config: FinetuneConfig, live: LiveBytes) -> None:
    """Evaluate one batch of the shape that has the most tokens."""
    count, length = fullest_evaluation(config)
    finetune.evaluate(base, _full_rows(count, length), config)


def _full_rows(count: int, length: int) -> EncodedRows:
    """Return rows of one length, all tokens of which count but the first."""
    return EncodedRows(tokens=np.zeros(count * length, dtype=np.int32), starts=np.arange(count + 1) * length,
                       trained=np.ones(count * length, dtype=bool))


def _unroll(events: Sequence[Event], start: Mapping[str, int], model: Any, layers: int) -> Peak | None:
    if len(layers_of(model)) == layers:
        return peak_of(events, start)
    return peak_of_layers(events, start, layers)


def _standing(model: Any, layers: int, block_bytes: int) -> tuple[Counter[str], list[int]]:
    """Return the bytes of base and adapter with `layers` layers, and the elements of every trained parameter."""
    sizes: Counter[str] = Counter()
    trained = []
    copies = {id(tensor): layers // len(layers_of(model)) for tensor in tensors_of(layers_of(model))}
    if layers != len(layers_of(model)):  # a layer in the middle stands for all
        copies = dict.fromkeys(copies, 0) | {id(tensor): layers for tensor in tensors_of(layers_of(model)[1])}
    for tensor in tensors_of(model):
        times = copies.get(id(tensor), 1)
        label = "adapter" if tensor.requires_grad else "base"
        sizes[label] += times * (-(-tensor.nbytes // block_bytes) * block_bytes)
        trained += [tensor.numel()] * (times if tensor.requires_grad else 0)
    return sizes, trained


def _state_bytes(elements: int, optim: str, cuda: bool) -> int:
    """Return the bytes of AdamW's two moments of one parameter on its device."""
    if optim == "adamw_torch":
        return 2 * 4 * elements
    if elements < SMALLEST_8BIT:
        return 2 * 4 * elements
    scales_bytes = 2 * 4 * -(-elements // STATE_BLOCK)
    paged = optim == "paged_adamw_8bit" and cuda and elements >= SMALLEST_PAGED
    return scales_bytes if paged else scales_bytes + 2 * elements


def _mark_segments(model: Any, live: LiveBytes) -> None:
    """Have the layers tell the recorder which of them works, forward and backward, and parameters their gradient."""
    layers = layers_of(model)

    def starts(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if not live.is_backward:  # a checkpointed layer runs again in the backward pass
                live.enter("forward", number)
        return hook

    def ends(number: int) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            if live.is_backward:
                return
            if hidden_BTD.requires_grad:
                hidden_BTD.register_hook(lambda _: live.enter("backward", number))
            if number == len(layers):
                live.enter("loss")
        return hook

    for number, layer in enumerate(layers, start=1):
        layer.register_forward_pre_hook(starts(number))
        layer.register_forward_hook(ends(number))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: live.relabel(p.grad, "gradients"))


def _names_single_layers(config: FinetuneConfig) -> bool:
    """Say whether `target_modules` may pick some layers and not others."""
    if isinstance(config.target_modules, str):
        return config.target_modules != "all-linear"
    return any("." in name for name in config.target_modules)
