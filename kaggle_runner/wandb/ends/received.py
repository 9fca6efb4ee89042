"""What W&B received of a run: read back from the server, because the client ends in silence when its stream is refused.

A storage quota, a key that was revoked, a run that was deleted: the server answers the stream with 401, 403, 404 or
409, the client keeps the rest in its file, and `finish` returns as if nothing had happened.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from kaggle_runner.wandb.answers import ASK_EVERY_S, ask_run
from kaggle_runner.wandb.connection import GiveUp

READ_S = 20.0
"""Seconds until the server must show a run's end that the client says it has sent."""
_POLL_S = 0.5
_OPEN = ("running", "pending", "preempting")
_LONGEST = 300


class Doubt:
    """Whether W&B will ever take the begin or the end of a run, which its client tries for days: asked now and then."""

    def __init__(self, path: str, *, first_after_s: float = 0.0) -> None:
        """Prepare for the run at entity/project/run; the first question is for later."""
        self.reason = ""
        """Why it never will; empty while it may."""
        self._path, self._asked = path, time.monotonic() + first_after_s

    def is_certain(self) -> bool:
        """Say whether there is a reason, asking for it now and then."""
        if not self.reason and time.monotonic() - self._asked > ASK_EVERY_S:
            answer, seen = ask_run(self._path)
            self._asked = time.monotonic()
            if seen.state == "gone":
                self.reason = "it was deleted; the run is gone there"
            elif not answer.knows_key:
                self.reason = "its server does not know our key any more"
        return bool(self.reason)


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
        elif not answer.knows_key:
            refusal = refusal or "its server does not know our key any more"
            break
        if give_up():
            return refusal
        time.sleep(_POLL_S)
    if state in (*_OPEN, "crashed", "gone", "unknown") or refusal:
        return f"{refusal or 'it took everything'}; the run is {state} there"
    return ""


def refusal_of(files: Path) -> str:
    """Return what the server answered to a run's stream; empty if it took it.

    What the client gave up by itself is no answer: the run's state tells what came of it.
    """
    return next((said for said, _ in _failures(files, "filestream: fatal error") if "context canceled" not in said), "")


def refused_file(files: Path, name: str = "") -> str:
    """Return what the server answered when it last refused a file of a run, or any file of it; empty if it took all."""
    return next((said for said, about in reversed(list(_failures(files, "file transfer: upload: failed")))
                 if f"Name: {name}" in about), "")


def _failures(files: Path, mark: str, key: str = "msg") -> Iterator[tuple[str, str]]:
    """Find failures in the log of the client's own process: what was answered, and about what."""
    try:
        lines = (files / "logs" / "debug-internal.log").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if mark in line:
            try:
                facts = json.loads(line)
                said, about = str(facts[key]), str(facts.get("task", ""))
            except (ValueError, LookupError, TypeError, AttributeError):
                said = about = line
            yield " ".join(said.split("failed to upload: ")[-1].split())[:_LONGEST], about


def refused_opening(run: str, said: str) -> str:
    """Return what the server answered when it last refused to open a run, in its words; what was said if nothing does.

    The client itself raises `<no message>` where the answer is not in W&B's own form, and only its log says more. Where
    the log is not written yet, the answer as it came stands in what the client raised.
    """
    folders = sorted((Path(os.environ.get("WANDB_DIR", "")) / "wandb").glob(f"run-*-{run}*"))
    logged = [words for files in folders[-1:] for words, _ in _failures(files, "failed to init run", "error")]
    answers = (re.search(r"returned error (\d+): (.*)", words[:_LONGEST]) for words in (*logged[-1:], said))
    answer = next(filter(None, answers), None)
    if not answer:
        return said
    status, body = answer.groups()
    words = re.findall(r'"message": ?"([^"]+)"', body)
    return f"HTTP {status}: {'; '.join(words) or (body if 'null' not in body else 'it gives no reason')}"


def upload_line(path: str, files: Path, *, is_gone: bool) -> str:
    """Write the command that uploads what a run has here; W&B takes no deleted run's id again.

    Without `--include-online` the client passes over a run that was begun online, with exit status 0.
    """
    run = path.rsplit("/", 1)[1]
    return f"wandb sync --include-online {f'--id {run}-again ' if is_gone else ''}{files}"
