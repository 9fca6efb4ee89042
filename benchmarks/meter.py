"""Clock and memory at the borders of a training run, read the same way for every stack."""

import importlib
import itertools
import re
import time
from pathlib import Path

import torch
from stacks import STACKS, Outcome
from torch.profiler import ProfilerActivity, profile

from kaggle_runner.training.phases import peak_bytes, reset_peak_bytes

ATTENTION = re.compile(r"_scaled_dot_product_(?!.*backward)|_attention_forward|flash_attn|xformers|memory_efficient")
"""What the profiler calls the kernels of torch, of flash-attn and of xformers; forward is enough."""


class Meter:
    """Measures one run: `begin` before the adapter is attached, `step` around the optimizer steps, `end` after."""

    def __init__(self, device: torch.device, *, names_attention: bool = False) -> None:
        self._device = device
        self._times: dict[int, tuple[float, float]] = {}
        self._start_bytes = self._peak_bytes = 0
        self._attention: set[str] = set()
        self._profiler = profile(activities=[ProfilerActivity.CPU]) if names_attention else None

    def begin(self) -> None:
        """Start counting the peak."""
        reset_peak_bytes(self._device)
        self._start_bytes = torch.cuda.memory_allocated() if self._device.type == "cuda" else _resident_bytes()

    def step(self, done: int) -> None:
        """Note the wall and CPU time at which so many optimizer steps are done, 0 when training begins."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        if self._profiler is not None and done == 1:
            self._profiler.stop()
            self._attention = {event.key for event in self._profiler.key_averages() if ATTENTION.search(event.key)}
        self._times[done] = (time.perf_counter(), time.process_time())
        if self._profiler is not None and done == 0:
            self._profiler.start()

    def end(self) -> None:
        """Read the peak."""
        self._peak_bytes = peak_bytes(self._device)

    def outcome(self, stack: str, steps: list[list[tuple[int, int]]]) -> Outcome:
        """Put together what was measured; `steps` has the real and the padded tokens of each micro-batch."""
        real, padded = (sum(column) for column in zip(*itertools.chain(*steps), strict=True))
        (first, first_cpu), (last, last_cpu) = self._times[0], self._times[max(self._times)]
        return Outcome(
            stack=stack, status="trained", tokens=real, padding_share=1 - real / padded, seconds=last - first,
            cpu_seconds=last_cpu - first_cpu, step_tokens=[sum(tokens for tokens, _ in step) for step in steps],
            step_seconds=[after - before for (before, _), (after, _) in itertools.pairwise(
                self._times[step] for step in sorted(self._times))],
            attention=sorted(self._attention), start_bytes=self._start_bytes, peak_bytes=self._peak_bytes,
            packages=_versions(stack))


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _versions(stack: str) -> dict[str, str]:
    modules = {name: importlib.import_module(name) for name in
               ("torch", "transformers", "peft", "bitsandbytes", STACKS[stack])}
    return {name: str(getattr(module, "__version__", "")) for name, module in modules.items()}
