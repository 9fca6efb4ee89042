"""Where a model is, and its tokenizer without the model: what looks at rows needs no weights and no torch."""

import contextlib
import json
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_MODEL, FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.mounts import mounted_at
from kaggle_runner.training.hub import NO_ANSWER, files_of, raise_refusal, useful_line

ADAPTER = "adapter_config.json"


def load_tokenizer(config: FinetuneConfig) -> Any:
    """Load the tokenizer of a config's model and nothing else.

    Torch stays out of a process that has not imported it, which saves seconds; a tokenizer with code of its own may
    need it.

    Raises:
        ModelError: the folder is missing, the hub cannot be reached, or there is no tokenizer.
    """
    source = model_source(config.model)
    if not config.trust_remote_code and "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # what Python itself takes as "is not there"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it says that there is no torch
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # what a damaged file brings up in its libraries is of any kind
        what = why_not_loaded(error, config.model, source)
        check = "check the name and the network, or " if isinstance(error, OSError) else ""
        raise ModelError(f"cannot load the tokenizer of {config.model!r}: {what}; {check}give a folder that "
                         f"save_pretrained wrote") from error


def model_source(model: str) -> str:
    """Turn the `model` hyperparameter into what transformers loads: a folder, or a hub id as it is.

    Raises:
        ModelError: it reads like a folder and is none.
    """
    if model == DEMO_MODEL:
        return str(files("kaggle_runner.training") / "demo_base")
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            below = next((f"; {found.parent} in it has one" for deep in ("*", "*/*", "*/*/*")
                          for found in sorted(path.glob(f"{deep}/config.json"))), "")
            refuse_contents(model, str(path), below, surely=True)
        return str(path)
    if path.is_file():
        raise ModelError(f"{model} is a file, not a model; give the folder with config.json, or a hub id")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ModelError(f"the model folder {model} does not exist{mounted_at(path, 'config.json')}; give an "
                         f"existing folder, or a hub id like 'owner/name'")
    return model


def why_not_loaded(error: Exception, model: str, source: str) -> str:
    """Return the useful line of an error that came of loading a model's files.

    Raises:
        ModelError: the hub refused them, or what is there is no model.
    """
    raise_refusal(error, model, ModelError)
    what = useful_line(error)
    if not what.startswith(NO_ANSWER):
        refuse_contents(model, source)
    return what


def refuse_contents(model: str, source: str, below: str = "", *, surely: bool = False) -> None:
    """Say what a folder, or a repository of the hub, holds in a model's place; returns where that may be a model.

    Raises:
        ModelError: an adapter, GGUF files, or `surely` no model.
    """
    names = os.listdir(source) if os.path.isdir(source) else files_of(source)
    if ADAPTER in names and "config.json" not in names:
        from transformers.utils.hub import cached_file

        base = "its base"
        with contextlib.suppress(Exception):  # what it says is a help, and no more
            said = json.loads(Path(str(cached_file(source, ADAPTER))).read_text())
            base = f"its base {said['base_model_name_or_path']}"
        raise ModelError(f"{model} is an adapter, not a model: it has an {ADAPTER} and no config.json; give {base}, or "
                         f"merge the two with peft's merge_and_unload and save_pretrained")
    endings = {Path(name).suffix for name in names}
    if ".gguf" in endings and not endings & {".safetensors", ".bin"}:
        raise ModelError(f"{model} holds GGUF files, which nothing is trained on; give its original in 16 bits")
    if surely or (names and "config.json" not in names):
        raise ModelError(f"{model} is not a model: it has no config.json with a model_type{below}; give a folder that "
                         f"save_pretrained wrote, or a hub id")
