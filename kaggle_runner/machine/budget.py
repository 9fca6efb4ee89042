"""The bytes a trial may use, and the micro-batch that goes with them, each with its reason.

Decided from the environment alone, before any model is known; whether a trial fits is for the trainer's forecast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kaggle_runner.errors import BudgetError, ConfigError
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.gpu import GIB, in_gib

DEVICE_MARGIN_BYTES = GIB // 2
"""Kept free on a GPU for the CUDA context and for memory that fragmentation wastes.

Source: about 0.5 GiB beside the tensors in published T4 fine-tunes; not measured by us on a T4.
"""
HOST_MARGIN_BYTES = GIB
"""Kept free in RAM for the supervisor and the system.

Source: measured on Linux, Python 3.11: a process that has imported torch, optuna and wandb, as the supervisor does,
holds 305 MiB; the rest is room for the system.
"""
MICRO_BATCH = 2
"""Rows in one forward pass.

Source: with it and 512-token rows a 7B 4-bit base is forecast to peak at 7.6 to 10.9 GiB, by what is kept in float32
(summed over fake tensors, not measured by us on a T4).
"""
EFFECTIVE_BATCHES = (8, 16)
"""Rows of an optimizer step, offered where nobody asks for another: FinetuneConfig's default, and twice that."""


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """What one trial may use."""

    device_bytes: int | None
    """Bytes of the trial's GPU; none where it trains on the CPU."""
    host_bytes: int
    """Bytes of RAM for the trial's worker."""
    micro_batch: int
    """Rows in one forward pass."""
    accumulation: tuple[int, ...]
    """Choices of forward passes for one optimizer step."""
    reasons: Mapping[str, str]
    """Why each of the figures is what it is, by the name of its field."""

    def __post_init__(self) -> None:
        for name in ("device_bytes", "host_bytes", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BudgetError(f"a budget with {name} {value} is none; it must be at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the figures and reasons as plain JSON values."""
        return asdict(self) | {"accumulation": list(self.accumulation), "reasons": dict(self.reasons)}

    def rows(self) -> list[tuple[str, str]]:
        """Return the budget as (label, text) lines for a person: the figures, then the reason for each."""
        memory = f"{in_gib(self.host_bytes)} of RAM" if self.device_bytes is None else in_gib(self.device_bytes)
        steps = " or ".join(str(number) for number in self.accumulation)
        place = "the CPU" if self.device_bytes is None else "each GPU"
        text = (f"{memory} a trial, batch {self.micro_batch}, gradient accumulation {steps}, 1 trial at a time on "
                f"{place}")
        return [("budget", text), *(("", reason) for reason in self.reasons.values())]


def budget_for(environment: Environment, *, effective_batch: int | None = None) -> MemoryBudget:
    """Decide what one trial may use on this machine; `effective_batch` is the wanted rows of an optimizer step.

    Of unequal GPUs the smallest counts, so that every trial fits on each. Where several GPUs share the RAM, each of
    their workers gets its part.

    Raises:
        BudgetError: less memory is free than has to be kept free.
        ConfigError: the effective batch is no multiple of the micro-batch.
    """
    reasons = {}
    device_bytes = None
    if environment.gpus:
        gpu = min(environment.gpus, key=lambda gpu: gpu.usable_bytes)
        device_bytes = gpu.usable_bytes - DEVICE_MARGIN_BYTES
        which = "the smallest GPU" if len({gpu.memory_bytes for gpu in environment.gpus}) > 1 else "each GPU"
        reasons["device_bytes"] = (f"{in_gib(gpu.usable_bytes)} usable of the {in_gib(gpu.memory_bytes)} of {which}, "
                                   f"less {in_gib(DEVICE_MARGIN_BYTES)} for the CUDA context and fragmentation")
        if device_bytes < 1:
            raise BudgetError(f"{gpu.name} has {in_gib(gpu.usable_bytes)} usable, and {in_gib(DEVICE_MARGIN_BYTES)} of "
                              f"that is for the CUDA context; hide it with CUDA_VISIBLE_DEVICES= and train on the CPU")
    workers = max(1, len(environment.gpus))
    host_bytes = (environment.ram_available_bytes - HOST_MARGIN_BYTES) // workers
    if host_bytes < 1:
        raise BudgetError(f"{in_gib(environment.ram_available_bytes)} of RAM is free, and {in_gib(HOST_MARGIN_BYTES)} "
                          f"is kept for the supervisor and the system; end other programs, or use a larger machine")
    reasons["host_bytes"] = (f"{in_gib(environment.ram_available_bytes)} of RAM free, less "
                             f"{in_gib(HOST_MARGIN_BYTES)} for the supervisor and the system"
                             + (f", shared by {workers} workers" if workers > 1 else ""))
    reasons["micro_batch"] = (f"batch {MICRO_BATCH}: on a 7B 4-bit base, 512-token rows are forecast to peak under "
                              f"11 GiB")
    batches = EFFECTIVE_BATCHES if effective_batch is None else (effective_batch,)
    accumulation = tuple(accumulation_for(batch, MICRO_BATCH) for batch in batches)
    reasons["accumulation"] = (f"gradient accumulation for an effective batch of "
                               f"{' or '.join(str(batch) for batch in batches)}")
    reasons["trials"] = "one trial at a time: two would share the memory and the cores"
    return MemoryBudget(device_bytes=device_bytes, host_bytes=host_bytes, micro_batch=MICRO_BATCH,
                        accumulation=accumulation, reasons=reasons)


def accumulation_for(effective_batch: int, micro_batch: int) -> int:
    """Return the forward passes that make one optimizer step of `effective_batch` rows.

    Raises:
        ConfigError: it does not divide; says which numbers do.
    """
    if micro_batch < 1:
        raise ConfigError(f"batch_size must be at least 1, got {micro_batch}")
    passes, rest = divmod(effective_batch, micro_batch)
    if effective_batch >= 1 and rest == 0:
        return passes
    near = [str(batch) for batch in (passes * micro_batch, (passes + 1) * micro_batch) if batch >= micro_batch]
    divisors = [str(number) for number in range(1, min(effective_batch, 64) + 1) if effective_batch % number == 0]
    other = f", or batch_size {' or '.join(divisors)}" if divisors else ""
    raise ConfigError(f"an effective batch of {effective_batch} is no multiple of batch_size {micro_batch}; "
                      f"use {' or '.join(near) or micro_batch}{other}")


def describe(environment: Environment, budget: MemoryBudget) -> list[tuple[str, str]]:
    """Return what `detect` prints, as (label, text) lines: the devices, the budget, then everything else."""
    return [*environment.device_rows(), *budget.rows(), *environment.machine_rows()]
