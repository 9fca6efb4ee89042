"""Where the time and the memory of a trial go."""

import contextlib
import resource
import time
from pathlib import Path

import torch


class Phases:
    """Adds up wall and CPU seconds by phase: what passed since the last call belongs to the phase named now."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def enter(self, ended: str) -> None:
        """Book the time since the last call under the phase that just ended."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.seconds[ended] = self.seconds.get(ended, 0.0) + wall - self._wall
        self.cpu_seconds[ended] = self.cpu_seconds.get(ended, 0.0) + cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    @property
    def total(self) -> float:
        """Wall seconds booked so far."""
        return sum(self.seconds.values())


def reset_peak_bytes(device: torch.device) -> None:
    """Start counting the peak anew; on a CPU where the kernel allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; see proc(5)


def peak_bytes(device: torch.device) -> int:
    """Return the most device bytes allocated at once since the reset; resident bytes of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
