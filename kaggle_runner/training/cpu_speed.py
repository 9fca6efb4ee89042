"""How a base trains fastest on this CPU, by how many threads and in which dtype: measured once, and remembered.

A small model is faster on one thread than on many that wait for each other, and bfloat16 pays only where the processor
multiplies it. The choice is kept on disk, because other threads or another dtype round differently: the same machine
then gives the same losses again.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kaggle_runner.files import OTHER_CACHE, cannot_write, read_checked, write_checked

REPEATS = 3
WORTH_IT = 0.85
"""More threads are chosen only if they take at most this share of the time."""
WORTH_ITS_ROUNDING = 0.6
"""bfloat16 must take at most this share of float32's time, or float32 stays: three digits are given away for it."""


@dataclass(frozen=True, kw_only=True)
class CpuChoice:
    """What was chosen, and a sentence with what was measured."""

    threads: int
    dtype: str
    """`float32` or `bfloat16`."""
    reason: str

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the matrix products."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


def choose(batch: Callable[[torch.dtype], object], *, most_threads: int, cache_directory: Path, key: str,
           tries_bfloat16: bool = True) -> CpuChoice:
    """Set torch to the threads, 1, 2, 4 and so on, that run a batch fastest, then see whether bfloat16 is worth it.

    `batch` runs one in the dtype it is given. The first answer for a `key` is taken again later.
    """
    path = cache_directory / "cpu_speed" / f"{key}.json"
    again = ""
    try:
        kept = read_checked(path)
        if kept is not None:
            choice = CpuChoice(**kept)
            torch.set_num_threads(choice.threads)
            return choice
    except (OSError, ValueError, TypeError):
        again = f"; measured again, {path} is damaged"
    counts = sorted({min(2**i, most_threads) for i in range(most_threads.bit_length() + 1)})
    seconds = {}
    for count in counts:
        torch.set_num_threads(count)
        seconds[count] = _seconds(batch, torch.float32)
    best = counts[0]
    for count in counts[1:]:
        if seconds[count] < WORTH_IT * seconds[best]:
            best = count
    torch.set_num_threads(best)
    measured, dtype = ", ".join(f"{count}: {seconds[count] * 1000:.0f} ms" for count in counts), "float32"
    if tries_bfloat16:
        half, share = _bfloat16(batch)
        measured += f"; in bfloat16 {half * 1000:.0f} ms"
        dtype = "bfloat16" if share < WORTH_ITS_ROUNDING else "float32"
    choice = CpuChoice(threads=best, dtype=dtype, reason=(
        f"{best} CPU thread{'s' if best > 1 else ''}, {dtype} (a batch takes, by threads, {measured}){again}"))
    try:
        write_checked(path, asdict(choice))
    except OSError as error:
        raise cannot_write(path, error, way_out=OTHER_CACHE) from error
    return choice


def use_threads(chosen: int | None) -> None:
    """Have torch take the threads that a trial chose, if it did; with more a small model can be a hundred times slower.

    Its losses are those of the study then, to the last bit.
    """
    if chosen is not None:
        torch.set_num_threads(min(chosen, torch.get_num_threads()))


def _bfloat16(batch: Callable[[torch.dtype], object]) -> tuple[float, float]:
    """Return the best time in bfloat16, and its largest share of the float32 pass beside it.

    In turns, and by the worst of them: what else runs on the machine slows a pass down and must not look like a gain.
    """
    for dtype in (torch.bfloat16, torch.float32):
        batch(dtype)
    halves, shares = [], []
    for _ in range(REPEATS):
        half, whole = _timed(batch, torch.bfloat16), _timed(batch, torch.float32)
        halves.append(half)
        shares.append(half / whole)
    return min(halves), max(shares)


def _seconds(batch: Callable[[torch.dtype], object], dtype: torch.dtype) -> float:
    batch(dtype)
    return min(_timed(batch, dtype) for _ in range(REPEATS))


def _timed(batch: Callable[[torch.dtype], object], dtype: torch.dtype) -> float:
    started = time.perf_counter()
    batch(dtype)
    return time.perf_counter() - started
