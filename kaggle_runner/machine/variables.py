"""Which variable of the environment a library could not read: its error has the value, and seldom the name."""

import os
import subprocess
import sys

LIBRARIES = ("WANDB_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "DATASETS_", "OPTUNA_", "TORCH",
             "PYTORCH_", "CUDA_", "NCCL_", "OMP_", "MKL_", "ACCELERATE_", "BNB_", "PEFT_", "TRITON_", "MPL", "PLOTLY_",
             "SQLALCHEMY_", "PG", "GRPC_")
"""How the names begin of what the libraries read that this package works with."""
_TRY_S = 60.0


def hint(text: str, module: str = "") -> str:
    """Say for the end of an error which variable it is about; empty if that is not known.

    Its whole value stands quoted in the error. Of an error at the import of a `module` any variable may be the cause,
    which is tried out: without it a process can import the module. Else it is a library's variable.
    """
    quoted = [name for name, value in os.environ.items() if value and repr(value) in text and name not in text]
    quoted.sort(key=lambda name: not name.startswith(LIBRARIES))
    found = [name for name in quoted if _imports_without(name, module)][:1] if module else \
        [name for name in quoted if name.startswith(LIBRARIES)]
    facts = " and ".join(f"{name} is {os.environ[name]!r}" for name in found)
    return f"; {facts} in the environment: correct or unset {'it' if len(found) == 1 else 'them'}" if found else ""


def _imports_without(variable: str, module: str) -> bool:
    environ = {name: value for name, value in os.environ.items() if name != variable}
    try:
        return subprocess.run([sys.executable, "-P", "-c", f"import {module}"], env=environ, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=_TRY_S).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
