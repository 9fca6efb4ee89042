"""What our libraries keep to themselves, spell differently from version to version, or trip over: all of it is here.

Tried with transformers 5.0, 5.15 and 5.23, and peft 0.19, 0.20 and 0.21.
"""

import importlib.metadata
import sys
from typing import Any

import peft.import_utils

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


def complete_config(config: Any) -> Any:
    """Give a model's config what its family's model asks it for and its class forgets; returns the same config.

    PhiConfig of transformers 5.0 takes no `pad_token_id`, and its model stops at that; later versions have it.
    """
    settings = config.get_text_config()
    if not hasattr(settings, "pad_token_id"):
        settings.pad_token_id = None
    return config


def hide_unfit_torchao() -> str:
    """Hide from this process a torchao that peft refuses; return what was hidden and why, empty if nothing was.

    Kaggle's and Colab's images hold torchao 0.10.0. peft looks at it for every layer that is not 4-bit, finds it too
    old and gives up, although nothing here uses it. Where it is new enough it stays: a base may be quantised with it.
    """
    if "torchao" in sys.modules and sys.modules["torchao"] is None:
        return _hidden()
    try:
        peft.import_utils.is_torchao_available()
    except ImportError:
        sys.modules["torchao"] = None  # type: ignore[assignment]  # to importers and find_spec: there is none
        return _hidden()
    return ""


def _hidden() -> str:
    return f"torchao {importlib.metadata.version('torchao')}: peft {peft.__version__} refuses it, and nothing uses it"
