"""Whether a model's folder, or its page on the hub, holds what can be trained here; asked before any weights are read.

Everything that is wrong comes in one message. Nothing here runs code that a model brings along, and nothing asks a
question on stdin: a worker's stdin is the pipe that its supervisor speaks through.
"""

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from kaggle_runner.errors import ModelError
from kaggle_runner.training.models.tokenizer import ADAPTER

CAUSAL: Mapping[str, Any] = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
SEQ2SEQ: Mapping[str, Any] = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
MASKED: Mapping[str, Any] = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
MULTIMODAL: Mapping[str, Any] = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
"""Which families transformers knows of each kind."""
CHOOSE = "choose a decoder such as Llama, Qwen, Mistral or Phi"


def check_config(model: str, values: Mapping[str, Any], *, trust: bool, has_adapter: bool = False) -> None:
    """Refuse what `config.json` says cannot be trained here.

    Raises:
        ModelError: all of it, in one line.
    """
    problems = [problem for problem in (
        f"an {ADAPTER} lies beside it, so transformers would load that adapter too and train on top of it; move it "
        f"out of the folder, or merge it into the model" if has_adapter else "",
        _code_problem(values, trust=trust), _family_problem(values), _quantisation_problem(values),
        _kind_problem(values)) if problem]
    if problems:
        raise ModelError(f"{model} cannot be trained: {'; '.join(problems)}")


def check_tokenizer(model: str, tokenizer: Any, model_config: Any) -> list[str]:
    """Refuse a tokenizer that does not fit its model; return what will work, but perhaps not as meant.

    Raises:
        ModelError: it has tokens that the model has no embedding of.
    """
    settings = model_config.get_text_config()
    embeddings = getattr(settings, "vocab_size", None)
    words = tokenizer.get_vocab()
    last = max(words, key=lambda word: words[word]) if words else ""
    if embeddings is not None and words and words[last] >= embeddings:
        beyond = sum(number >= embeddings for number in words.values())
        raise ModelError(f"{model} cannot be trained: its tokenizer has {beyond} tokens, such as {last!r} (number "
                         f"{words[last]}), beyond the model's {embeddings} embeddings; give the tokenizer that it was "
                         f"trained with, or one without the added tokens")
    warnings = []
    ends = getattr(settings, "eos_token_id", None)
    ends = set(ends) if isinstance(ends, list | tuple) else {ends}
    if tokenizer.eos_token_id is None:
        warnings.append(f"warning: the tokenizer of {model} names no end token, so answers are trained without an end "
                        f"and the model will not stop by itself; set eos_token in its tokenizer_config.json")
    elif None not in ends and tokenizer.eos_token_id not in ends and embeddings is not None \
            and len(words) < embeddings / 2:
        warnings.append(f"warning: the tokenizer of {model} may be another model's: it has {len(words)} tokens of "
                        f"{embeddings}, and ends answers with {tokenizer.eos_token!r} (number "
                        f"{tokenizer.eos_token_id}), which config.json does not name as an end")
    return warnings


def set_padding(tokenizer: Any) -> None:
    """Give a tokenizer without one a token to pad with; which does not matter, because padding is never looked at."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def _code_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    code = values.get("auto_map")
    return code if isinstance(code, Mapping) else {}


def _family_problem(values: Mapping[str, Any]) -> str:
    family = str(values.get("model_type") or "")
    if not family or family in transformers.CONFIG_MAPPING or "AutoConfig" in _code_of(values):
        return ""
    return (f"transformers {transformers.__version__} here does not know its family {family}; choose an older "
            f"one, or run: pip install -U transformers; a kernel needs another push --image")


def _code_problem(values: Mapping[str, Any], *, trust: bool) -> str:
    code = _code_of(values)
    if not code or trust or str(values.get("model_type")) in transformers.CONFIG_MAPPING:
        return ""
    names = sorted({str(name).rsplit("--", 1)[-1].split(".")[0] + ".py" for name in code.values()})
    return (f"it brings Python code of its own ({', '.join(names)}), which is not run unasked; read it and write "
            f"trust_remote_code: true, or choose a model that transformers {transformers.__version__} knows")


def _quantisation_problem(values: Mapping[str, Any]) -> str:
    found = values.get("quantization_config") or values.get("quantization")
    if not isinstance(found, Mapping):
        return ""
    unnamed = "bitsandbytes" if "load_in" in str(found) else "an unnamed program such as MLX"  # it had no quant_method
    method = str(found.get("quant_method") or unnamed)
    if method == "bitsandbytes" and found.get("load_in_4bit"):
        return ""
    how = "bitsandbytes in 8 bits" if method == "bitsandbytes" else method
    return (f"it is quantised by {how}, and only bitsandbytes' 4 bits are trained on; give its original in 16 bits, "
            f"which load_in_4bit quantises")


def _kind_problem(values: Mapping[str, Any]) -> str:
    family = str(values.get("model_type", ""))
    found = values.get("architectures")
    architectures = [str(name) for name in found] if isinstance(found, list) else []
    named = architectures[0] if architectures else family
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    brought = "AutoModelForCausalLM" in _code_of(values)
    if values.get("is_encoder_decoder") or (family in SEQ2SEQ and not writes):
        return (f"it is a sequence-to-sequence model ({named}), which reads with one part and writes with another; "
                f"{CHOOSE}")
    if family in MASKED and not writes and not values.get("is_decoder"):
        return f"it is an encoder ({named}), which fills gaps and does not write on; {CHOOSE}"
    if family in CAUSAL or brought or family not in transformers.CONFIG_MAPPING:
        return ""  # or a family that this transformers does not know at all
    if family in MULTIMODAL or "vision_config" in values or "audio_config" in values:
        return (f"it is a multimodal model ({named}), of which transformers {transformers.__version__} makes no text "
                f"model; {CHOOSE}")
    return f"it is no language model that writes on ({named}); {CHOOSE}"
