"""The other processes of a training, started and watched by its first one: workers as it is, with a GPU of their own.

They hear requests on a pipe of the first one's, so they end when it does; when one of them ends, it is told at once.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kaggle_runner.events import Event, Failed, Train
from kaggle_runner.run.child import ChildProcess
from kaggle_runner.run.worker_process import TEAM_VARIABLE, system_oom_kills

WAIT_S = 3.0
"""Seconds in which a process that is gone is found out, when the first one's own call has failed over it."""

ALIKE = ("not_finite", "foreign_checkpoint", "foreign_rows")
"""Failures of all processes at once, for the first one to tell."""
OF_THE_MEETING = ("gloo", "closed by peer", "reset by peer")
"""Words of an error that another process is the cause of: it has left the meeting, or is gone."""
FollowerFailed = Callable[[str, str], None]
"""Takes what kind of failure it was and a sentence that says so."""


class Followers:
    """All processes of a training but the first."""

    def __init__(self, gpus: Sequence[str], failed: FollowerFailed) -> None:
        self._gpus, self._failed = tuple(gpus), failed
        self._children: list[ChildProcess] = []
        self._told = threading.Event()

    @property
    def processes(self) -> int:
        """How many there are, the first one counted."""
        return len(self._gpus) + 1

    def train(self, request: Train, rendezvous: Path) -> None:
        """Have all of them train what the first one trains; those that do not run are started."""
        if not self._children:
            self._oom_kills = system_oom_kills()
            self._children = [self._start(rank, gpu) for rank, gpu in enumerate(self._gpus, start=1)]
        for rank, child in enumerate(self._children, start=1):
            child.send(replace(request, rank=rank, processes=self.processes, rendezvous=str(rendezvous)).to_json())

    def has_failed(self) -> bool:
        """Say whether one of them is to blame for what has just gone wrong here; waits a moment for it."""
        return bool(self._gpus) and self._told.wait(WAIT_S)

    def _start(self, rank: int, gpu: str) -> ChildProcess:
        child: list[ChildProcess] = []
        started = threading.Event()

        def take(event: Event | None) -> None:
            started.wait()
            self._take(rank, child[0], event)

        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, TEAM_VARIABLE: json.dumps([])}
        child.append(ChildProcess("kaggle_runner.run.worker", environ=environ, take=take, own_session=False))
        started.set()
        return child[0]

    def _take(self, rank: int, child: ChildProcess, event: Event | None) -> None:
        name = f"process {rank + 1} of {self.processes}"
        if isinstance(event, Failed) and event.failure not in ALIKE and not any(
                word in event.message for word in OF_THE_MEETING):
            kind = "out_of_memory" if event.failure == "out_of_memory" else "error"
            self._tell(kind, f"{name}: {event.message}")
        elif event is None:
            status = child.wait(WAIT_S)
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            for_memory = status == -signal.SIGKILL and self._oom_kills != system_oom_kills()
            self._tell("out_of_memory" if for_memory else "crash",
                       f"{name} {how}{', most likely by the system for its memory' if for_memory else ''}")

    def _tell(self, kind: str, text: str) -> None:
        self._told.set()
        self._failed(kind, text)
