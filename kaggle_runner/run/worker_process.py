"""The supervisor's end of a worker: start it pinned to a GPU, talk to it, and be sure that it is gone.

Everything the worker and its libraries print goes to `worker.log` in the study directory.
"""

import contextlib
import json
import os
import queue
import signal
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.errors import WorkerError
from kaggle_runner.events import Event, Request
from kaggle_runner.machine.broken import DUMP, BrokenPackage, find_crash
from kaggle_runner.run.child import ChildProcess, package_path

STOP_GRACE_S = 5.0
TEAM_VARIABLE = "KAGGLE_RUNNER_TEAM"
"""Names the GPUs of the processes that a worker trains with, as JSON; an empty one is a process without a GPU."""
OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc",
                       "not enough memory", "cublas_status_alloc_failed")
"""Torch's CUDA and CPU allocators, the C library, C++, bitsandbytes and cuBLAS, in lower case."""


PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""For a process that imports torch: threads that spin while they wait take the cores from everybody else."""


@dataclass(frozen=True, kw_only=True)
class WorkerPatience:
    """How long the supervisor waits for a sign of life before it ends a worker, in seconds."""

    loading_s: float = 3600.0
    """From a request to the first step: a model may have to be downloaded."""
    step_s: float = 900.0
    """Between two events of a running trial."""
    loading_stop_s: float = 5.0
    """From a request to end to the end of a worker that still loads, measures or forecasts: nothing is lost by it."""
    stop_s: float = 900.0
    """From a request to stop to the end of a trial: a step and an evaluation, which takes minutes for a 7B on a T4."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How to start a worker."""

    log: Path
    cache_directory: Path
    threads: int
    trainer: str = "finetune"
    """What to import at the start; any other is imported when its first trial comes."""
    gpu: str | None = None
    """What CUDA_VISIBLE_DEVICES is set to; none hides every GPU."""
    offline: bool = False
    """Forbid hub look-ups: nothing the study needs is on the hub."""
    cores: frozenset[int] | None = None
    """CPU cores that the worker may use; none for all."""
    team: tuple[str, ...] | None = None
    """What CUDA_VISIBLE_DEVICES of each further process of one training is set to; none: it trains trials, alone."""


class WorkerDied(WorkerError):
    """The worker process ended without being asked to."""

    def __init__(self, exit_status: int, last_lines: str, killed_for_memory: bool,
                 broken: BrokenPackage | None = None) -> None:
        self.worker_status = exit_status
        """Of the worker; that of the command stays 1, as for every error."""
        self.out_of_memory = killed_for_memory or speaks_of_memory(last_lines)
        self.broken = None if self.out_of_memory else broken
        """The package whose import it crashed at."""
        how = f"killed by {signal.Signals(-exit_status).name}" if exit_status < 0 else f"exit status {exit_status}"
        if killed_for_memory:
            how += ", most likely by the system for its memory"
        super().__init__(f"the worker ended: {how}" + (f"; it last said: {last_lines}" if last_lines else ""))


class WorkerProcess:
    """One running worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._log = open(settings.log, "ab")  # noqa: SIM115 - lives as long as the process
        self._log_start = self._log.tell()
        self._oom_kills = system_oom_kills()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._child = ChildProcess("kaggle_runner.run.worker", environ=_environment(settings), stderr=self._log,
                                   take=self._events.put, cores=settings.cores)

    @property
    def pid(self) -> int:
        """Process id, also of its session and process group."""
        return self._child.pid

    def send(self, request: Request) -> None:
        """Send one request.

        Raises:
            WorkerDied: there is nobody to read it.
        """
        try:
            self._child.send(request.to_json())
        except BrokenPipeError as error:
            raise self._died() from error

    def receive(self, timeout_s: float) -> Event | None:
        """Wait for the next event; none when nothing came in time.

        Raises:
            WorkerDied: the process ended and everything it sent was read.
        """
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if event is None:
            raise self._died()
        return event

    def close(self) -> None:
        """End the process: by closing its input, then by force; returns when it is gone."""
        self._child.close(STOP_GRACE_S)
        self._log.close()

    def kill(self) -> None:
        """End the process and everything it started, at once."""
        self._child.kill()

    def last_lines(self, count: int = 3) -> str:
        """Return the last lines that this worker printed, joined; of a crash what it was, without where."""
        said, dump, crash = self._printed().rpartition(DUMP)
        lines = [line.strip() for line in [*said.splitlines(), *(dump + crash).splitlines()[:1 if dump else None]]]
        return " | ".join([line for line in lines if line][-count:])

    def _printed(self) -> str:
        with open(self._settings.log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def _died(self) -> WorkerDied:
        status = self._child.wait(STOP_GRACE_S)
        killed_for_memory = status == -signal.SIGKILL and (
            self._oom_kills is None or system_oom_kills() != self._oom_kills)
        return WorkerDied(status, self.last_lines(), killed_for_memory,
                          find_crash(self._printed(), status, os.environ))


def speaks_of_memory(text: str) -> bool:
    """Say whether an error message is about memory that ran out."""
    return any(words in text.lower() for words in OUT_OF_MEMORY_WORDS)


def system_oom_kills() -> int | None:
    """Return how many processes the system has killed for memory so far; none where it does not say.

    Source: `oom_kill` of cgroup v2's memory.events, else of /proc/vmstat.
    """
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def _environment(settings: WorkerSettings) -> dict[str, str]:
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": settings.gpu if settings.gpu is not None else "",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KAGGLE_RUNNER_THREADS": str(settings.threads),
        "KAGGLE_RUNNER_TRAINER": settings.trainer,
        "KAGGLE_RUNNER_CACHE": str(settings.cache_directory),
        "OMP_NUM_THREADS": str(settings.threads),
        "OPENBLAS_NUM_THREADS": str(settings.threads),  # Optuna sets it to 1 in its own process while it thinks
        **PATIENT,
        # bfloat16 on a CPU: kernels made for a shape take a megabyte each, and micro-batches have many shapes
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": package_path(os.environ),
    }
    if settings.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if settings.team is not None:
        environment[TEAM_VARIABLE] = json.dumps(settings.team)
        if Path("/sys/class/net/lo").exists():  # gloo takes what the machine's name resolves to, where that is anything
            environment["GLOO_SOCKET_IFNAME"] = "lo"
    for secret in ("WANDB_SERVICE", "WANDB_API_KEY", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        environment.pop(secret, None)  # the worker has no use for them
    return environment
