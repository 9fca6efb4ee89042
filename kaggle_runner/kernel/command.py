"""Run a kernel's command to its end, as a child process.

So whatever becomes of it, an exception, a signal or no memory, its starter is there to say so.
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

from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.machine.broken import OF_REPORTS, find_crash
from kaggle_runner.machine.keys import redact

GRACE_S = 120.0
"""Seconds that a command gets to write a checkpoint and close, after a request to stop."""
REASON_LINES = 12


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How the command ended."""

    exit_status: int
    reason: str = ""


def run_command(arguments: Sequence[str], working: Path, environ: Mapping[str, str], secrets: Sequence[str] = (), *,
                stop_at: float | None = None, grace_s: float = GRACE_S) -> CommandEnd:
    """Run the command, passing its output on line by line without the values of `secrets`.

    SIGTERM and an interrupt are handed to it, with time to close. So is a SIGTERM at the Unix time `stop_at`, for a
    command that does not keep its own deadline. One that was asked and had no say, because it still imported or did not
    close in time, was interrupted as any other. One that crashes at the import of what it can do without runs again.
    """
    environ = {**environ, "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen([sys.executable, "-P", "-m", "kaggle_runner", *arguments], cwd=working, env=environ,
                               text=True, errors="replace", stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    last_lines: deque[str] = deque(maxlen=1000)
    readers = [threading.Thread(target=_pass_on, args=(stream, sink, secrets, kept), daemon=True)
               for stream, sink, kept in ((process.stdout, sys.stdout, None), (process.stderr, sys.stderr, last_lines))]
    for reader in readers:
        reader.start()
    asked: list[str] = []
    with _handing_on_stops(process, asked, grace_s):
        while True:
            try:
                status = process.wait(None if stop_at is None else max(0.0, stop_at - time.time()))
                break
            except KeyboardInterrupt:
                _stop(process, signal.SIGINT, asked, grace_s)
            except subprocess.TimeoutExpired:
                stop_at = None
                print("the session is nearly over: end what still runs", file=sys.stderr, flush=True)
                _stop(process, signal.SIGTERM, asked, grace_s)
    for reader in readers:
        reader.join(timeout=10)
    if status < 0:
        name = signal.Signals(-status).name
        if name in asked:
            return CommandEnd(exit_status=INTERRUPTED, reason=f"ended by {name}; what it had recorded is kept")
        if broken := find_crash("\n".join(last_lines), status, environ, OF_REPORTS):
            if broken.is_needed:
                return CommandEnd(exit_status=128 - status, reason=broken.text)
            print(f"warning: {broken.as_hidden}: the command starts again without it", file=sys.stderr, flush=True)
            return run_command(arguments, working, broken.hidden_in(environ), secrets, stop_at=stop_at)
        killed = ", as a machine does when its memory is full" if name == "SIGKILL" else ""
        return CommandEnd(exit_status=128 - status, reason=f"the command was ended by {name}{killed}")
    return CommandEnd(exit_status=status, reason=reason_of(last_lines) if status else "")


def reason_of(lines: Sequence[str]) -> str:
    """Take the reason of a failure from the last lines of stderr: our own error block, else the last line."""
    kept = [line for line in lines if line.strip()]
    ours = [number for number, line in enumerate(kept) if line.startswith("error: ")]
    if ours:
        return "\n".join(kept[ours[-1]:][:REASON_LINES]).removeprefix("error: ")
    return kept[-1] if kept else "it said nothing"


def _pass_on(stream: IO[str], sink: IO[str], secrets: Sequence[str], kept: deque[str] | None) -> None:
    with stream:
        for line in stream:
            clean = redact(line, secrets)
            if kept is not None:
                kept.append(clean.rstrip("\n"))
            print(clean, end="", file=sink, flush=True)


@contextmanager
def _handing_on_stops(process: subprocess.Popen[str], asked: list[str], grace_s: float) -> Iterator[None]:
    """Hand SIGTERM on to the command while it runs; only a main thread may have a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, lambda *_: _stop(process, signal.SIGTERM, asked, grace_s))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _stop(process: subprocess.Popen[str], number: signal.Signals, asked: list[str], grace_s: float) -> None:
    def end() -> None:
        asked.append("SIGKILL")
        process.kill()

    asked.append(number.name)
    process.send_signal(number)
    timer = threading.Timer(grace_s, end)
    timer.daemon = True
    timer.start()
