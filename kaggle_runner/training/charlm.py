"""Train a character-level language model: model, optimizers, loop, evaluation, result.

The corpus lies on the device as bytes and is indexed there. The evaluation scores the same characters for every
configuration, in nats and without label smoothing. The same trial gives the same losses to the last bit on a CPU,
wherever it was interrupted. Shapes: B windows, T positions.
"""

import hashlib
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from kaggle_runner.config import CharLMConfig
from kaggle_runner.events import Attached, Checkpointed, Logged, Resumed
from kaggle_runner.metrics import BITS_PER_BYTE, BITS_PER_CHARACTER, LOSS, TOKEN_ACCURACY, Evaluations, Metric
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.study.weights import WEIGHTS
from kaggle_runner.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from kaggle_runner.training.control import Control, NotFinite
from kaggle_runner.training.data.characters import CharCorpus
from kaggle_runner.training.data.windows import window_starts
from kaggle_runner.training.loss import likeliest
from kaggle_runner.training.models.char_model import CharModel, bits_per_character, summed_cross_entropy
from kaggle_runner.training.muon import Muon
from kaggle_runner.training.optimizers import adamw, take_step
from kaggle_runner.training.phases import Phases, peak_bytes, reset_peak_bytes
from kaggle_runner.training.schedule import learning_rate_at

STRETCH = 1024
"""Number of validation characters that are scored in one piece, or in windows of `max_length` if those are shorter."""
EVAL_TOKENS = 16_384
"""Characters in an evaluation batch, whatever the training batch is."""
LOGGED_ROWS = 50
"""Rows of the training loss that a whole trial logs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceText:
    """The parts of a corpus that a trial reads, on its device."""

    train: torch.Tensor
    """uint8."""
    validation: torch.Tensor
    """uint8."""
    sizes_bytes: torch.Tensor
    """int64, for each symbol the bytes of its character in UTF-8."""
    symbols: int
    sha256: str


@dataclass
class _Progress:
    """What a checkpoint must bring back besides tensors."""

    step: int = 0
    skipped_steps: int = 0
    train_cpu_s: float = 0.0
    evaluations: Evaluations = field(default_factory=Evaluations)


class _Recent:
    """Sums over the steps since the last logged row, kept on the device: reading them there would stop it."""

    def __init__(self, device: torch.device, sums: torch.Tensor | None = None) -> None:
        self.sums = torch.zeros(4, device=device) if sums is None else sums.to(device)

    def add(self, loss: torch.Tensor, grad_norm: torch.Tensor, most: float) -> None:
        """Count a step: its loss, its norm, whether it was clipped."""
        self.sums += torch.stack([loss, grad_norm, (grad_norm > most).float(), torch.ones_like(loss)])

    def means(self) -> tuple[float, float, float]:
        """Return mean loss, mean norm and share of clipped steps, and start anew."""
        loss, norm, clipped, steps = self.sums.tolist()
        self.sums.zero_()
        return loss / steps, norm / steps, clipped / steps


def to_device(corpus: CharCorpus, device: torch.device) -> DeviceText:
    """Copy training and validation text to a device; on a CPU nothing is copied."""
    sizes_bytes = torch.tensor([len(symbol.encode()) for symbol in corpus.symbols], device=device)
    return DeviceText(train=torch.from_numpy(corpus.train).to(device), symbols=len(corpus.symbols),
                      validation=torch.from_numpy(corpus.validation).to(device), sha256=corpus.sha256,
                      sizes_bytes=sizes_bytes)


def train_character_model(text: DeviceText, config: CharLMConfig, trial_id: str, control: Control) -> TrialResult:
    """Train the model of one trial; continues from the newest checkpoint in the trial's directory if there is one.

    Raises:
        NotFinite: the training or evaluation loss is not a number any more.
        ConfigError: the checkpoint is of another config.
        torch.OutOfMemoryError: the trial does not fit.
    """
    # 1. model, optimizers, and what an interrupted session left
    phases, device = Phases(), text.train.device
    torch.manual_seed(config.seed)  # before the model: its weights are random
    reset_peak_bytes(device)
    model = CharModel(config, text.symbols).to(device)
    optimizers = _optimizers(config, model)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    progress = _Progress(evaluations=Evaluations(metric=control.metric))
    checkpoint = load_checkpoint(control.directory, config, control.emit, text.sha256)
    if checkpoint is not None:
        progress = _restore(checkpoint, control.metric, model, optimizers, scaler, device)
    control.emit(Resumed(step=progress.step) if checkpoint else Attached())
    phases.enter("attach")

    log_every = max(1, config.max_steps // LOGGED_ROWS)
    recent = _Recent(device) if checkpoint is None else _Recent(device, checkpoint.tensors["recent"])
    skipped = torch.tensor(progress.skipped_steps, device=device)
    parameters = list(model.parameters())
    status, reason = Status.COMPLETE, ""
    while progress.step < config.max_steps:
        started = time.process_time()
        # 2. gradients over the windows of this step
        model.train()
        step_loss = torch.zeros((), device=device)
        for windows_BT1 in _micro_batches(text, config, progress.step):
            with _autocast(device):
                logits_BTV = model(windows_BT1[:, :-1])
            loss = summed_cross_entropy(logits_BTV, windows_BT1[:, 1:], config.label_smoothing_factor)
            loss = loss / config.step_tokens
            scaler.scale(loss).backward()
            step_loss += loss.detach()
        # 3. the optimizer step
        rate = learning_rate_at(config, progress.step)
        grad_norm = take_step(optimizers, parameters, learning_rate=rate, max_grad_norm=config.max_grad_norm,
                              scaler=scaler)
        # 4. what was done
        progress.step += 1
        progress.train_cpu_s += time.process_time() - started
        if scaler.is_enabled():  # counted on the device, to wait for nothing
            skipped += ~torch.isfinite(grad_norm)
        recent.add(step_loss, grad_norm, config.max_grad_norm)
        if progress.step % log_every == 0 or progress.step == config.max_steps:
            mean_loss, mean_norm, clipped_share = recent.means()
            if not math.isfinite(mean_loss):
                raise NotFinite("train/loss", mean_loss, progress.step)
            control.emit(Logged(step=progress.step, values={
                "train/loss": mean_loss, "train/learning_rate": rate,
                "train/grad_norm": mean_norm if math.isfinite(mean_norm) else None,
                "train/clipped_share": clipped_share, "tokens": progress.step * config.step_tokens}))
        phases.enter("train")
        # 5. evaluation, on schedule, at the end, and when told to end
        asked = control.poll()
        at_rung = progress.step in control.rung_steps
        if progress.step % config.eval_steps == 0 or progress.step == config.max_steps or asked == "stop" or at_rung:
            _evaluate_step(model, text, config, progress, control)
            phases.enter("eval")
        # 6. ends before the end
        if asked == "stop" and progress.step < config.max_steps:
            status, reason = Status.PRUNED, f"stopped at step {progress.step} of {config.max_steps}"
        elif at_rung and progress.step < config.max_steps and (why := control.judge(*progress.evaluations.last)):
            status, reason = Status.PRUNED, why
        elif asked == "preempt" and progress.step < config.max_steps:
            status, reason = Status.PREEMPTED, f"checkpointed at step {progress.step} of {config.max_steps}"
        if status is Status.PREEMPTED or control.checkpoint_is_due(progress.step, config.max_steps):
            progress.skipped_steps = int(skipped)
            save_checkpoint(control.directory, config,
                            _checkpoint_of(progress, text.sha256, recent, model, optimizers, scaler, device))
            control.emit(Checkpointed(step=progress.step))
            phases.enter("save")
        if reason:
            break

    if status is Status.COMPLETE or (config.save_model and status is not Status.PREEMPTED):
        save_weights(control.directory / WEIGHTS, model.state_dict())
        phases.enter("save")
    return TrialResult(
        id=trial_id, status=status, **progress.evaluations.facts, reason=reason, steps=progress.step,
        seconds=phases.total, peak_device_bytes=peak_bytes(device),
        tokens=progress.step * config.step_tokens, seconds_by_phase=phases.seconds, versions=versions(),
        hashes={"text": text.sha256, "model": _sha256(model)},
        notes={"bits_per_character": progress.evaluations.best_scores.get(BITS_PER_CHARACTER),
               "parameters": model.parameter_count, "symbols": text.symbols, "skipped_steps": int(skipped),
               "train_cpu_seconds": round(progress.train_cpu_s, 3), "micro_batch": config.batch_size,
               "compute_dtype": "float16" if device.type == "cuda" else "float32"})


def evaluate(model: CharModel, text: DeviceText, config: CharLMConfig) -> float:
    """Measure the mean loss in nats over the fixed validation characters."""
    return measure(model, text, config)[LOSS]


@torch.no_grad()
def measure(model: CharModel, text: DeviceText, config: CharLMConfig) -> dict[str, float]:
    """Measure loss, accuracy and bits over the fixed validation characters, each scored once and without smoothing.

    They lie in stretches spread evenly over the validation part. A model whose windows are shorter reads a stretch in
    several windows, so shorter context is measured and not other text.
    """
    model.eval()
    total, count, seen = 0.0, 0, torch.zeros(2, dtype=torch.int64, device=text.validation.device)
    for windows_BT1 in eval_windows(text.validation, config):
        targets_BT = windows_BT1[:, 1:]
        with _autocast(text.validation.device):
            logits_BTV = model(windows_BT1[:, :-1])
        total += summed_cross_entropy(logits_BTV, targets_BT).item()
        hits_N = likeliest(logits_BTV.flatten(0, 1), targets_BT.flatten())
        seen += torch.stack([hits_N.sum(), text.sizes_bytes[targets_BT].sum()])
        count += targets_BT.numel()
    hits, size_bytes = seen.tolist()
    return {LOSS: total / count, TOKEN_ACCURACY: hits / count, BITS_PER_BYTE: total / math.log(2) / size_bytes,
            BITS_PER_CHARACTER: bits_per_character(total / count)}


def eval_windows(validation: torch.Tensor, config: CharLMConfig) -> Iterator[torch.Tensor]:
    """Yield the windows of one evaluation in batches, as int64 with the character after each."""
    scored = min(config.max_eval_tokens, len(validation) - 1)
    stretch = min(STRETCH, scored)
    starts_B = torch.linspace(0, len(validation) - 1 - stretch, scored // stretch, dtype=torch.float64).long()
    starts_B = starts_B.to(validation.device)
    whole = stretch // config.max_length * config.max_length
    for offsets, window in ((range(0, whole, config.max_length), config.max_length), ((whole,), stretch - whole)):
        if window == 0 or not len(offsets):
            continue
        windows_B = (starts_B[:, None] + torch.tensor(list(offsets), device=validation.device)).flatten()
        positions_T1 = torch.arange(window + 1, device=validation.device)
        for part_B in windows_B.split(max(1, EVAL_TOKENS // window)):
            yield validation[part_B[:, None] + positions_T1].long()


def versions() -> dict[str, str]:
    """Return the versions of what decides a trial's numbers."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def _micro_batches(text: DeviceText, config: CharLMConfig, step: int) -> Iterator[torch.Tensor]:
    """Yield the windows of a step as int64, the same ones however the step is cut."""
    length = len(text.train)
    starts_B = window_starts(step, length=length, window=config.max_length, batch=config.effective_batch_size,
                             seed=config.seed)
    positions_BT1 = (starts_B[:, None] + torch.arange(config.max_length + 1)) % length
    if text.train.is_cuda:  # without a wait
        positions_BT1 = positions_BT1.pin_memory().to(text.train.device, non_blocking=True)
    for part_BT1 in positions_BT1.split(config.batch_size):
        yield text.train[part_BT1].long()


def _optimizers(config: CharLMConfig, model: CharModel) -> list[torch.optim.Optimizer]:
    """Give the matrices of the blocks to Muon if it is asked for, and all else to AdamW; vectors are not decayed."""
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.dim() == 2]
    with_muon = config.optim == "muon"
    taken = {id(parameter) for parameter in matrices} if with_muon else set()
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    rest_adamw = adamw(rest, learning_rate=config.learning_rate, beta2=config.adam_beta2,
                       weight_decay=config.weight_decay)
    muon = [Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay)] if with_muon else []
    return [*muon, rest_adamw]


def _evaluate_step(model: CharModel, text: DeviceText, config: CharLMConfig, progress: _Progress,
                   control: Control) -> None:
    scores = measure(model, text, config)
    if not math.isfinite(scores[LOSS]):
        raise NotFinite(LOSS, scores[LOSS], progress.step)
    progress.evaluations = progress.evaluations.after(progress.step, scores)
    control.emit(Logged(step=progress.step, values={**scores, "tokens": progress.step * config.step_tokens}))


def _checkpoint_of(progress: _Progress, text: str, recent: _Recent, model: CharModel,
                   optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler,
                   device: torch.device) -> Checkpoint:
    return Checkpoint(
        step=progress.step,
        state={"skipped_steps": progress.skipped_steps, "train_cpu_s": progress.train_cpu_s,
               "evaluations": progress.evaluations.as_state(), "rows": text},
        tensors={"recent": recent.sums.cpu(), "model": model.state_dict(),
                 "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                 "scaler": scaler.state_dict(), "cpu_random": torch.get_rng_state(),
                 "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None})


def _restore(checkpoint: Checkpoint, metric: Metric, model: CharModel, optimizers: list[torch.optim.Optimizer],
             scaler: torch.amp.GradScaler, device: torch.device) -> _Progress:
    tensors = checkpoint.tensors
    model.load_state_dict(tensors["model"])
    for optimizer, state in zip(optimizers, tensors["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    scaler.load_state_dict(tensors["scaler"])
    torch.set_rng_state(tensors["cpu_random"])
    if tensors["cuda_random"] is not None:
        torch.cuda.set_rng_state(tensors["cuda_random"], device)
    state = checkpoint.state
    return _Progress(step=checkpoint.step, skipped_steps=state["skipped_steps"], train_cpu_s=state["train_cpu_s"],
                     evaluations=Evaluations.of_state(metric, state["evaluations"]))


def _sha256(model: CharModel) -> str:
    """Hash the weights, so that two runs can be compared to the last bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda")
