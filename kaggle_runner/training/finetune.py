"""Train one LoRA adapter on the warm base: model, adapter, optimizer, loop, evaluation, result.

A linear loop on torch instead of transformers' Trainer: the Trainer averages the evaluation per batch and not per
token, doubles the batch where two GPUs are visible, and keeps the base changed after a trial. The same trial gives
the same losses to the last bit on a CPU, whatever ran before it on the same base, or where it was interrupted.
"""

import gc
import hashlib
import math
import pathlib
import platform
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import accelerate
import numpy as np
import peft
import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError
from kaggle_runner.events import Attached, Checkpointed, Logged, Resumed
from kaggle_runner.metrics import LOSS, Evaluations, Metric
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.study.weights import adapter_digest
from kaggle_runner.training.adapter_buffer import AdapterBuffer
from kaggle_runner.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kaggle_runner.training.control import Control, NotFinite
from kaggle_runner.training.data.batches import EncodedRows, MicroBatch, collate, step_batches
from kaggle_runner.training.data.tokens import EncodedData
from kaggle_runner.training.layer.install import Path, layers_for_training
from kaggle_runner.training.layer.projection import cast
from kaggle_runner.training.libraries import hide_unfit_torchao, spelled_out
from kaggle_runner.training.loss import ScoredBatch, scored_loss, scores_of, summed_loss
from kaggle_runner.training.models.bare_model import without_adapters
from kaggle_runner.training.models.base_model import BaseModel
from kaggle_runner.training.phases import Phases, peak_bytes, reset_peak_bytes
from kaggle_runner.training.schedule import learning_rate_at

__all__ = ["Control", "NotFinite", "attach", "evaluate", "learning_rate_at", "loss_of", "measure", "rows_of_step",
           "scored_batches", "train_adapter", "versions"]

EVAL_TOKENS = 1024
"""Least tokens in an evaluation batch, padding included; small rows are slow one by one."""
PASS_TOKENS = {"cpu": 32, "cuda": 256}
"""What a micro-batch costs besides its tokens, as so many tokens.

Source: measured, the demo base on one CPU thread: 10 ms a micro-batch, 0.28 ms a token; a 3B shape on an H100: 300 ms
a micro-batch of 32 tokens and of 1,024, all the host's. A T4, not measured, takes 1 ms a token of an 8B, as published.
"""


@dataclass
class _Progress:
    """What a checkpoint must bring back besides tensors."""

    step: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    skipped_steps: int = 0
    evaluations: Evaluations = field(default_factory=Evaluations)


def train_adapter(base: BaseModel, data: EncodedData, config: FinetuneConfig, trial_id: str,
                  control: Control) -> TrialResult:
    """Train the adapter of one trial; the base is left as it was, also when this raises.

    Continues from the newest checkpoint in the trial's directory if there is one.

    Raises:
        NotFinite: the training or evaluation loss is not a number any more.
        ConfigError: `target_modules` names nothing in this model, or the checkpoint is of another config.
        torch.OutOfMemoryError: the trial does not fit.
    """
    phases = Phases()
    torch.manual_seed(config.seed)  # before the adapter: its first matrix is random
    _empty_caches(base.device)
    reset_peak_bytes(base.device)
    adapted = attach(base, config)
    try:
        buffer = buffer_of(adapted, base)
        with training_layers(base, config, buffer, control.keep) as path:
            return _train(base, adapted, buffer, data, config, trial_id, control, phases, path)
    finally:
        adapted.unload()
        base.model.eval()
        del adapted
        _empty_caches(base.device)


def attach(base: BaseModel, config: FinetuneConfig) -> Any:
    """Put the adapter of a config on a base, its first matrices drawn from torch's generator; `unload` takes it off.

    Raises:
        ConfigError: `target_modules` names nothing in this model.
    """
    hide_unfit_torchao()
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # GPT-2's layers; peft mends it
            return peft.get_peft_model(base.model, peft.LoraConfig(
                task_type="CAUSAL_LM", r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
                target_modules=spelled_out(targets, base.model), fan_in_fan_out=False,
                exclude_modules=without_adapters(base.model)))
    except ValueError as error:
        what = str(error).splitlines()[0]
        way_out = ("; beside fused experts write lora_dropout: 0, or name layers: target_modules: [q_proj, v_proj]"
                   if "ParamWrapper" in what else "")
        raise ConfigError(f"no adapter for target_modules {targets!r}: {what}{way_out}") from error


def buffer_of(adapted: Any, base: BaseModel) -> AdapterBuffer:
    """Put all trained parameters of an adapter into one tensor, and their gradients into another."""
    return AdapterBuffer((p for p in adapted.parameters() if p.requires_grad), base.compute_dtype)


def training_layers(base: BaseModel, config: FinetuneConfig, buffer: AdapterBuffer | None = None,
                    keep: str = "") -> AbstractContextManager[Path]:
    """Make the decoder layers ready for training; the context gives which way they are computed."""
    return layers_for_training(base.model, dtype=base.compute_dtype, again=config.gradient_checkpointing, keep=keep,
                               copies=buffer.copies if buffer else cast, strange=base.strange_layers)


def evaluate(base: BaseModel, rows: EncodedRows, config: FinetuneConfig) -> float:
    """Measure the token-weighted mean loss over the held-out rows, in nats, with whatever adapter is attached."""
    return measure(base, rows, config)[LOSS]


def measure(base: BaseModel, rows: EncodedRows, config: FinetuneConfig) -> dict[str, float]:
    """Measure everything that held-out rows tell in one pass, by the names of the metrics."""
    return scores_of(rows, scored_batches(base, rows, config), base.ends)


@torch.no_grad()
def scored_batches(base: BaseModel, rows: EncodedRows, config: FinetuneConfig) -> list[ScoredBatch]:
    """Run the model once over the held-out rows; what it says stays on its device, so that nothing waits for it."""
    base.model.eval()
    config = config.for_scoring()
    scored = []
    for indices in eval_batches(rows, config):
        batch = collate(rows, indices, pad_id=base.tokenizer.pad_token_id, completion_only=config.completion_only_loss)
        with _autocast(base):
            loss, hits_N = scored_loss(base.model, *_on_device(batch, base.device), own_head=base.own_head)
        scored.append(ScoredBatch(rows=indices, batch=batch, loss=loss, hits_N=hits_N))
    return scored


def rows_of_step(rows: EncodedRows, config: FinetuneConfig, device: torch.device, step: int, share: int = 0,
                 shares: int = 1) -> list[np.ndarray]:
    """Return the rows of each micro-batch of an optimizer step, counted from 0, or of a share of it."""
    return step_batches(rows, batch_size=config.batch_size, accumulation=config.gradient_accumulation_steps,
                        seed=config.seed, step=step, pass_tokens=PASS_TOKENS[device.type], share=share, shares=shares)


def loss_of(base: BaseModel, batch: MicroBatch) -> torch.Tensor:
    """Sum the loss over the positions of a micro-batch that count, on the base's device."""
    with _autocast(base):
        return summed_loss(base.model, *_on_device(batch, base.device), own_head=base.own_head)


def _train(base: BaseModel, adapted: Any, buffer: AdapterBuffer, data: EncodedData, config: FinetuneConfig,
           trial_id: str, control: Control, phases: Phases, path: Path) -> TrialResult:
    device, rows, team = base.device, data.train, control.team
    parameters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer = _optimizer(config, buffer, list(parameters.values()))
    scaler = torch.amp.GradScaler(device.type, enabled=base.compute_dtype is torch.float16)
    progress = _Progress(evaluations=Evaluations(metric=control.metric))
    best_adapter: dict[str, torch.Tensor] = {}
    checkpoint = load_checkpoint(control.directory, config, control.emit, "" if team.is_final else data.sha256,
                                 lambda state: team.require_rows(state.get("rows"), data.sha256))
    if checkpoint is not None:
        progress, best_adapter = _restore(checkpoint, control.metric, parameters, buffer, optimizer, scaler, device)
    team.require_alike([data.sha256, base.sha256, repr(config), str(progress.step)])
    control.emit(Resumed(step=progress.step) if checkpoint else Attached())
    phases.enter("attach")

    log_every = 1 if device.type == "cpu" else max(1, min(10, config.max_steps // 20))
    recent_loss, recent_steps = torch.zeros((), device=device), 0
    skipped = torch.tensor(progress.skipped_steps, device=device)
    status, reason = Status.COMPLETE, ""
    while progress.step < config.max_steps:
        # 1. the rows of this step, and how many tokens of them count
        cut = [(share, indices) for share in team.parts
               for indices in rows_of_step(rows, config, device, progress.step, share, len(team.parts))]
        micro_batches = [
            collate(rows, indices, pad_id=base.tokenizer.pad_token_id, completion_only=config.completion_only_loss)
            for _, indices in cut]
        counted = max(1, sum(len(micro_batch.targets_N) for micro_batch in micro_batches))
        # 2. gradients, normalised by the tokens of the whole step
        base.model.train()
        step_loss = torch.zeros((), device=device)
        for place, ((share, _), micro_batch) in enumerate(zip(cut, micro_batches, strict=True)):
            if not team.computes(share):
                continue
            team.seed_masks(config.seed, progress.step, place)
            loss = loss_of(base, micro_batch) / counted
            scaler.scale(loss).backward()
            step_loss += loss.detach()
        assert buffer.whole.grad is not None
        team.add_up(buffer.whole.grad, step_loss)
        # 3. the optimizer step
        scaler.unscale_(optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_([buffer.whole], config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, progress.step)
        scaler.step(optimizer)
        scaler.update()
        buffer.after_step()
        # 4. what was done
        progress.step += 1
        progress.tokens += sum(micro_batch.tokens for micro_batch in micro_batches)
        progress.padded_tokens += sum(micro_batch.padded_tokens for micro_batch in micro_batches)
        if scaler.is_enabled():  # it skips a step whose gradients are not finite; counted there, to wait for nothing
            skipped += ~torch.isfinite(grad_norm)
        recent_loss, recent_steps = recent_loss + step_loss, recent_steps + 1
        if progress.step % log_every == 0 or progress.step == config.max_steps:
            mean_loss = (recent_loss / recent_steps).item()
            recent_loss, recent_steps = torch.zeros((), device=device), 0
            if not math.isfinite(mean_loss):
                raise NotFinite("train/loss", mean_loss, progress.step)
            control.emit(Logged(step=progress.step, values={
                "train/loss": mean_loss, "train/learning_rate": optimizer.param_groups[0]["lr"],
                "train/grad_norm": _finite(grad_norm.item()), "tokens": progress.tokens}))
        phases.enter("train")
        # 5. evaluation, on schedule, at the end, and when told to end
        asked = team.agreed(control.poll())
        at_rung = progress.step in control.rung_steps
        if progress.step % config.eval_steps == 0 or progress.step == config.max_steps or asked == "stop" or at_rung:
            best_adapter = _evaluate_step(base, data.validation, config, progress, parameters, best_adapter, control)
            phases.enter("eval")
        # 6. ends before the end
        if asked == "stop" and progress.step < config.max_steps:
            status, reason = Status.PRUNED, f"stopped at step {progress.step} of {config.max_steps}"
        elif at_rung and progress.step < config.max_steps and (why := control.judge(*progress.evaluations.last)):
            status, reason = Status.PRUNED, why
        elif _out_of_patience(config, progress) and progress.step < config.max_steps:
            reason = (f"stopped early at step {progress.step}: no better {control.metric.name} in "
                      f"{config.early_stopping_patience} evaluations")
        elif asked == "preempt" and progress.step < config.max_steps:
            status, reason = Status.PREEMPTED, f"checkpointed at step {progress.step} of {config.max_steps}"
        if status is Status.PREEMPTED or control.checkpoint_is_due(progress.step, config.max_steps):
            progress.skipped_steps = int(skipped)
            if team.leads:
                save_checkpoint(control.directory, config, _checkpoint_of(
                    progress, data.sha256, parameters, best_adapter, buffer, optimizer, scaler, device))
            control.emit(Checkpointed(step=progress.step))
            phases.enter("save")
        if reason:
            break

    hashes = {**data.hashes, "base": base.sha256}
    if status is not Status.PREEMPTED:
        buffer.release()
        if team.leads:
            hashes |= {"adapter": _save_adapter(adapted, best_adapter, control.directory),
                       "adapter_files": adapter_digest(control.directory / "adapter")}
        phases.enter("save")
    if status is Status.COMPLETE and team.leads:
        control.when_trained()
        phases.enter("eval")
    return TrialResult(
        id=trial_id, status=status, **progress.evaluations.facts, reason=reason, steps=progress.step,
        seconds=phases.total, peak_device_bytes=peak_bytes(device), tokens=progress.tokens,
        seconds_by_phase=phases.seconds, versions=versions(), hashes=hashes,
        notes={"rows": data.account.as_dict(),
               "padding_share": round(1 - progress.tokens / max(1, progress.padded_tokens), 4),
               "skipped_steps": int(skipped), "attach_cpu_seconds": round(phases.cpu_seconds["attach"], 3),
               "micro_batch": config.batch_size, "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
               "layers": str(path), "hidden_package": hide_unfit_torchao()})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a trial's numbers."""
    packages = (torch, transformers, peft, accelerate, np, *filter(None, [sys.modules.get("bitsandbytes")]))
    return {"python": platform.python_version(), **{p.__name__: str(p.__version__) for p in packages}}


def _optimizer(config: FinetuneConfig, buffer: AdapterBuffer,
               parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optim == "adamw_torch":
        # fused, a step that the scaler skips is skipped on the GPU, and the host need not wait to know
        return torch.optim.AdamW([buffer.whole], fused=True, **options)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kinds: dict[str, type[torch.optim.Optimizer]] = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}
    # one by one: small parameters keep moments of 32 bits, and scales must not reach from one into the next
    return kinds[config.optim](parameters, **options)


def _evaluate_step(base: BaseModel, rows: EncodedRows, config: FinetuneConfig, progress: _Progress,
                   parameters: Mapping[str, torch.nn.Parameter], best_adapter: dict[str, torch.Tensor],
                   control: Control) -> dict[str, torch.Tensor]:
    """Evaluate, record it in `progress`, and return the adapter that is best now."""
    scores = control.team.from_first(lambda: measure(base, rows, config))
    if not math.isfinite(scores[LOSS]):
        raise NotFinite(LOSS, scores[LOSS], progress.step)
    progress.evaluations = progress.evaluations.after(progress.step, scores)
    control.emit(Logged(step=progress.step, values={**scores, "tokens": progress.tokens}))
    if progress.evaluations.since_best:
        return best_adapter
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def _out_of_patience(config: FinetuneConfig, progress: _Progress) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and progress.evaluations.since_best >= patience


def _checkpoint_of(progress: _Progress, rows_sha256: str, parameters: Mapping[str, torch.nn.Parameter],
                   best_adapter: Mapping[str, torch.Tensor], buffer: AdapterBuffer, optimizer: torch.optim.Optimizer,
                   scaler: torch.amp.GradScaler, device: torch.device) -> Checkpoint:
    return Checkpoint(step=progress.step,
        state={"tokens": progress.tokens, "padded_tokens": progress.padded_tokens,
               "skipped_steps": progress.skipped_steps, "rows": rows_sha256,
               "evaluations": progress.evaluations.as_state()},
        tensors={"adapter": {name: p.detach().cpu() for name, p in parameters.items()},
                 "best_adapter": dict(best_adapter), "optimizer": buffer.state_of_parts(optimizer),
                 "scaler": scaler.state_dict(), "cpu_random": torch.get_rng_state(),
                 "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None})


def _restore(checkpoint: Checkpoint, metric: Metric, parameters: Mapping[str, torch.nn.Parameter],
             buffer: AdapterBuffer, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
             device: torch.device) -> tuple[_Progress, dict[str, torch.Tensor]]:
    tensors = checkpoint.tensors
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors["adapter"][name])
    buffer.refresh()
    buffer.load_state_of_parts(optimizer, tensors["optimizer"])
    scaler.load_state_dict(tensors["scaler"])
    torch.set_rng_state(tensors["cpu_random"])
    if tensors["cuda_random"] is not None:
        torch.cuda.set_rng_state(tensors["cuda_random"], device)
    state = {name: value for name, value in checkpoint.state.items() if name != "rows"}
    progress = replace(_Progress(step=checkpoint.step), **{
        **state, "evaluations": Evaluations.of_state(metric, state["evaluations"])})
    return progress, tensors["best_adapter"]


def _save_adapter(adapted: Any, best_adapter: Mapping[str, torch.Tensor], directory: pathlib.Path) -> str:
    """Write the best adapter in peft's format and return the SHA-256 of its values."""
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in best_adapter:
                parameter.copy_(best_adapter[name])
    # save_embedding_layers would ask the hub for the base's vocabulary
    adapted.save_pretrained(str(directory / "adapter"), save_embedding_layers=False)
    digest = hashlib.sha256()
    for name in sorted(best_adapter):
        digest.update(name.encode())
        digest.update(best_adapter[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _autocast(base: BaseModel) -> torch.autocast:
    return torch.autocast(base.device.type, dtype=base.compute_dtype, enabled=base.compute_dtype is not torch.float32)


def eval_batches(rows: EncodedRows, config: FinetuneConfig) -> list[np.ndarray]:
    """Cut the rows, sorted by length, into batches of as many tokens as a training batch has at most."""
    limit = max(config.batch_size * config.max_length, EVAL_TOKENS)
    batches: list[np.ndarray] = []
    order = np.argsort(-rows.lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, limit // int(rows.lengths[order[start]]))
        batches.append(order[start:start + count])
        start += count
    return batches


def _on_device(batch: MicroBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, positions and targets of a micro-batch as tensors."""
    return (_to_device(batch.tokens_BT, device), _to_device(batch.positions_N, device),
            _to_device(batch.targets_N, device))


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device, without waiting for it where it is a GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _empty_caches(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
