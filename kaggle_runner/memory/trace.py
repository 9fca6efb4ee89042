"""Trace one training micro-batch and one evaluation batch of a config on fake tensors: real code, no weights, no GPU.

The model is transformers' own, built from its config alone; adapter, loss and evaluation are the trainer's. Only the
4-bit weights and the kernels of a GPU are stood in for.
"""

import contextlib
import dataclasses
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
from kaggle_runner.memory.fake_kernels import (
    CpuKernels,
    ExpertKernels,
    GpuKernels,
    materialise,
    quantise,
    tensors_of,
)
from kaggle_runner.memory.live_bytes import BLOCK_BYTES, LiveBytes
from kaggle_runner.memory.timeline import TRACED_LAYERS, Event, Peak, peak_of, peak_of_layers, peak_of_mixture
from kaggle_runner.training import finetune
from kaggle_runner.training.data.batches import EncodedRows, collate
from kaggle_runner.training.layer.keep import ATTENTION, INPUT, PRODUCTS, from_words, in_words, keep_for
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
    keep: str
    """What each layer keeps, in the words of `layer.keep`; empty where transformers computes the layers."""

    @property
    def peak_bytes(self) -> int:
        """The highest of the peaks."""
        return max(peak.total_bytes for peak in self.peaks.values())


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """What a model of a few layers or of all of them did in one micro-batch and one evaluation."""

    training: Sequence[Event]
    evaluation: Sequence[Event]
    held: Counter[str]
    """What is there throughout, with all layers."""
    step_bytes: int
    """What the optimizer step takes."""
    traced: int
    """Layers that were traced."""
    keep: str
    """What they keep."""


class _Tokenizer:
    """All that the evaluation asks of a tokenizer."""

    pad_token_id = 0


def trace(config: FinetuneConfig, model_config: Mapping[str, Any], *, cuda: bool, half: bool,
          keep: str = "") -> Trace:
    """Trace a config on a model given by its `config.json`; `half` computes in float16, else in float32.

    `keep` is what each decoder layer keeps, where they are ours and the config does not decide it.

    Every row is `max_length` tokens, all of which count: the most a batch can take. Traces `TRACED_LAYERS` layers and
    unrolls them to all, or all of them where they are not alike.

    Raises:
        ModelError: transformers cannot build or run a causal language model from this config.
        ConfigError: `target_modules` names nothing in this model.
    """
    recording, layers = _recorded(config, model_config, cuda=cuda, half=half, keep=keep)
    words = keep_in_words(recording.keep, layers)
    return Trace(peaks=_peaks(recording, layers), layers=layers, layers_traced=recording.traced, keep=words)


def trace_within(config: FinetuneConfig, model_config: Mapping[str, Any], *, cuda: bool, half: bool,
                 budget_bytes: int) -> Trace:
    """Trace a config whose layers keep as much as fits a budget; where nothing fits, the input only.

    Of the lists that a layer may keep the longest saves the most work for its bytes, so it goes to as many layers as
    there is room for, and the next one to as many of the rest. Where transformers computes the layers, all of them run
    again.

    Raises:
        ModelError, ConfigError: as `trace`.
    """
    again = dataclasses.replace(config, gradient_checkpointing=True)
    recording, layers = _recorded(again, model_config, cuda=cuda, half=half)
    shortest = Trace(peaks=_peaks(recording, layers), layers=layers, layers_traced=recording.traced,
                     keep=keep_in_words(recording.keep, layers))
    if not recording.keep or shortest.peak_bytes > budget_bytes:
        return shortest
    recordings = {INPUT: recording} | {
        name: _recorded(again, model_config, cuda=cuda, half=half, keep=f"{name} {layers}")[0]
        for name in (ATTENTION, PRODUCTS)}
    if len({found.traced for found in recordings.values()}) > 1:
        return shortest
    by_list = {name: found.training for name, found in recordings.items()}

    def mixture(products: int, attention: int) -> Trace | None:
        lists = keep_for(layers, products=products, attention=attention)
        peak = peak_of_mixture(by_list, recording.held, lists, traced=recording.traced)
        return None if peak is None else dataclasses.replace(
            shortest, peaks={**shortest.peaks, "training": peak}, keep=in_words(lists))

    def fits(traced: Trace | None) -> bool:
        return traced is not None and traced.peak_bytes <= budget_bytes

    products = _most(layers, lambda count: fits(mixture(count, 0)))
    attention = _most(layers - products, lambda count: fits(mixture(products, count)))
    return mixture(products, attention) or shortest


def keep_in_words(keep: str, layers: int) -> str:
    """Return what all layers keep, from what a few layers keep that are alike."""
    lists = from_words(keep) if keep else ()
    return keep if len(lists) in (0, layers) else in_words(lists[:1] * layers)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to a limit that fits, where every smaller one does too and 0 does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _recorded(config: FinetuneConfig, model_config: Mapping[str, Any], *, cuda: bool, half: bool,
              keep: str = "") -> tuple[_Recording, int]:
    """Return what `TRACED_LAYERS` layers did, or all where they are not alike, and how many layers there are."""
    with warnings.catch_warnings(), _quiet_fakes():
        warnings.simplefilter("ignore")
        model = bare_model(model_config, half)
        layers = len(layers_of(model))
        quantization = quantization_of(config, model_config) or {}
        if quantization.get("llm_int8_skip_modules"):  # perhaps in some layers only
            quantise(model, quantization, stored_as=torch.float16, compute_dtype=torch.float16)
        alike = (len({outline(layer) for layer in layers_of(model)}) == 1 and not _names_single_layers(config)
                 and len(set(from_words(keep) if keep else ())) <= 1)
        for traced in (TRACED_LAYERS, layers) if alike and layers > TRACED_LAYERS else (layers,):
            model = bare_model(model_config, half)
            keep_layers(model, traced)
            lists = keep if not keep or len(from_words(keep)) == traced else in_words(from_words(keep)[:1] * traced)
            try:
                recording = _record(config, model, model_config, cuda=cuda, half=half, layers=layers, keep=lists)
            except (RuntimeError, NotImplementedError, TypeError, AttributeError, IndexError, ValueError) as error:
                raise ModelError(f"cannot forecast the memory of a {model_config['model_type']} model: "
                                 f"{str(error).splitlines()[0]}; choose another model, or run it without a forecast"
                                 ) from error
            if traced == layers or all(peak_of_layers(events, {}, layers) is not None
                                       for events in (recording.training, recording.evaluation)):
                break
    return recording, layers


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


def _record(config: FinetuneConfig, model: Any, model_config: Mapping[str, Any], *, cuda: bool, half: bool,
            layers: int, keep: str) -> _Recording:
    """Run a micro-batch and an evaluation of a bare model that may have fewer than its `layers` layers."""
    # 1. base and adapter as the trainer makes them, without data
    dtype = torch.float16 if half else torch.float32
    quantization = quantization_of(config, model_config)
    if quantization is not None:
        quantise(model, quantization, stored_as=stored_dtype(model_config, dtype), compute_dtype=dtype)
    base_model.freeze(model, dtype)
    use_causal_attention(model, groups=not cuda)  # a GPU that groups takes less
    base = BaseModel(key=base_model.base_key(config), model=model, tokenizer=_Tokenizer(), device=CPU,
                     compute_dtype=dtype, sha256="", own_head=own_head(model), seconds=0.0,
                     strange_layers="Liger's kernels are in it" if config.use_liger_kernel else "")
    with torch.device("meta"):
        adapted = finetune.attach(base, config)
    # 2. what is there before a micro-batch starts
    held = _standing(model, config, layers, cuda=cuda, half=half)
    # 3. a micro-batch and an evaluation on fake tensors
    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as modes:
        modes.enter_context(ExpertKernels())
        modes.enter_context(GpuKernels() if cuda else CpuKernels())
        live = modes.enter_context(LiveBytes(block_bytes=BLOCK_BYTES if cuda else 1))
        materialise(adapted)
        buffer = finetune.buffer_of(adapted, base)
        _mark_segments(model, live)
        live.take_events()
        with finetune.training_layers(base, config, buffer, keep) as path:
            _micro_batch(base, config, live)
        training = live.take_events()
        _evaluate(base, config, live)
        evaluation = live.take_events()
    # 4. the optimizer step: one kernel that takes nothing, but on a CPU 8-bit moments become numbers
    step_bytes = 8 * max(_trained(model)) if config.optim != "adamw_torch" else 0
    return _Recording(training=training, evaluation=evaluation, held=held, step_bytes=step_bytes,
                      traced=len(layers_of(model)), keep=path.keep)


def _peaks(recording: _Recording, layers: int) -> Mapping[str, Peak]:
    """Return the peaks with all layers."""
    held = recording.held
    step = Counter(activations=recording.step_bytes)
    return {"training": _unroll(recording.training, recording, layers),
            "evaluation": _unroll(recording.evaluation, recording, layers),
            "optimizer step": Peak(total_bytes=held.total() + recording.step_bytes, parts=held + step)}


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
    finetune.scored_batches(base, _full_rows(count, length), config)


def _full_rows(count: int, length: int) -> EncodedRows:
    """Return rows of one length, all tokens of which count but the first."""
    return EncodedRows(tokens=np.zeros(count * length, dtype=np.int32), starts=np.arange(count + 1) * length,
                       trained=np.ones(count * length, dtype=bool))


def _unroll(events: Sequence[Event], recording: _Recording, layers: int) -> Peak:
    peak = (peak_of(events, recording.held) if recording.traced == layers else
            peak_of_layers(events, recording.held, layers))
    assert peak is not None, "only layers that are alike are left out of a recording"
    return peak


def _standing(model: Any, config: FinetuneConfig, layers: int, *, cuda: bool, half: bool) -> Counter[str]:
    """Return the bytes that are there throughout, with `layers` layers: base, adapter, optimizer, gradients."""
    def rounded(size_bytes: int) -> int:
        return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES if cuda else size_bytes

    sizes: Counter[str] = Counter()
    trained: list[int] = []
    copies = {id(tensor): layers // len(layers_of(model)) for tensor in tensors_of(layers_of(model))}
    if layers != len(layers_of(model)):  # a layer in the middle stands for all
        copies = dict.fromkeys(copies, 0) | {id(tensor): layers for tensor in tensors_of(layers_of(model)[1])}
    for tensor in tensors_of(model):
        times = copies.get(id(tensor), 1)
        if tensor.requires_grad:
            trained += [tensor.numel()] * times
        else:
            sizes["base"] += times * rounded(tensor.nbytes)
    # all matrices of an adapter lie in one tensor, and so do their gradients and moments
    adapter_bytes = rounded(4 * sum(trained))
    sizes["adapter"] = adapter_bytes + (rounded(2 * sum(trained)) if half else 0)
    if not cuda and config.eval_steps < config.max_steps:
        sizes["adapter"] += adapter_bytes  # the best adapter so far is kept in RAM
    sizes["gradients"] = adapter_bytes
    sizes["optimizer"] = (2 * adapter_bytes if config.optim == "adamw_torch" else
                          sum(_state_bytes(size, config.optim, cuda) for size in trained))
    return sizes


def _trained(model: Any) -> list[int]:
    """Return the elements of every trained parameter."""
    return [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]


def _state_bytes(elements: int, optim: str, cuda: bool) -> int:
    """Return the bytes of 8-bit AdamW's two moments of one parameter on its device."""
    if elements < SMALLEST_8BIT:
        return 2 * 4 * elements
    scales_bytes = 2 * 4 * -(-elements // STATE_BLOCK)
    paged = optim == "paged_adamw_8bit" and cuda and elements >= SMALLEST_PAGED
    return scales_bytes if paged else scales_bytes + 2 * elements


def _mark_segments(model: Any, live: LiveBytes) -> None:
    """Have the layers tell the recorder which of them works, forward and backward."""
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


def _names_single_layers(config: FinetuneConfig) -> bool:
    """Say whether `target_modules` may pick some layers and not others."""
    if isinstance(config.target_modules, str):
        return config.target_modules != "all-linear"
    return any("." in name for name in config.target_modules)
