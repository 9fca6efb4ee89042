"""The shapes of models: what `config.json` says of their layers, without the hub and without weights.

Common models ship as data in `shapes.json`, each with its source; any other needs its `config.json`.
"""

import difflib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_MODEL
from kaggle_runner.errors import ModelError
from kaggle_runner.training.models.tokenizer import model_source

PREQUANTISED = "-bnb-4bit"
"""Ending of the hub names of checkpoints that bitsandbytes has quantised: NF4, twice, stored for bfloat16."""
OVERFLOWING = frozenset({
    "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "glm4_moe", "glm4_moe_lite", "gpt_oss",
    "qwen3_5", "qwen3_5_text", "qwen3_moe"})
"""Families whose activations grow beyond float16's 65,504: the loss scaler would skip their steps, silently.

Source: unslothai/unsloth-zoo, model_lists.py, FORCE_FLOAT32.
"""
_NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True}


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model whose shape ships with the package."""

    title: str
    parameters: int
    """Number of parameters that its model card names; a test counts them in the shape."""
    owners: tuple[str, ...]
    """The accounts of the hub that have the model."""
    names: tuple[str, ...]
    """Names of the model on the hub, also of fine-tuned ones, which have the same shape."""
    source: str
    config: Mapping[str, Any]
    """The part of `config.json` that decides memory."""


def read_model_config(model: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the `config.json` of a model: of its folder, of a known family, or of the hub's local cache.

    Raises:
        ModelError: the folder has none, or the hub id is not known here.
    """
    if model == DEMO_MODEL or Path(model).expanduser().is_dir():
        return _read(Path(model_source(model)) / "config.json")
    owner, _, name = model.partition("/")
    known = _find(owner, name.removesuffix(PREQUANTISED))
    if known is not None:
        quantised = {"quantization_config": _NF4, "torch_dtype": "bfloat16"} if name.endswith(PREQUANTISED) else {}
        return {**known.config, **quantised}
    for cached in _hub_cache(model, environ):
        return _read(cached)
    names = [f"{owner}/{name}" for shape in known_models() for owner in shape.owners for name in shape.names]
    close = difflib.get_close_matches(model.removesuffix(PREQUANTISED), names, n=1)
    meant = f"did you mean {close[0]}? else " if close else ""
    raise ModelError(f"the shape of {model!r} is not known here; {meant}put its config.json into a folder and give "
                     f"that folder as model")


def require_bfloat16(model_type: str, has_bfloat16: bool) -> None:
    """Refuse a family that overflows in float16 on a GPU that has nothing better.

    Raises:
        ModelError: it would.
    """
    if model_type in OVERFLOWING and not has_bfloat16:
        raise ModelError(f"{model_type} models overflow in float16, and a GPU below compute capability 8.0 has no "
                         f"bfloat16; choose a Llama, Qwen2.5, Qwen3, Mistral or Phi model, or a GPU such as an L4")


@functools.cache
def known_models() -> tuple[KnownModel, ...]:
    """Return the models whose shapes ship with the package, by family and size."""
    content = json.loads((files("kaggle_runner.training.models") / "shapes.json").read_text(encoding="utf-8"))
    return tuple(KnownModel(title=title, parameters=entry["parameters"], owners=tuple(entry["owners"]),
                            names=tuple(entry["names"]), source=entry["source"], config=entry["config"])
                 for title, entry in content.items())


def _find(owner: str, name: str) -> KnownModel | None:
    for shape in known_models():
        if owner.lower() in (o.lower() for o in shape.owners) and name.lower() in (n.lower() for n in shape.names):
            return shape
    return None


def _hub_cache(model: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the `config.json` that the hub's client has downloaded. Source: huggingface_hub, cache layout."""
    home = environ.get("HF_HOME") or os.path.join(environ.get("HOME", "~"), ".cache", "huggingface")
    folder = Path(environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    yield from sorted((folder / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; save the model again") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ModelError(f"{path} names no model_type; give a folder that save_pretrained wrote, or a hub id")
    return values
