"""The frozen base of a fine-tune: loaded and quantised once, kept warm for trial after trial.

Nothing here trains. A base stays exactly as it was loaded, so every trial starts from the same bits.
"""

import hashlib
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import HostError, ModelError
from kaggle_runner.training.hub import raise_refusal, useful_line
from kaggle_runner.training.layer.install import agrees, structures_of
from kaggle_runner.training.layer.structure import CastTo, is_packed
from kaggle_runner.training.libraries import apply_liger, complete_config, kept_in_16_bits, require_bitsandbytes
from kaggle_runner.training.loss import logit_cap, logits_of
from kaggle_runner.training.models.attention import GROUPING_CAPABILITY, use_causal_attention
from kaggle_runner.training.models.bare_model import own_head
from kaggle_runner.training.models.model_check import check_config, check_tokenizer, set_padding
from kaggle_runner.training.models.shapes import OVERFLOWING, require_bfloat16
from kaggle_runner.training.models.tokenizer import ADAPTER, model_source, refuse_contents, why_not_loaded

MOST_LEFT = 0.5
"""Share of a model's layers that 4-bit loading may leave in 16 bits without a word."""
MINIMUM_CAPABILITY = (7, 0)
"""Compute capability below which torch's CUDA 12.8 wheels have no kernels. Source: docker-python issue 1546."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A frozen causal language model on its device, with its tokenizer."""

    key: tuple[str, bool, bool]
    """Model name, whether it is quantised, and whether Liger's kernels are in it: trials with equal keys share it."""
    model: Any
    """The transformers model; its linear layers are 4-bit when quantised."""
    tokenizer: Any
    device: torch.device
    compute_dtype: torch.dtype
    """Dtype of the matrix products: float16 on CUDA, bfloat16 for the families it overflows in, float32 on a CPU, or
    bfloat16 where that is much faster."""
    sha256: str
    """SHA-256 of the folder's files, or `commit:` and the hub's commit."""
    own_head: bool
    """Whether the loss may be computed from hidden states and the output matrix, without the model's own head."""
    seconds: float
    """Wall time of loading and quantising."""
    strange_layers: str = ""
    """Why its decoder layers are not computed by our function; empty where they are."""
    warnings: tuple[str, ...] = ()
    """What will work, but perhaps not as meant, a sentence each."""

    @property
    def ends(self) -> list[int]:
        """Tokens at which its answers end: the tokenizer's, and those that `generate` knows, of a turn among them."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        return sorted({*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id} - {None})


def base_key(config: FinetuneConfig) -> tuple[str, bool, bool]:
    """Name the base that a config needs."""
    return (config.model, config.load_in_4bit, config.use_liger_kernel)


def load_base(config: FinetuneConfig, device: torch.device) -> BaseModel:
    """Load the base of a config onto a device, quantised to NF4 with double quantisation if asked for.

    Raises:
        ModelError: the folder is missing, is not a causal language model, or the hub cannot be reached; or the family
            overflows in float16, and the GPU has nothing else.
        HostError: the GPU is too old for torch, or Liger's kernels are wanted and cannot run here.
        MissingPackages: it is in 4 bits, and bitsandbytes is not installed.
    """
    started = time.perf_counter()
    if config.use_liger_kernel:
        _require_liger(device)
    source = check_model(config)
    model_config = _read_config(config.model, source, trust=config.trust_remote_code)
    compute_dtype = compute_dtype_of(device, model_config.model_type)
    quantised_already = getattr(model_config, "quantization_config", None) is not None
    options: dict[str, Any] = {"dtype": compute_dtype, "device_map": {"": str(device)},
                               "trust_remote_code": config.trust_remote_code}
    if config.load_in_4bit or quantised_already:
        require_bitsandbytes()
    if config.load_in_4bit and not quantised_already:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype, llm_int8_skip_modules=kept_in_16_bits(model_config.model_type))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
        warnings = check_tokenizer(config.model, tokenizer, model_config)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, config=model_config, **options)
    except Exception as error:  # what a damaged file brings up in its libraries is of any kind
        if isinstance(error, (torch.OutOfMemoryError, MemoryError, ImportError, ModelError)):
            raise
        what = why_not_loaded(error, config.model, source)
        raise ModelError(f"cannot load the model {config.model!r}: {what}; it must be a causal language model with its "
                         f"tokenizer, as save_pretrained writes it") from error
    if beside := getattr(model, "peft_config", None):  # of a repository of the hub; of a folder it is seen before
        base = next(iter(beside.values())).base_model_name_or_path
        raise ModelError(f"{config.model} cannot be trained: it has an {ADAPTER}, so transformers has loaded that "
                         f"adapter too; {f'give its base {base}, or ' if base != config.model else ''}merge the two "
                         f"with peft's merge_and_unload and save_pretrained")
    freeze(model, compute_dtype)
    use_causal_attention(model, groups=(device.type != "cuda"
                                        or torch.cuda.get_device_capability(device) >= GROUPING_CAPABILITY))
    if config.use_liger_kernel:
        apply_liger(model)
    set_padding(tokenizer)
    if config.load_in_4bit:
        warnings += left_in_16_bits(model)
    structures = structures_of(model)
    try:
        strange = (structures if isinstance(structures, str) else
                   "" if agrees(model, structures, compute_dtype, device) else
                   "it looks known and computes something else")
        exact = own_head(model) and _own_head_is_exact(model, device)
    except TypeError as error:  # transformers 5.0 takes a text for a number until it computes with it
        if not type(model).__module__.startswith("transformers."):
            raise  # the model's own code
        raise _unreadable(config.model, source, error) from error
    return BaseModel(key=base_key(config), model=model, tokenizer=tokenizer, device=device,
                     compute_dtype=compute_dtype, sha256=_sha256_of(source, model_config),
                     own_head=exact, seconds=time.perf_counter() - started, warnings=tuple(warnings),
                     strange_layers=strange)


def check_model(config: FinetuneConfig) -> str:
    """Check what the `model` hyperparameter names without its weights, and return what transformers loads.

    Raises:
        ModelError: it is missing, or cannot be trained here.
    """
    source = model_source(config.model)
    try:
        values, _ = transformers.PreTrainedConfig.get_config_dict(source)
        family = values.get("model_type")  # the file may hold a list
    except ImportError:
        raise
    except Exception as error:
        raise _unreadable(config.model, source, error) from error
    check_config(config.model, values, trust=config.trust_remote_code, has_adapter=Path(source, ADAPTER).is_file())
    if not family:  # it may have code of its own, and transformers 5.0 knows some by their names
        _read_config(config.model, source, trust=config.trust_remote_code)
    return source


def left_in_16_bits(model: torch.nn.Module) -> list[str]:
    """Say which part of a model's layers was not quantised, where that is most of them; embeddings do not count."""
    packed = sum(layer.in_features * layer.out_features for layer in linear_layers_4bit(model))
    ends = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore
            if part is not None}
    left: Counter[str] = Counter()
    for module in model.modules():
        if not is_packed(module):
            for parameter in module._parameters.values():
                if parameter is not None and parameter.dim() > 1 and id(parameter) not in ends:
                    left[type(module).__name__] += parameter.numel()
    whole = packed + left.total()
    if not whole or left.total() / whole <= MOST_LEFT:
        return []
    shares = ", ".join(f"{name} {count / whole:.0%}" for name, count in left.most_common(3))
    return [f"warning: load_in_4bit leaves {left.total() / whole:.0%} of the layers in 16 bits ({shares}), because "
            f"bitsandbytes quantises plain linear layers only; the forecast of memory counts what is really there"]


def compute_dtype_of(device: torch.device, model_type: str = "") -> torch.dtype:
    """Choose the dtype of the matrix products of a family of models on a device of this machine.

    float32 on a CPU: exact. Where bfloat16 is much faster the worker chooses it, see `cpu_speed`.

    Raises:
        HostError: the GPU is too old for torch.
        ModelError: the family needs bfloat16, and the GPU has none.
    """
    if device.type != "cuda":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability < MINIMUM_CAPABILITY:
        raise HostError(f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, "
                        f"torch has no kernels below 7.0; choose a T4")
    return half_dtype(capability, model_type)


def computing_in(base: BaseModel, dtype: torch.dtype) -> BaseModel:
    """Have a base on a CPU compute its matrix products in another dtype; its weights stay as they are.

    The model is the same one: the base that was given must not be used any more.
    """
    for layer in linear_layers_4bit(base.model):
        layer.compute_dtype = dtype
    return replace(base, compute_dtype=dtype)


def half_dtype(capability: tuple[int, int], model_type: str) -> torch.dtype:
    """Choose the 16 bits that a family computes in on a GPU: float16, or bfloat16 where float16 would overflow.

    Raises:
        ModelError: the family needs bfloat16, and below compute capability 8.0 it is only emulated.
    """
    if model_type not in OVERFLOWING:
        return torch.float16
    require_bfloat16(model_type, capability >= (8, 0))
    return torch.bfloat16


def linear_layers_4bit(model: torch.nn.Module) -> Iterator[Any]:
    """Yield the quantised linear layers of a model."""
    for module in model.modules():
        if is_packed(module):
            yield module


def _require_liger(device: torch.device) -> None:
    if importlib.util.find_spec("liger_kernel") is None:
        raise HostError("use_liger_kernel is true, but liger-kernel is not installed; run: pip install liger-kernel, "
                        "or set it to false")
    if device.type != "cuda":
        raise HostError("use_liger_kernel is true, but Liger's kernels run on GPUs only; set it to false")


def _read_config(model: str, source: str, *, trust: bool) -> Any:
    try:
        return complete_config(transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust))
    except ImportError:
        raise
    except Exception as error:
        raise _unreadable(model, source, error) from error


def _unreadable(model: str, source: str, error: Exception) -> ModelError:
    if isinstance(error, MemoryError):
        raise error
    what = useful_line(error)
    raise_refusal(error, model, ModelError)
    if "model_type" in what:
        refuse_contents(model, source, surely=True)
    if Path(source).is_dir() or not isinstance(error, OSError) or "not a valid JSON" in what:
        return ModelError(f"{model} is not a model: {what}; mend its config.json, or get it again")
    return ModelError(f"cannot get the model {model!r} from the hub: {what}; check the name and the network, or give a "
                      f"local folder")


def freeze(model: torch.nn.Module, compute_dtype: torch.dtype) -> None:
    """Let no parameter of a model be trained; bring those that are not 4-bit to a dtype that they compute in."""
    model.requires_grad_(False)
    for parameter in model.parameters():
        # A checkpoint that was quantised elsewhere keeps its own dtypes, mostly bfloat16, whatever was asked for.
        if parameter.is_floating_point() and type(parameter).__name__ != "Params4bit":
            parameter.data = parameter.data.to(compute_dtype)
    for name, module in model.named_modules():
        # Norms in float32: their weights are tiny and float16 costs accuracy; embeddings and head stay as they are,
        # float32 copies of them would take 2 GiB of an 8B model.
        if "norm" in type(module).__name__.lower() or name.rsplit(".", 1)[-1].startswith("ln_"):
            module.to(torch.float32)
            if compute_dtype is not torch.float32:
                # What follows takes it in this dtype anyway: cast once here, and not kept in float32 by every adapter.
                module.register_forward_hook(CastTo(compute_dtype))
    for layer in linear_layers_4bit(model):
        layer.compute_dtype = compute_dtype
        layer.compute_type_is_set = True
        # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weight for a path without a backward,
        # and every later gradient is wrong (bitsandbytes 0.50, nn/modules.py).
        layer.support_avx512bf16_for_cpu = False


@torch.no_grad()
def _own_head_is_exact(model: Any, device: torch.device) -> bool:
    """Check that decoder, output matrix and cap give the model's own logits; some families scale them."""
    model.eval()
    head = model.get_output_embeddings()
    decoder = getattr(model, model.base_model_prefix)
    tokens_BT = torch.arange(8, device=device).unsqueeze(0) % model.config.get_text_config().vocab_size
    dtype = head.weight.dtype
    with torch.autocast(device.type, dtype=dtype, enabled=device.type == "cuda"):
        hidden_BTD = decoder(input_ids=tokens_BT, use_cache=False).last_hidden_state
        own_BTV = logits_of(head, logit_cap(model), hidden_BTD)
        full_BTV = model(input_ids=tokens_BT, use_cache=False).logits.float()
    return torch.allclose(own_BTV, full_BTV, atol=1e-3, rtol=1e-3)


def _sha256_of(source: str, model_config: Any) -> str:
    folder = Path(source)
    if not folder.is_dir():
        return f"commit:{getattr(model_config, '_commit_hash', None) or 'unknown'}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".model", ".txt"):
            with open(path, "rb") as file:
                digest.update(json.dumps([path.name, hashlib.file_digest(file, "sha256").hexdigest()]).encode())
    return digest.hexdigest()
