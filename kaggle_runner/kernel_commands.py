"""Run a kernel's command to its end: one process, or as many as there are GPUs to be agents on.

They are children, so whatever becomes of one, an exception, a signal or no memory, its starter is there to say so.
"""

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kaggle_runner.secrets import redact

INTERRUPTED = 130
GRACE_S = 120.0
"""Time to checkpoint and close after a request to stop."""
REASON_LINES = 12
POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    exit_status: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of this package, as a process."""

    arguments: Sequence[str]
    environ: Mapping[str, str]
    label: str = ""
    """Stands before each line that it prints, where there are several."""


class _Process:
    """One running command: its output is passed on line by line, without the values of keys."""

    def __init__(self, command: Command, working: Path, secrets: Sequence[str]) -> None:
        self.command = command
        self._last_lines: deque[str] = deque(maxlen=200)
        self._killer: threading.Timer | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kaggle_runner", *command.arguments], cwd=working, env=dict(command.environ),
            text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._readers = [
            threading.Thread(target=_pass_on, args=(stream, sink, command.label, secrets, kept), daemon=True)
            for stream, sink, kept in ((self._process.stdout, sys.stdout, None),
                                       (self._process.stderr, sys.stderr, self._last_lines))]
        for reader in self._readers:
            reader.start()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, number: signal.Signals) -> None:
        """Ask for the end; after the grace it is not asked."""
        if not self.is_running():
            return
        self._process.send_signal(number)
        if self._killer is None:
            self._killer = threading.Timer(GRACE_S, self._process.kill)
            self._killer.daemon = True
            self._killer.start()

    def outcome(self) -> Outcome:
        """Say how it ended."""
        for reader in self._readers:
            reader.join(timeout=10)
        if self._killer:
            self._killer.cancel()
        status = self._process.returncode
        if status < 0:
            name = signal.Signals(-status).name
            killed = ", as a machine does when its memory is full" if name == "SIGKILL" else ""
            return Outcome(exit_status=128 - status, reason=f"the command was ended by {name}{killed}")
        return Outcome(exit_status=status, reason=reason_of(self._last_lines) if status else "")


def run_commands(commands: Sequence[Command], working: Path, secrets: Sequence[str] = (), *,
                 stop_at: float | None = None) -> list[Outcome]:
    """Run commands side by side until the last one has ended; return how each did, in their order.

    SIGTERM and an interrupt are handed to all of them, with time to close. So is a SIGTERM at the Unix time `stop_at`:
    for a command that does not keep its own deadline. The values of `secrets` are blotted out of what they print.
    """
    processes = [_Process(command, working, secrets) for command in commands]
    with _handing_on_stops(processes):
        while any(process.is_running() for process in processes):
            try:
                time.sleep(POLL_S)
                if stop_at is not None and time.time() >= stop_at:
                    stop_at = None
                    print("the session is nearly over: end what still runs", file=sys.stderr, flush=True)
                    for process in processes:
                        process.stop(signal.SIGTERM)
            except KeyboardInterrupt:
                for process in processes:
                    process.stop(signal.SIGINT)
    return [process.outcome() for process in processes]


def combine(outcomes: Sequence[Outcome]) -> Outcome:
    """Make one outcome of several: the first failure, else the first that was interrupted, else the first."""
    def rank(outcome: Outcome) -> int:
        return {0: 2, INTERRUPTED: 1}.get(outcome.exit_status, 0)

    return min(outcomes, key=rank)


def reason_of(lines: Sequence[str]) -> str:
    """Take the reason of a failure from the last lines of stderr: our own error block, else the last line."""
    kept = [line for line in lines if line.strip()]
    ours = [number for number, line in enumerate(kept) if line.startswith("error: ")]
    if ours:
        return "\n".join(kept[ours[-1]:][:REASON_LINES]).removeprefix("error: ")
    return kept[-1] if kept else "it said nothing"


def _pass_on(stream: IO[str], sink: IO[str], label: str, secrets: Sequence[str], kept: deque[str] | None) -> None:
    with stream:
        for line in stream:
            clean = redact(line, secrets)
            if kept is not None:
                kept.append(clean.rstrip("\n"))
            sink.write(f"{label}{clean}")  # in one piece: two agents write at the same time
            sink.flush()


@contextmanager
def _handing_on_stops(processes: Sequence[_Process]) -> Iterator[None]:
    """Hand SIGTERM on to the commands while they run; only a main thread may have a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: object) -> None:
        for process in processes:
            process.stop(signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
