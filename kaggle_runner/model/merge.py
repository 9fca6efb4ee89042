"""An adapter merged into its base, tensor by tensor: the base is never in memory as a whole.

What is written has the names of the base's own files, so that whatever loads the base loads this. Shapes: O outputs,
I inputs, R rank.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from kaggle_runner.errors import ModelError
from kaggle_runner.model.tensor_files import OWN_NAME, NewTensor, Weights, open_weights, write_weights
from kaggle_runner.training.libraries import require_bitsandbytes
from kaggle_runner.training.models.bare_model import bare_model

PREFIX = "base_model.model."
"""What peft puts before the names of a model's modules."""
QUANTISED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4",
                   ".quant_state.bitsandbytes__fp4")
"""What bitsandbytes stores beside a weight of 4 bits. Source: bitsandbytes 0.50, functional.py, QuantState."""
KEPT = ("generation_config.json",)
TRANSPOSED = "Conv1D"
"""GPT-2's linear layer, whose weight is (I, O). Source: transformers, pytorch_utils.py."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an adapter adds to the weight of one module."""

    first_RI: torch.Tensor
    second_OR: torch.Tensor
    scaling: float
    transposed: bool
    """Whether the weight is stored as (I, O)."""

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the merged weight in float32; rounding it is left to whoever writes it."""
        delta = self.scaling * (self.second_OR.float() @ self.first_RI.float())
        return weight.float() + (delta.T if self.transposed else delta)


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What a merged model will hold, checked before anything is written."""

    weights: Weights
    config: dict[str, Any]
    """Its config.json."""
    updates: Mapping[str, Update]
    """By the name of the tensor in the base's files."""
    modules: Mapping[str, str]
    """The module of each tensor that is a module's weight."""
    transposed: Collection[str]
    """Tensors that are stored as (I, O)."""
    extra: Mapping[str, str]
    """Tensors that are new, and the one that each begins as: a head that is no longer the embedding."""

    @property
    def size(self) -> int:
        """Bytes of the weights to be written."""
        return sum(tensor.size for tensor in self.tensors(frozenset(), torch.float32, torch.device("cpu")))

    def tensors(self, quantised: Collection[str], dtype: torch.dtype, device: torch.device) -> list[NewTensor]:
        """List what is to be written; modules in `quantised` get the weights that 4 bits of a `dtype` make of them."""
        names = [name for name in self.weights.tensors if not name.endswith(QUANTISED_PARTS)]
        return [self._tensor(name, source, quantised, dtype, device)
                for name, source in [*((name, name) for name in names), *self.extra.items()]]

    def _tensor(self, name: str, source: str, quantised: Collection[str], dtype: torch.dtype,
                device: torch.device) -> NewTensor:
        stored = self.weights.tensors[source]
        state = _packed_state(self.weights, source, device)
        shape, kept = (tuple(state.shape), state.dtype) if state is not None else (stored.shape, stored.dtype)

        def make() -> torch.Tensor:
            weight = self.weights.read(source)
            if state is not None:
                weight = _bits().dequantize_4bit(weight.to(device), state)
            elif self.modules.get(source) in quantised:
                weight = through_4_bits(weight, dtype, device, transposed=source in self.transposed)
            update = self.updates.get(name)
            return weight if update is None else update.added_to(weight.cpu())

        return NewTensor(name=name, shape=shape, dtype=kept, make=make)


def plan_merge(base: Path, adapter: Path) -> MergePlan:
    """Read what base and adapter hold and match the two.

    Raises:
        ModelError: the base has no weights, or the adapter changes what its files do not hold one by one.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    model, weights = bare_model(config, half=False), open_weights(base)
    scaling, pairs = _adapter(adapter)
    modules, updates, extra = dict(model.named_modules()), {}, {}
    of_tensor = {found: name for name in modules if (found := _stored_name(model, f"{name}.weight", weights))}
    head, embedding = _name_of(model, model.get_output_embeddings()), _name_of(model, model.get_input_embeddings())
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    untied = tied and bool({head, embedding} & pairs.keys())
    strange = []
    for module, (first, second) in pairs.items():
        layer = modules.get(module)
        stored = _stored_name(model, f"{module}.weight", weights)
        if stored is None and untied and module == head:
            stored = f"{head}.weight"
        is_matrix = isinstance(layer, nn.Linear | nn.Embedding) or type(layer).__name__ == TRANSPOSED
        if stored is None or not is_matrix:
            strange.append(module)
            continue
        embeds = isinstance(layer, nn.Embedding)
        updates[stored] = Update(first_RI=first, second_OR=second, scaling=scaling,
                                 transposed=embeds or type(layer).__name__ == TRANSPOSED)
    if strange:
        raise ModelError(f"cannot merge into {base}: its files do not hold {', '.join(strange[:3])} as a matrix of its "
                         f"own; take the adapter home with --to adapter")
    if untied:
        config["tie_word_embeddings"] = False
        source = _stored_name(model, f"{embedding}.weight", weights)
        if source and f"{head}.weight" not in weights.tensors:
            extra[f"{head}.weight"] = source
    for name in ("quantization_config", OWN_NAME):  # what is written is in 16 bits, and has the usual names
        config.pop(name, None)
    return MergePlan(weights=weights, config=config, updates=updates, modules=of_tensor, extra=extra,
                     transposed={stored for stored, module in of_tensor.items()
                                 if type(modules[module]).__name__ == TRANSPOSED})


def merge(plan: MergePlan, folder: Path, *, quantised: Collection[str] = (), dtype: torch.dtype = torch.float32,
          device: torch.device | None = None) -> None:
    """Write the merged model's weights, then its config: a folder without config.json is not finished.

    With `quantised`, the names of the modules that training had in 4 bits, the adapter is merged into the weights that
    it was trained on: those that come back out of 4 bits, made from a `dtype`.
    """
    write_weights(folder, plan.tensors(quantised, dtype, device or torch.device("cpu")))
    for path in plan.weights.folder.iterdir():
        if path.name in KEPT or path.suffix == ".py":
            shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")


def _bits() -> Any:
    """Return what packs and unpacks 4 bits; a base in 16 needs no such package.

    Raises:
        MissingPackages: it is not installed.
    """
    require_bitsandbytes()
    import bitsandbytes.functional

    return bitsandbytes.functional


def through_4_bits(weight: torch.Tensor, dtype: torch.dtype, device: torch.device, *, transposed: bool) -> torch.Tensor:
    """Return what training saw of a weight: NF4 with double quantisation, and back."""
    bnb, given = _bits(), weight.to(device, dtype)
    packed, state = bnb.quantize_4bit((given.T if transposed else given).contiguous(), compress_statistics=True,
                                      quant_type="nf4")
    back: torch.Tensor = bnb.dequantize_4bit(packed, state)
    return back.T if transposed else back


def _adapter(folder: Path) -> tuple[float, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Read an adapter: its scaling, and for each module its two matrices (R, I) and (O, R)."""
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            module, _, part = name.removeprefix(PREFIX).partition(".lora_")
            which = part.removesuffix(".weight").rpartition("_")[2]  # A, B, embedding_A or embedding_B
            found.setdefault(module, {})[which] = file.get_tensor(name)
    return (settings["lora_alpha"] / settings["r"],
            {module: (parts["A"], parts["B"]) for module, parts in found.items() if {"A", "B"} <= parts.keys()})


def _stored_name(model: Any, parameter: str, weights: Weights) -> str | None:
    """Return what a base's files call a parameter: some were saved from the decoder alone, without its prefix."""
    prefix = f"{model.base_model_prefix}."
    for name in (parameter, parameter.removeprefix(prefix), f"{prefix}{parameter}"):
        if name in weights.tensors:
            return name
    return None


def _name_of(model: Any, module: Any) -> str:
    return next((name for name, other in model.named_modules() if other is module and module is not None), "")


def _packed_state(weights: Weights, name: str, device: torch.device) -> Any:
    """Return how a weight that is stored in 4 bits is unpacked; none for one that is not."""
    parts = {f"{name}{part}": weights.read(f"{name}{part}") for part in QUANTISED_PARTS
             if f"{name}{part}" in weights.tensors}
    return _bits().QuantState.from_dict(parts, device) if parts else None
