"""NumPy's BLAS on one thread while a point is chosen.

The matrices are small: more threads gain nothing, and spin while they wait, three to eight times the processor time of
the choice itself, which the trial that trains beside it lacks.
"""

import contextlib
import ctypes
import functools
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LOADED = Path("/proc/self/maps")
_LOCK = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep every OpenBLAS of this process to one thread; where none is found, all stays as it is."""
    with _LOCK:
        before = [(choose, int(threads())) for threads, choose in _libraries()]
        try:
            for choose, _ in before:
                choose(1)
            yield
        finally:
            for choose, count in before:
                choose(count)


@functools.cache
def _libraries() -> tuple[tuple[Callable[[], Any], Callable[[int], Any]], ...]:
    """Return for each OpenBLAS what asks for its threads and what sets them. Source: its interface/openblas_*.c; wheels
    of NumPy put `scipy_` before the names and `64_` behind."""
    try:
        maps = _LOADED.read_text()
    except OSError:  # not Linux
        return ()
    found = []
    for path in sorted(set(re.findall(r"/.*openblas.*\.so.*", maps))):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for before, behind in itertools.product(("scipy_", ""), ("64_", "", "_64")):
                names = [f"{before}openblas_{verb}_num_threads{behind}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    found.append((getattr(library, names[0]), getattr(library, names[1])))
                    break
    return tuple(found)
