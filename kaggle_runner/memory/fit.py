"""Whether a trial fits the memory of its device, and what it must compute twice to fit.

Computing activations again in the backward pass saves memory and costs time, so it is done only where a trial would not
fit without, and only in as many layers as it takes, unless the sweep says what it wants.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.machine.budget import DEVICE_MARGIN_BYTES, budget_for
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.gpu import GIB, Gpu, in_gib
from kaggle_runner.memory.predict import CPU, GPU, Prediction, Target, predict, predict_within
from kaggle_runner.training.models.shapes import read_model_config, require_bfloat16

LIBRARIES_BYTES = int(0.55 * GIB)
"""RAM of a worker before it trains: Python, torch, transformers, peft and bitsandbytes.

Source: measured, resident bytes after importing the worker: 0.50 GiB, Linux, Python 3.11, torch 2.13 for CPUs.
"""
GPU_BUILD_BYTES = int(0.4 * GIB)
"""What a torch with CUDA in it takes besides, also where there is no GPU.

Source: measured like that: 0.87 GiB, Python 3.12, torch 2.10; 0.85 GiB, Python 3.13, torch 2.11; 0.25 GiB of it files.
"""


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """The memory that a trial may take, and where."""

    budget_bytes: int
    target: Target
    device: str
    """Name of the device, in words."""
    reason: str
    """Why there are so many bytes and no more."""
    cache_directory: Path | None
    """Folder in which predictions are kept; none keeps them nowhere."""
    has_bfloat16: bool = True
    """Whether families that overflow in float16 can be trained here."""

    def as_dict(self) -> dict[str, Any]:
        """Return the limit as plain JSON values."""
        return dataclasses.asdict(self) | {"cache_directory": self.cache_directory and str(self.cache_directory)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MemoryLimit":
        """Return the limit of `as_dict`."""
        cache = values["cache_directory"]
        return cls(**{**values, "target": Target(**values["target"]), "cache_directory": cache and Path(cache)})


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a trial should be run so that it fits, and how much memory it then takes."""

    config: FinetuneConfig
    """The trial's config with `gradient_checkpointing` decided."""
    prediction: Prediction
    target: Target
    fits: bool
    reason: str
    """Why activations are computed twice or not; where it does not fit, what it needs and what would help."""
    without_bytes: int | None = None
    """The peak without computing activations again; none if that was not looked at."""

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters that the fit decided in place of the trial's own."""
        return {"gradient_checkpointing": self.config.gradient_checkpointing}

    def as_notes(self) -> dict[str, Any]:
        """Return what a trial's record keeps of it, in the terms in which its real peak is measured.

        On a GPU that is what torch has allocated, on a CPU all of the worker's memory, libraries included.
        """
        libraries = {} if self.target.cuda else {"libraries": libraries_bytes()}
        return {"predicted_peak_bytes": self.prediction.peak_bytes + sum(libraries.values()),
                "predicted_parts": dict(self.prediction.parts) | libraries, "predicted_phase": self.prediction.phase,
                "gradient_checkpointing": self.config.gradient_checkpointing, "keep": self.prediction.keep}


@functools.cache
def libraries_bytes() -> int:
    """Return the RAM of a worker before it trains, by the torch that is installed; imports nothing."""
    torch = importlib.util.find_spec("torch")
    for_gpus = torch and torch.origin and (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists()
    return LIBRARIES_BYTES + (GPU_BUILD_BYTES if for_gpus else 0)


def memory_limit_of_gpu(gpu: Gpu, cache_directory: Path | None = None) -> MemoryLimit:
    """Return the limit on a GPU of its own."""
    reason = (f"{in_gib(gpu.usable_bytes)} usable, less {in_gib(DEVICE_MARGIN_BYTES)} for the CUDA context and "
              f"fragmentation")
    return MemoryLimit(budget_bytes=gpu.usable_bytes - DEVICE_MARGIN_BYTES, target=GPU, device=gpu.name, reason=reason,
                cache_directory=cache_directory, has_bfloat16=gpu.supports_bfloat16)


def memory_limit_of(environment: Environment) -> MemoryLimit:
    """Return the limit that one trial has on this machine: on its smallest GPU, or in its RAM.

    Raises:
        BudgetError: less memory is free than has to be kept free.
    """
    budget, cache = budget_for(environment), environment.cache_directory
    if budget.device_bytes is not None:
        return MemoryLimit(budget_bytes=budget.device_bytes, target=GPU, device=environment.gpus[0].name,
                    reason=budget.reasons["device_bytes"], cache_directory=cache,
                    has_bfloat16=all(gpu.supports_bfloat16 for gpu in environment.gpus))
    reason = f"{budget.reasons['host_bytes']}, less {in_gib(libraries_bytes())} for the worker's libraries"
    return MemoryLimit(budget_bytes=budget.host_bytes - libraries_bytes(), target=CPU, device="the CPU", reason=reason,
                cache_directory=cache)


def fit_trial(params: Mapping[str, Any], limit: MemoryLimit, model_config: Mapping[str, Any] | None = None) -> Fit:
    """Decide how a trial is run so that it fits: as it is, or computing again what there is no room to keep.

    A trial whose parameters name `gradient_checkpointing` gets what they say. `model_config` as for `predict`.

    Raises:
        ConfigError: a parameter that cannot work.
        ModelError: the model is not known, cannot be built or traced from its config, or overflows on this device.
        MissingPackages: it is not in the cache, and what a trace needs is not installed.
    """
    config = FinetuneConfig.from_params(params)
    stated = "gradient_checkpointing" in params
    model_config = read_model_config(config.model) if model_config is None else model_config
    require_bfloat16(model_config["model_type"], limit.has_bfloat16)
    prediction = predict(config, model_config, target=limit.target, cache_directory=limit.cache_directory)
    without_bytes = None if config.gradient_checkpointing else prediction.peak_bytes
    reason = "as the sweep says" if stated else "it fits without computing activations again"
    if prediction.peak_bytes > limit.budget_bytes and not stated:
        reason = f"without computing activations again it would take {in_gib(prediction.peak_bytes)}"
        config = dataclasses.replace(config, gradient_checkpointing=True)
        prediction = predict_within(config, limit.budget_bytes, model_config, target=limit.target,
                                    cache_directory=limit.cache_directory)
        reason += f"; its layers keep: {prediction.keep}" if prediction.keep else ""
    fits = prediction.peak_bytes <= limit.budget_bytes
    return Fit(config=config, prediction=prediction, target=limit.target, fits=fits, without_bytes=without_bytes,
               reason=reason if fits else _advice(config, prediction, limit))


def _advice(config: FinetuneConfig, prediction: Prediction, limit: MemoryLimit) -> str:
    """Say what a trial needs, what there is, and which settings would help."""
    standing = sum(prediction.parts.get(name, 0) for name in ("base", "adapter", "optimizer", "gradients"))
    ways = []
    if not config.gradient_checkpointing:
        ways.append("set gradient_checkpointing to true")
    if standing > limit.budget_bytes:
        ways = ["set load_in_4bit to true"] if not config.load_in_4bit else []
        ways.append("choose a smaller model" if config.lora_r <= 16 else "choose a smaller model or lora_r")
    else:
        if config.batch_size > 1:
            ways.append(f"lower batch_size from {config.batch_size} to {config.batch_size // 2}")
        if config.max_length >= 128:
            ways.append(f"lower max_length from {config.max_length} to {config.max_length // 2}")
    return (f"the trial needs {in_gib(prediction.peak_bytes)} but the budget is {in_gib(limit.budget_bytes)} on "
            f"{limit.device}; {' or '.join(ways or ['choose a smaller model'])}")
