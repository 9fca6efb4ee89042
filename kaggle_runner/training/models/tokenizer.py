"""Where a model is, and its tokenizer without the model: what looks at rows needs no weights and no torch."""

import json
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_MODEL, FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.mounts import mounted_at


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
    except (OSError, ValueError, KeyError, ImportError) as error:
        from kaggle_runner.training.hub import useful_line

        raise ModelError(f"cannot load the tokenizer of {config.model!r}: {useful_line(error)}; check the name and "
                         f"the network, or give a folder that save_pretrained wrote") from error


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
            from kaggle_runner.training.models.model_check import ADAPTER, adapter_problem  # it imports transformers

            if (path / ADAPTER).is_file():
                raise adapter_problem(model, _base_of_adapter(path / ADAPTER))
            below = next((f"; {found.parent} in it has one" for deep in ("*", "*/*", "*/*/*")
                          for found in sorted(path.glob(f"{deep}/config.json"))), "")
            raise ModelError(f"{model} is not a model: the folder has no config.json{below}; give a folder that "
                             f"save_pretrained wrote, or a hub id")
        return str(path)
    if path.is_file():
        raise ModelError(f"{model} is a file, not a model; give the folder with config.json, or a hub id")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ModelError(f"the model folder {model} does not exist{mounted_at(path, 'config.json')}; give an "
                         f"existing folder, or a hub id like 'owner/name'")
    return model


def _base_of_adapter(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
