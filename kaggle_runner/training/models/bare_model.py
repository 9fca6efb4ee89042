"""A model without weights, from its `config.json` alone: its layers, its dtypes, what its head does.

Everything is on torch's `meta` device, which knows shapes and holds no data.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.training.hub import first_line
from kaggle_runner.training.libraries import complete_config

_NOT_THE_SHAPE = ("model_type", "quantization_config", "torch_dtype", "dtype", "architectures", "transformers_version")


def bare_model(model_config: Mapping[str, Any], half: bool) -> Any:
    """Build transformers' model on the device that holds no data.

    Raises:
        ModelError: this is no config of a causal language model.
    """
    values = {name: copy.deepcopy(value) for name, value in model_config.items() if name not in _NOT_THE_SHAPE}
    try:
        shape = complete_config(transformers.AutoConfig.for_model(model_config["model_type"], **values))
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float16 if half else torch.float32)
        model.tie_weights()  # transformers 5.0 leaves it out on this device, and the head would be counted twice
        layers_of(model)
        return model
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, StopIteration) as error:
        what = first_line(error) if str(error) else "it has no list of layers"
        raise ModelError(f"cannot build a causal language model from this config.json (model_type "
                         f"{model_config.get('model_type')!r}): {what}; check it, or update transformers") from error


def layers_of(model: Any) -> nn.ModuleList:
    """Return the decoder's layers: the list of as many modules as the config says."""
    count = model.config.get_text_config().num_hidden_layers
    inside = model.get_decoder() if is_multimodal(model) else model
    return next(module for module in inside.modules() if isinstance(module, nn.ModuleList) and len(module) == count)


def is_multimodal(model: Any) -> bool:
    """Say whether a model has parts that see or hear beside the one that writes."""
    return model.config.get_text_config() is not model.config


def without_adapters(model: Any) -> list[str] | None:
    """Name the linear layers that get no adapter, whatever is asked for; none where all may.

    These are the routers of experts, whose results are no matrices that an adapter could be added to, and all but the
    language model of a multimodal one.
    """
    inside = {id(module) for module in model.get_decoder().modules()} if is_multimodal(model) else None
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
             and ("router" in type(module).__name__.lower() or (inside is not None and id(module) not in inside))]
    return names or None


def keep_layers(model: Any, count: int) -> None:
    """Drop all layers of a model but the first `count`."""
    layers = layers_of(model)
    del layers[count:]
    model.config.get_text_config().num_hidden_layers = count


def outline(layer: nn.Module) -> tuple[tuple[Any, ...], ...]:
    """Return what tells a layer from others: its parameters' shapes and its modules' settings, but not its number."""
    shapes = [(name, parameter.shape) for name, parameter in layer.named_parameters()]
    settings = [(name, setting, value) for name, module in layer.named_modules()
                for setting, value in vars(module).items()
                if isinstance(value, bool | int | float | str | None) and setting != "layer_idx"]
    return (*shapes, *settings)


def own_head(model: Any) -> bool:
    """Say whether the output matrix gives the logits from what the decoder returns, capped or not.

    Source: the attributes by which the families in transformers 5.23 scale or bend their logits.
    """
    settings = model.config.get_text_config()
    scales = (getattr(settings, name, None) for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"))
    caps = (getattr(settings, name, None) for name in ("logits_soft_cap", "output_logit_soft_cap"))
    decoder, head = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if decoder is None or decoder is model or head is None:
        return False
    known = {id(parameter) for part in (decoder, head) for parameter in part.parameters()}
    return (all(scale in (None, 1, 1.0) for scale in scales) and not any(caps)
            and all(id(parameter) in known for parameter in model.parameters()))


def quantization_of(config: FinetuneConfig, model_config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how the base is quantised: as its checkpoint is, or as the trainer does it; none if it is not.

    Raises:
        ModelError: the checkpoint is quantised in a way whose memory is not known here.
    """
    if "quantization_config" not in model_config:
        return {"bnb_4bit_use_double_quant": True} if config.load_in_4bit else None
    found: Mapping[str, Any] = model_config["quantization_config"]
    if found.get("quant_method") != "bitsandbytes" or not found.get("load_in_4bit"):
        raise ModelError(f"cannot forecast the memory of a model that is quantised by {found.get('quant_method')!r}; "
                         f"choose one in 16 bits, or one that bitsandbytes has quantised to 4 bits")
    return found


def stored_dtype(model_config: Mapping[str, Any], computed: torch.dtype) -> torch.dtype:
    """Return the dtype that 4-bit weights become numbers in: that of the checkpoint where it is 4-bit already."""
    if "quantization_config" not in model_config:
        return computed
    name = model_config.get("torch_dtype", model_config.get("dtype"))
    return getattr(torch, str(name), torch.bfloat16)
