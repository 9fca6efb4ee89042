"""Predict the peak bytes of a trial from its config and the model's `config.json`, without a GPU or weights.

A prediction is kept on disk by everything that decides it, so a sweep costs a few traces and not hundreds. Needs torch
only when there is something new to trace.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kaggle_runner
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import MissingPackages
from kaggle_runner.files import read_checked, write_checked
from kaggle_runner.training.models.shapes import read_model_config

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
"""What a trace imports, and whose versions decide its result."""
DECIDING_MODULES = ("memory/predict", "memory/trace", "memory/fake_kernels", "memory/live_bytes", "memory/timeline",
                    "training/models/bare_model", "training/loss", "training/finetune", "training/models/base_model",
                    "training/models/attention", "training/libraries", "training/data/batches",
                    "training/adapter_buffer", "training/layer/attention", "training/layer/decoder",
                    "training/layer/elementwise", "training/layer/install", "training/layer/keep",
                    "training/layer/projection", "training/layer/structure")
"""Our own modules whose text decides a prediction."""
CUBLAS_BYTES = 8_519_680 + 2**20
"""Workspaces of cuBLAS and cuBLASLt, in torch's own pool; 32 MiB on a Hopper GPU, which has it to spare.

Source: PyTorch, ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize and _getWorkspaceSize.
"""
_ONE_AT_A_TIME = threading.Lock()
"""A trace silences warnings, which is the whole process's affair."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a trial computes with."""

    cuda: bool
    half: bool
    """Whether matrix products are in float16; otherwise they are in float32."""


GPU = Target(cuda=True, half=True)
CPU = Target(cuda=False, half=False)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most bytes of tensors that a trial holds at once."""

    peak_bytes: int
    phase: str
    """The phase that has the peak: `training`, `optimizer step` or `evaluation`."""
    parts: Mapping[str, int]
    """What the peak is made of: base, adapter, optimizer, gradients, activations, dequantised weights, loss,
    kernels."""
    phases: Mapping[str, int]
    """The peak of every phase."""
    checkpointing: bool
    """Whether activations are computed again in the backward pass, in some layers at least."""
    keep: str
    """What each layer keeps for the backward pass, first layer first; empty where transformers computes the layers."""
    layers_traced: int
    """How many of the model's layers were traced; the others are copies, checked event by event."""
    seconds: float
    """Time of the trace, imports not counted; 0 from the cache."""


def predict(config: FinetuneConfig, model_config: Mapping[str, Any] | None = None, *, target: Target = GPU,
            cache_directory: Path | None = None) -> Prediction:
    """Predict the peak of a trial with full-length rows, as the trainer would run it with this config.

    Counts what torch allocates on the device; leaves out the CUDA context, fragmentation and, on a CPU, the libraries:
    the budget does that. `model_config` is the model's `config.json`, or the part of it that is its shape; none looks
    it up by the model's name.

    Raises:
        ModelError: the model is not known, or cannot be built or traced from its config.
        ConfigError: `target_modules` names nothing in this model.
        MissingPackages: it is not in the cache, and what a trace needs is not installed.
    """
    return _predicted(config, model_config, target, cache_directory, None)


def predict_within(config: FinetuneConfig, budget_bytes: int, model_config: Mapping[str, Any] | None = None, *,
                   target: Target = GPU, cache_directory: Path | None = None) -> Prediction:
    """Predict the peak of a trial whose layers keep as much for the backward pass as fits a budget.

    Where not even the least fits, that is what is predicted. The rest is as for `predict`, and so are the errors.
    """
    return _predicted(config, model_config, target, cache_directory, budget_bytes)


def _predicted(config: FinetuneConfig, model_config: Mapping[str, Any] | None, target: Target,
               cache_directory: Path | None, budget_bytes: int | None) -> Prediction:
    if model_config is None:
        model_config = read_model_config(config.model)
    key = _key(config, model_config, target, budget_bytes)
    path = None if cache_directory is None else cache_directory / "memory" / f"{key}.json"
    if path is not None and (kept := _read(path)) is not None:
        return kept
    packs = config.load_in_4bit or (model_config.get("quantization_config") or {}).get("load_in_4bit")
    wanted = [name for name in PACKAGES if name != "bitsandbytes" or packs]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackages(missing, "train")
    from kaggle_runner.memory.trace import trace, trace_within  # imports torch: seconds that a cached one does not take

    kernels_bytes = CUBLAS_BYTES if target.cuda else 0
    with _ONE_AT_A_TIME:
        started = time.perf_counter()
        traced = (trace(config, model_config, cuda=target.cuda, half=target.half) if budget_bytes is None else
                  trace_within(config, model_config, cuda=target.cuda, half=target.half,
                               budget_bytes=budget_bytes - kernels_bytes))
    phase, peak = max(traced.peaks.items(), key=lambda item: item[1].total_bytes)
    prediction = Prediction(
        peak_bytes=peak.total_bytes + kernels_bytes, phase=phase,
        parts={name: size for name, size in {**peak.parts, "kernels": kernels_bytes}.items() if size},
        phases={name: peak.total_bytes + kernels_bytes for name, peak in traced.peaks.items()},
        checkpointing=config.gradient_checkpointing or budget_bytes is not None, keep=traced.keep,
        layers_traced=traced.layers_traced, seconds=round(time.perf_counter() - started, 2))
    if path is not None:
        _write(path, prediction)
    return prediction


def shape_of_trial(config: FinetuneConfig) -> dict[str, Any]:
    """Return what of a config decides its memory: equal shapes have equal predictions."""
    return {
        "batch_size": config.batch_size, "max_length": config.max_length,
        "eval_max_length": config.for_scoring().max_length, "lora_r": config.lora_r,
        "dropout": config.lora_dropout > 0, "target_modules": config.target_modules, "optim": config.optim,
        "load_in_4bit": config.load_in_4bit, "checkpointing": config.gradient_checkpointing,
        "evaluates_midway": config.eval_steps < config.max_steps,
    }


def _key(config: FinetuneConfig, model_config: Mapping[str, Any], target: Target, budget_bytes: int | None) -> str:
    folder = Path(kaggle_runner.__file__).parent
    own = [hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in DECIDING_MODULES]
    parts = [shape_of_trial(config), dict(model_config), asdict(target), [_version(name) for name in PACKAGES], own,
             budget_bytes]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _read(path: Path) -> Prediction | None:
    """Return a kept prediction; none where there is none that can be used."""
    try:
        values = read_checked(path)
        return None if values is None else dataclasses.replace(Prediction(**values), seconds=0.0)
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, prediction: Prediction) -> None:
    """Keep a prediction; one that cannot be kept is made again next time."""
    with contextlib.suppress(OSError):
        write_checked(path, asdict(prediction))
