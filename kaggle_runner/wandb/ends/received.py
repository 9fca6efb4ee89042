"""What W&B received of a run: read back from the server, because the client ends in silence when its stream is refused.

A storage quota, a key that was revoked, a run that was deleted: the server answers the stream with 401, 403, 404 or
409, the client keeps the rest in its file, and `finish` returns as if nothing had happened.
"""

import json
import time
from pathlib import Path

from kaggle_runner.wandb.answers import ask_run
from kaggle_runner.wandb.connection import GiveUp

READ_S = 20.0
"""Seconds until the server must show a run's end that the client says it has sent."""
_POLL_S = 0.5
_OPEN = ("running", "pending", "preempting")


def what_is_missing(path: str, files: Path, give_up: GiveUp, *, goes_back: bool) -> str:
    """Say why W&B lacks the end of a run that the client has finished; empty if it has it.

    `path` is the run's, `files` its folder here. Of one that `goes_back` to the queue another agent may make a
    running one at once, so only a refused stream counts.
    """
    refusal = refusal_of(files)
    if goes_back and not refusal:
        return ""
    state, until = "unknown", time.monotonic() + READ_S
    while time.monotonic() < until:
        answer, seen = ask_run(path)
        if seen.state != "unknown":
            state = seen.state
            if state not in _OPEN or refusal:
                break
        elif answer.trouble:
            refusal = refusal or answer.trouble
        if give_up():
            return refusal
        time.sleep(_POLL_S)
    if state in (*_OPEN, "crashed", "gone", "unknown") or refusal:
        return f"{refusal or 'it took everything'}; the run is {state} there"
    return ""


def refusal_of(files: Path) -> str:
    """Return what the server answered to a run's stream, from the client's own log; empty if it took it."""
    try:
        lines = (files / "logs" / "debug-internal.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        if "filestream: fatal error" in line:
            try:
                said = str(json.loads(line)["msg"])
            except (ValueError, LookupError, TypeError):
                said = line
            return " ".join(said.split("failed to upload: ")[-1].split())[:300]
    return ""


def upload_line(path: str, files: Path, *, is_gone: bool) -> str:
    """Write the command that uploads what a run has here; W&B takes no deleted run's id again.

    Without `--include-online` the client passes over a run that was begun online, with exit status 0.
    """
    run = path.rsplit("/", 1)[1]
    return f"wandb sync --include-online {f'--id {run}-again ' if is_gone else ''}{files}"
