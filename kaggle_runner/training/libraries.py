"""What our libraries keep to themselves, spell differently from version to version, or trip over: all of it is here.

Tried with transformers 5.0, 5.15, 5.16 and 5.23, and peft 0.19, 0.20 and 0.21.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft.import_utils
import torch
import transformers
from transformers.utils import import_utils

from kaggle_runner.errors import HostError, MissingPackages, ModelError

FAST_ATTENTION = "sdpa"
"""transformers' name of torch's scaled_dot_product_attention."""


def apply_liger(model: Any) -> None:
    """Put Liger's norms, rotations and activations into a model; its losses are left out, ours is exact.

    transformers 5.0 does this inside its Trainer and has `integrations.liger` from a later version on; both call the
    function that is called here.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # an option that is off needs no package

    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def attention_of(settings: Any) -> str:
    """Return the name of the attention that a model of these settings uses.

    The only place where transformers keeps it, under this name in every version of 5.
    """
    return str(settings._attn_implementation)


def caps_its_scores(settings: Any) -> bool:
    """Say whether a family squashes its attention scores, as Gemma 2 does: only its own eager attention does that.

    The setting decides and not the attention that transformers chose: up to 5.15 it chooses `sdpa` for these families,
    which forgets the cap, and later `eager`. Source: modeling_gemma2.py, modeling_vaultgemma.py and modeling_t5gemma.py
    of transformers 5.0 and 5.23, the families that have it.
    """
    return getattr(settings, "attn_logit_softcapping", None) is not None


def makes_own_masks(model: Any) -> bool:
    """Say whether a family makes the mask of its attention itself, whatever attention it is given.

    Source: transformers 5.0, `_update_causal_mask` of OPT, StableLM, Falcon, GPT-J, Nemotron, Persimmon and others; in
    5.23 all leave it to the attention.
    """
    return any(hasattr(type(module), "_update_causal_mask") for module in model.modules())


def complete_config(config: Any) -> Any:
    """Give a model's config what its family's model asks it for and its class forgets; returns the same config.

    PhiConfig of transformers 5.0 takes no `pad_token_id`, and its model stops at that; later versions have it.
    """
    settings = config.get_text_config()
    if not hasattr(settings, "pad_token_id"):
        settings.pad_token_id = None
    return config


LINEAR_ROUTERS = ("phimoe", "llama4", "llama4_text")
"""Families whose routers of experts are linear layers with results of their own. Source: transformers 5.0 to 5.23."""


def kept_in_16_bits(model_type: str) -> list[str] | None:
    """Name what loading in 4 bits must be told to leave alone; none where it knows by itself."""
    return ["lm_head", "router"] if model_type in LINEAR_ROUTERS and quantises_subclasses() else None


def is_kept_in_16_bits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a checkpoint in 4 bits says of a module that it is not: by the start of its name, or by its end.

    Source: transformers 5.23, quantizers/quantizers_utils.py, should_convert_module.
    """
    return any(re.match(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))", name) or name.endswith(pattern) for pattern in patterns)


def require_bitsandbytes() -> None:
    """See that 4 bits can be read and written; transformers says with an `ImportError` that they cannot.

    Raises:
        MissingPackages: bitsandbytes is not installed.
        HostError: it is older than transformers takes.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackages(["bitsandbytes"], "train")
    if not import_utils.is_bitsandbytes_available():
        raise HostError(f"bitsandbytes {importlib.metadata.version('bitsandbytes')} is too old: transformers needs "
                        f"{import_utils.BITSANDBYTES_MIN_VERSION} or newer; run: pip install -U bitsandbytes")


@functools.cache
def quantises_subclasses() -> bool:
    """Whether loading in 4 bits takes linear layers of a family's own class too, such as Falcon's.

    transformers 5.0 does, 5.15 and later do not: it is tried on a layer without data.
    """
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    class Own(torch.nn.Linear):
        pass

    with torch.device("meta"):
        tried = torch.nn.Sequential(Own(8, 8))
        replace_with_bnb_linear(tried, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True))
    return not isinstance(tried[0], Own)


def spelled_out(targets: str | list[str], model: Any) -> str | list[str]:
    """Return the names of the layers that `all-linear` or a pattern means, where peft would take the word for letters.

    That is peft 0.19 and 0.20 with the families whose experts transformers 5 fuses, such as Mixtral.
    """
    conversion: Any = importlib.import_module("peft.utils.transformers_weight_conversion")
    if not isinstance(targets, str) or hasattr(conversion, "_resolve_string_target_modules") \
            or model.config.model_type not in conversion._MODEL_TO_CONVERSION_PATTERN:
        return targets
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
            and (targets == "all-linear" or re.fullmatch(targets, name))]


def load_adapter(model: Any, folder: Path) -> Any:
    """Put a saved adapter on a model.

    peft 0.19 cannot with transformers 5.0 where experts are fused: it calls transformers' conversion of names with an
    argument from a later version. Adapters that were trained here have the names that it would convert them to.

    Raises:
        ModelError: it is another model's adapter.
    """
    conversion: Any = importlib.import_module("peft.utils.transformers_weight_conversion")
    if model.config.model_type not in conversion._MODEL_TO_CONVERSION_PATTERN \
            or "loading_info" in inspect.signature(conversion.WeightRenaming.convert).parameters:
        return peft.PeftModel.from_pretrained(model, str(folder))
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig.from_pretrained(str(folder)))
    tensors = peft.load_peft_weights(str(folder), device="cpu")
    named = {re.sub(r"(lora_\w+)\.weight$", r"\1.default.weight", name): tensor for name, tensor in tensors.items()}
    missing, strange = adapted.load_state_dict(named, strict=False)
    lacking = [name for name in missing if "lora_" in name]
    if strange or lacking:
        raise ModelError(f"{folder} is no adapter of this model: {(strange or lacking)[0]} has no counterpart; take it "
                         f"from a copy, or train it again")
    return adapted


@functools.cache
def hide_unfit_torchao() -> str:
    """Hide from this process a torchao that peft refuses; return what was hidden and why, empty if nothing was.

    Kaggle's and Colab's images hold torchao 0.10.0. peft looks at it for every layer that is not 4-bit, finds it too
    old and gives up, although nothing here uses it. Where it is new enough it stays: a base may be quantised with it.
    """
    if "torchao" in sys.modules and sys.modules["torchao"] is None:  # the worker has hidden it, and says why
        return ""
    try:
        peft.import_utils.is_torchao_available()
    except ImportError:
        sys.modules["torchao"] = None  # type: ignore[assignment]  # to importers and find_spec: there is none
        return (f"torchao {importlib.metadata.version('torchao')}: peft {peft.__version__} refuses it, and nothing "
                f"uses it")
    return ""
