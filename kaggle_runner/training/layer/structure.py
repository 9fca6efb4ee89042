"""Which decoder layers are known well enough to be computed by one function of ours, and where their parts are.

A layer is known by what it is made of, to the last module and parameter, and by whose code it runs: the classes of
transformers, none of them patched, and nothing hooked to a part. Whatever else there is stays on transformers' path.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kaggle_runner.training.libraries import attention_of
from kaggle_runner.training.models.attention import EXPANDED, GROUPED

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3",
            "gemma": "Gemma", "phi3": "Phi3"}
"""transformers' modules and the names that their classes begin with."""
_SEPARATE = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}
_FUSED = {"self_attn.qkv_proj", "mlp.gate_up_proj", "resid_attn_dropout", "resid_mlp_dropout"}
_EVERYWHERE = {"", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj", "input_layernorm",
               "post_attention_layernorm"}
_HEAD_NORMS = {"self_attn.q_norm", "self_attn.k_norm"}
_ACTIVATIONS = {"SiLU": "silu", "SiLUActivation": "silu", "PytorchGELUTanh": "tanh", "GELUTanh": "tanh"}
"""Class of an activation: ours, by torch's name of the approximation where it is a GELU.

Source: transformers 5.0 and 5.23, activations.py, ACT2CLS."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CastTo:
    """A forward hook that casts what a norm returns: the only hook that a known layer may have inside."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(self.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A root-mean-square norm, computed in float32."""

    module: nn.Module
    eps: float
    offset: float
    """What is added to the weight: Gemma's are kept less one."""

    @property
    def weight(self) -> torch.Tensor:
        """The weight that numbers are multiplied by."""
        weight = self.module.get_parameter("weight")
        return weight if self.offset == 0 else weight.float() + self.offset


@dataclass(frozen=True, kw_only=True, eq=False)
class Structure:
    """The parts of a decoder layer: modules, because their tensors may be exchanged under way."""

    input_norm: Norm
    middle_norm: Norm
    qkv: tuple[nn.Module, ...]
    """Three linear layers, or one whose output holds all three, queries first."""
    head_norms: tuple[Norm, Norm] | None
    """Of queries and of keys, each head by itself."""
    output: nn.Module
    gate_up: tuple[nn.Module, ...]
    """Two linear layers, or one whose output holds both, the gate first."""
    down: nn.Module
    activation: str
    """`silu`, or `tanh` for a GELU by that approximation."""
    head: int
    """Numbers of a head."""
    scaling: float
    window: int | None
    """Positions that a token sees at most, its own among them."""
    rotates: bool
    """Whether queries and keys are turned by their positions."""


def structure_of(layer: nn.Module) -> Structure | str:
    """Return the structure of a decoder layer with or without adapters, or why it is not known."""
    family = _family_of(layer)
    if family is None:
        return f"{type(layer).__name__} is not a layer that is known here"
    problem = _stranger(layer, family)
    if problem:
        return problem
    attention: Any = layer.self_attn
    network: Any = layer.mlp
    settings = attention.config
    if attention_of(settings) not in (GROUPED, EXPANDED):
        return f"its attention is {attention_of(settings)}"
    dropouts = [getattr(layer, name).p for name in ("resid_attn_dropout", "resid_mlp_dropout") if hasattr(layer, name)]
    if attention.attention_dropout or any(dropouts):
        return "the base has dropout of its own"
    if not attention.is_causal:
        return "its attention looks ahead"
    activation = _ACTIVATIONS.get(type(_activation(network)).__name__)
    if activation is None:
        return f"its activation is {type(_activation(network)).__name__}"
    fused = hasattr(attention, "qkv_proj")
    return Structure(
        input_norm=_norm(layer.input_layernorm), middle_norm=_norm(layer.post_attention_layernorm),
        qkv=(attention.qkv_proj,) if fused else (attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None,
        output=attention.o_proj, down=network.down_proj, activation=activation,
        gate_up=(network.gate_up_proj,) if fused else (network.gate_proj, network.up_proj),
        head=attention.head_dim, scaling=attention.scaling, rotates=bool(getattr(attention, "use_rope", True)),
        window=getattr(settings if family in ("mistral", "phi3") else attention, "sliding_window", None))


def base_of(module: nn.Module) -> nn.Module:
    """Return the linear layer under an adapter, or the module itself where there is none."""
    base: nn.Module = getattr(module, "base_layer", module)
    return base


def _family_of(layer: nn.Module) -> str | None:
    """Return whose layer this is, by the class of the layer itself and of its two halves; none if it is mixed."""
    for family, prefix in FAMILIES.items():
        names = {"": "DecoderLayer", "self_attn": "Attention", "mlp": "MLP"}
        parts = {name: layer if not name else getattr(layer, name, None) for name in names}
        if all(_is(part, family, prefix + names[name]) for name, part in parts.items()):
            return family
    return None


def _is(module: Any, family: str, name: str) -> bool:
    kind = type(module)
    return kind.__name__ == name and kind.__module__ == f"transformers.models.{family}.modeling_{family}"


def _stranger(layer: nn.Module, family: str) -> str:
    """Say what a layer has that its family has not; empty if there is nothing."""
    expected = _EVERYWHERE | (_FUSED if family == "phi3" else _SEPARATE) | (_HEAD_NORMS if family == "qwen3" else set())
    linear = {name for name in expected if name.endswith("_proj")}
    norms = {name for name in expected if name.endswith("norm")}
    found = dict(_own_modules(layer))
    known = expected | {"mlp.activation_fn" if family == "phi3" else "mlp.act_fn"}
    if found.keys() != known:
        return f"it has {', '.join(sorted(found.keys() ^ known))} unlike a {family} layer"
    for name, module in layer.named_modules():
        if is_changed(module) if name else "forward" in vars(module):
            return f"something is hooked into {name or 'it'}"
    for name, module in found.items():
        if name in linear:
            problem = _linear_problem(module, name)
        elif name in norms:
            problem = "" if _is(module, family, FAMILIES[family] + "RMSNorm") and _holds(module, {"weight"}) else name
        else:
            problem = "" if _holds(module, set()) else name
        if problem:
            return f"{problem} is not as in a {family} layer"
        if name not in linear and "dropout" not in name and not _runs_its_own_code(module):
            return f"{name or 'it'} runs changed code"
    return ""


def _own_modules(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a layer, but not what is inside linear layers and activations."""
    inside: list[str] = []
    for name, module in layer.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if name.endswith(("_proj", "act_fn", "activation_fn")):
            inside.append(f"{name}.")
        yield name, module


def is_changed(module: nn.Module) -> bool:
    """Whether a module has a forward of its own, or something that is not ours is hooked into it or its parameters."""
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    # hooks for after a gradient was added to a parameter run with our function too
    hooks += [hook for part in module._parameters.values() if part is not None for hook in (part._backward_hooks or {})]
    return "forward" in vars(module) or not all(isinstance(hook, CastTo) for hook in hooks)


def _holds(module: nn.Module, names: set[str]) -> bool:
    """Whether a module has exactly these parameters, frozen, and no buffers, its children's not counted."""
    return module._parameters.keys() == names and not module._buffers and not _trains(module)


def _trains(module: nn.Module) -> bool:
    """Whether a parameter of the module itself is trained: our function gives gradients to adapters alone."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def is_packed(module: object) -> bool:
    """Whether it is a linear layer of 4 bits; as long as nothing imported bitsandbytes none is."""
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    return bitsandbytes is not None and isinstance(module, bitsandbytes.nn.Linear4bit)


def _runs_its_own_code(module: nn.Module) -> bool:
    """Whether the forward pass of a module is its class's own, and not one put into the class from elsewhere."""
    kind = type(module)
    return kind.forward.__module__ == kind.__module__


def _linear_problem(module: nn.Module, name: str) -> str:
    """Say what keeps a linear layer, with or without an adapter, from being computed here; empty if nothing does."""
    base: Any = base_of(module)
    if (type(base) is not nn.Linear and not is_packed(base)) or _trains(base):
        return name
    if not _runs_its_own_code(base) or not _runs_its_own_code(module):
        return name
    if base is module:
        return ""
    adapter: Any = module
    plain = (adapter.active_adapters == ["default"] and not adapter.merged and not adapter.disable_adapters
             and list(adapter.lora_A) == ["default"] and not adapter.lora_embedding_A
             and not adapter.lora_variant and not adapter.fan_in_fan_out
             and type(adapter).__module__.startswith("peft.tuners.lora."))
    if not plain:
        return name
    inner = (adapter.lora_A["default"], adapter.lora_B["default"])
    kinds = all(type(part) is nn.Linear and part.bias is None for part in inner)
    return "" if kinds and type(adapter.lora_dropout["default"]) in (nn.Identity, nn.Dropout) else name


def _activation(network: Any) -> Any:
    return network.activation_fn if hasattr(network, "activation_fn") else network.act_fn


def _norm(module: Any) -> Norm:
    less_one = hasattr(module, "eps")  # Gemma's class, whose weights are kept less one
    return Norm(module=module, eps=module.eps if less_one else module.variance_epsilon, offset=1.0 if less_one else 0.0)
