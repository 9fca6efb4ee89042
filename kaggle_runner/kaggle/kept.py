"""Keep what a launcher holds of this package from one push to the next: to make it takes five seconds."""

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import kaggle_runner
from kaggle_runner.files import read_checked, write_checked


def kept(name: str, make: Callable[[], str]) -> str:
    """Return the text that `make` makes of this package's files: the kept one, as long as no file has changed.

    It lies where Python keeps the bytecode of this module. Where nothing can be written, nothing is kept.
    """
    path = Path(importlib.util.cache_from_source(__file__)).with_name(f"launcher-{name}.json")
    files = _digest_of_files()
    with contextlib.suppress(OSError, ValueError):
        there = read_checked(path)
        if there and there.get("files") == files:
            return str(there["text"])
    text = make()
    with contextlib.suppress(OSError):
        write_checked(path, {"files": files, "text": text})
    return text


def _digest_of_files() -> str:
    """Return a digest of this package's text files, and of the Python that reads them."""
    root, state = Path(kaggle_runner.__file__).parent, hashlib.sha256(sys.version.encode())
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and not {"__pycache__", "demo_base"} & set(inside.parts):
            content = path.read_bytes()
            state.update(f"{inside} {len(content)}\n".encode() + content)
    return state.hexdigest()
