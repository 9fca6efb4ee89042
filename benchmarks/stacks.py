"""What the benchmarks compare: one training run by one stack, in a process of its own.

All stacks get the same rows, cut and masked by `tokens.py`, the same base in the same dtype, adapter, micro-batch,
accumulation, optimizer, learning rate of every step, and threads. What differs is what a stack does by itself.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_runner.run.worker_process import speaks_of_memory

STACKS = {"ours": "kaggle_runner", "before": "kaggle_runner", "hf": "transformers", "trl": "trl", "unsloth": "unsloth"}
"""Each stack and the package that must be there for it; `before` is ours with the layers of transformers and peft."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run."""

    stack: str
    config: Mapping[str, Any]
    """The hyperparameters, by the field names of FinetuneConfig."""
    directory: str
    """The adapter and the outcome go here."""
    cache: str
    """The tokens are kept here: every stack reads the same file."""
    threads: int
    gpu: str | None = None
    """What CUDA_VISIBLE_DEVICES is set to; none: train on the CPU."""
    cap_bytes: int | None = None
    """Most that torch may take of the GPU; none: all of it."""
    as_t4: bool = False
    """Attend with the kernels that torch has for a T4, on whatever GPU, and without the packages that bring others."""
    names_attention: bool = False
    """Record which attention ran: torch's profiler watches the first optimizer step, which nobody times."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run measured; the numbers are zero where it did not end as `trained`."""

    stack: str
    status: str
    """`trained`, `out_of_memory`, `missing` where the stack is not installed, or `failed`."""
    detail: str = ""
    tokens: int = 0
    """Tokens of real text that went through the model in all optimizer steps, prompts included, padding not."""
    padding_share: float = 0.0
    """Share of padding among all tokens that went through the model."""
    seconds: float = 0.0
    """Wall time of the optimizer steps alone: no loading, no tokenising, no evaluation."""
    cpu_seconds: float = 0.0
    """CPU time of the same: says more than the wall on a machine that others use too."""
    step_tokens: Sequence[int] = ()
    """`tokens` of each optimizer step."""
    step_seconds: Sequence[float] = ()
    """Wall time of each optimizer step."""
    attention: Sequence[str] = ()
    """Names of the attention kernels that ran, where they were recorded."""
    start_bytes: int = 0
    """In use before the adapter was attached: device bytes on CUDA, else resident bytes of the process."""
    peak_bytes: int = 0
    """Most in use at once from then on."""
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_apart(run: Run, timeout_s: float = 3600.0) -> Outcome:
    """Carry out a run in a process of its own, and return what it measured; never raises for what the run does."""
    directory = Path(run.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(dataclasses.asdict(run)))
    # the variables that the supervisor sets for its worker, for every stack
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": run.gpu or "", "OMP_NUM_THREADS": str(run.threads),
        "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "UNSLOTH_DISABLE_STATISTICS": "1",  # else it waits two minutes for a network
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]).strip(":")}
    command = [sys.executable, str(Path(__file__).with_name("train_once.py")), str(directory / "run.json")]
    with open(directory / "log.txt", "w+") as log:
        try:
            status = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=timeout_s).returncode
        except subprocess.TimeoutExpired:
            return Outcome(stack=run.stack, status="failed", detail=f"not done after {timeout_s:.0f} s")
        log.seek(0)
        lines = log.read().strip().splitlines() or [f"exit status {status}"]
    if status == 0:
        return Outcome(**json.loads((directory / "outcome.json").read_text()))
    memory_lines = [line for line in lines[-20:] if speaks_of_memory(line)]
    out_of_memory = bool(memory_lines) or status == -signal.SIGKILL
    return Outcome(stack=run.stack, status="out_of_memory" if out_of_memory else "failed",
                   detail=(memory_lines or lines)[-1])
