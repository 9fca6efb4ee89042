"""Every module imports, whatever versions are installed: also the oldest that setup.py allows, those of the images."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
MODULES = sorted(".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
                 for path in (REPOSITORY / "kaggle_runner").rglob("*.py") if path.stem != "__main__")
NEEDS = {"triton_kernels": "triton"}
"""Modules that are imported only where the library is that they are written in, and that library."""
ROOMS = sorted({module.split(".")[1] for module in MODULES if "." in module})


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_of_a_room_imports_in_a_process_of_its_own(room):
    names = [name for name in MODULES if name.split(".")[1:2] == [room]
             and importlib.util.find_spec(NEEDS.get(name.split(".")[-1], "os"))]
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
