"""The losses of what is taken home, over the held-out rows of its study: of the adapter, and of merged models."""

import dataclasses
import gc
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError, ModelError
from kaggle_runner.events import Notify, Phase
from kaggle_runner.machine.environment import Environment
from kaggle_runner.model.outcome import Outcome
from kaggle_runner.training.cpu_speed import use_threads
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.instructions import InstructionData, load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import evaluate
from kaggle_runner.training.libraries import hide_unfit_torchao, load_adapter
from kaggle_runner.training.models.base_model import (
    BaseModel,
    check_model,
    compute_dtype_of,
    computing_in,
    linear_layers_4bit,
    load_base,
)
from kaggle_runner.wording import size_text

SHARED_SYSTEM = 0.5
"""Share of the training rows that must have the same system prompt for it to be the study's."""
OTHER_ROWS = "the rows are no longer those that the trial had, so losses do not compare with the study's"
SHARE_OF_MEMORY = 0.8
"""Share of the free memory that the weights of a model to measure may take; the rest is for its activations."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows that a study measures its losses on; none where they cannot be read any more."""

    rows: EncodedRows | None
    data: InstructionData | None
    remark: str = ""
    """Why they are not what the study had, if they are not."""


def device_here(cpu_only: bool) -> torch.device:
    """Return the device to measure on."""
    return torch.device("cpu") if cpu_only or not torch.cuda.is_available() else torch.device("cuda", 0)


def check_base(outcome: Outcome) -> str:
    """Look for the base of a trial without its weights, and return what transformers loads.

    Raises:
        ModelError: it is gone.
    """
    try:
        return check_model(outcome.finetune)
    except ModelError as error:
        raise ModelError(f"the base of trial {outcome.trial.id} is not here, and an adapter is nothing without it: "
                         f"{error}") from error


def load_trained(outcome: Outcome, device: torch.device, notify: Notify) -> BaseModel:
    """Load the base of a trial as it was trained on, in the dtype that the trial computed in on such a device."""
    config = outcome.finetune
    check_base(outcome)
    _keep_quiet()
    if device.type == "cpu":
        use_threads(outcome.cpu_threads)
    notify(Phase(phase="load", text=f"loading {config.model}"))
    base = load_base(config, device)
    dtype = getattr(torch, str(outcome.result.notes.get("compute_dtype", "float32")), torch.float32)
    if device.type == "cpu" and dtype is torch.bfloat16:
        base = computing_in(base, dtype)
    return base


def attach_trained(base: BaseModel, adapter: Path) -> Any:
    """Put a trained adapter on its base; `unload` takes it off."""
    hide_unfit_torchao()
    return load_adapter(base.model, adapter).eval()


def held_out_rows(outcome: Outcome, tokenizer: Any, cache_directory: Path) -> HeldOut:
    """Read the held-out rows of a trial's study as its trials did."""
    try:
        data = load_rows(outcome.finetune, cache_directory=cache_directory)
        encoded = encode(data, tokenizer, outcome.finetune, cache_directory=cache_directory)
    except DataError as error:
        return HeldOut(rows=None, data=None, remark=f"the study's rows cannot be read any more: {error}")
    changed = outcome.result.hashes.get("data", data.sha256) != data.sha256  # a study of 0.2 does not tell
    return HeldOut(rows=encoded.validation, data=data, remark=OTHER_ROWS if changed else "")


def system_prompt_of(data: InstructionData | None) -> str | None:
    """Return the system prompt that most of a study's training rows begin with; none where there is no such."""
    rows = () if data is None else data.train
    firsts = [row.turns[0].text for row in rows if row.turns[0].role in ("system", "developer")]
    common = max(set(firsts), key=firsts.count) if firsts else None
    return common if common and firsts.count(common) > SHARED_SYSTEM * len(rows) else None


def names_in_4_bits(base: BaseModel) -> frozenset[str]:
    """Name the modules of a base, without an adapter on it, that are in 4 bits."""
    packed = {id(layer) for layer in linear_layers_4bit(base.model)}
    return frozenset(name for name, module in base.model.named_modules() if id(module) in packed)


def loss_of_merged(folder: Path, rows: EncodedRows, config: FinetuneConfig, device: torch.device) -> float:
    """Load a merged model as any model is loaded, in 16 or 32 bits, and measure it."""
    plain = dataclasses.replace(config, model=str(folder), load_in_4bit=False, use_liger_kernel=False)
    base = load_base(plain, device)
    try:
        return evaluate(base, rows, plain)
    finally:
        del base
        release(device)


def device_for(parameters: int, model_type: str, device: torch.device, environment: Environment
               ) -> tuple[torch.device | None, str]:
    """Choose where a model of so many parameters can be measured; none, with the reason, where it cannot."""
    needed = 0.0
    free: float = 0
    if device.type == "cuda":
        needed = parameters * compute_dtype_of(device, model_type).itemsize
        free = torch.cuda.mem_get_info(device)[0]
        if needed <= SHARE_OF_MEMORY * free:
            return device, ""
    in_memory = parameters * torch.float32.itemsize
    available = environment.ram_available_bytes or 0
    if in_memory <= SHARE_OF_MEMORY * available:
        return torch.device("cpu"), ""
    on_gpu = f"{size_text(needed)} of {size_text(free)} of the GPU and " if device.type == "cuda" else ""
    return None, (f"it was not measured here: its weights would take {on_gpu}{size_text(in_memory)} of "
                  f"{size_text(available)} of memory")


def _keep_quiet() -> None:
    """Have libraries draw no bars and say nothing of their own future; what matters here is said by us."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
