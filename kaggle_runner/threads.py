"""How many threads train fastest on this CPU: measured once for a base and a batch, and remembered.

A small model is faster on one thread than on many that wait for each other. The choice is kept on disk, because
another number of threads may round differently: the same machine then gives the same losses again.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kaggle_runner.study import write_atomically

REPEATS = 3
WORTH_IT = 0.85
"""More threads must take at most this share of the time, or fewer stay."""


def choose_threads(batch: Callable[[], object], *, most: int, cache_directory: Path, key: str) -> tuple[int, str]:
    """Set torch to the number of threads, 1, 2, 4 and so on up to `most`, that runs a batch fastest.

    Returns the number and a sentence with what was measured. The first answer for a `key` is taken again later.
    """
    path = cache_directory / "threads" / f"{key}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        torch.set_num_threads(kept["threads"])
        return kept["threads"], kept["reason"]
    counts = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    seconds = {count: _seconds(batch, count) for count in counts}
    best = counts[0]
    for count in counts[1:]:
        if seconds[count] < WORTH_IT * seconds[best]:
            best = count
    torch.set_num_threads(best)
    measured = ", ".join(f"{count}: {seconds[count] * 1000:.0f} ms" for count in counts)
    reason = f"{best} CPU thread{'s' if best > 1 else ''} (a batch takes, by threads, {measured})"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"threads": best, "reason": reason}) + "\n")
    return best, reason


def _seconds(batch: Callable[[], object], count: int) -> float:
    torch.set_num_threads(count)
    batch()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        batch()
        times.append(time.perf_counter() - started)
    return min(times)
