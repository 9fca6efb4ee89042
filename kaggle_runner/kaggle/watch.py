"""Follow a pushed kernel to its end: the queue, the live log, the files, and the verdict inside them.

COMPLETE does not mean success, since a launcher always exits 0; what counts is result.json. A log is replayed from its
beginning after every cut, so the lines that were shown already are skipped by their number.
"""

import contextlib
import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_runner.errors import KernelError, Refusal
from kaggle_runner.files import RESULT
from kaggle_runner.kaggle.program import WARNING, Answer, Kaggle, State, read_state, refuse

OUTPUTS = r"^(result\.json$|studies/[^/]+/(?!wandb/|trials/[^/]+/(checkpoint|kept)/))"
"""The files that are fetched: the verdict and the study, without the checkpoints and W&B's own copies."""


@dataclass(frozen=True, kw_only=True)
class KernelPatience:
    """How long to wait for what, in seconds."""

    queue_s: float = 900.0
    """For a kernel that has not begun; some stay queued for hours."""
    unreachable_s: float = 900.0
    """For any answer of Kaggle."""
    poll_s: float = 10.0
    """Between two questions for the kernel's state."""
    quiet_s: float = 300.0
    """For a line of the live log; then the log is opened anew, because a dead connection looks the same."""
    fetch_attempts: int = 4


@dataclass(frozen=True, kw_only=True)
class KernelVerdict:
    """What the kernel itself says about its run."""

    exit_status: int
    reason: str
    goes_on: bool
    """Whether work is left for another session."""
    result: dict[str, Any]
    """The whole of result.json."""
    path: Path
    """Path of `result.json`, beside which the other files are."""
    ref: str = ""
    """The kernel that said it."""


def wait(kaggle: Kaggle, ref: str, into: Path, tell: Callable[[str], None], *, show: Callable[[str], None],
         patience: KernelPatience | None = None, outputs: str = OUTPUTS) -> KernelVerdict:
    """Wait for the end of a kernel's newest version and return its verdict.

    Each line of its log goes to `show` once, as it arrives; what happens around it to `tell`. `outputs` is a regular
    expression for the files to fetch.

    Raises:
        KernelError: not started in time, unreachable for too long, or ended without a verdict.
    """
    patience = patience or KernelPatience()
    state = follow(kaggle, ref, tell, show=show, patience=patience)
    return fetch(kaggle, ref, state, into, patience=patience, outputs=outputs)


def follow(kaggle: Kaggle, ref: str, tell: Callable[[str], None], *, show: Callable[[str], None],
           patience: KernelPatience | None = None) -> State:
    """Show a kernel's log, each line once, until the kernel has ended; an ended one shows its whole log.

    Raises:
        KernelError: not started in time, unreachable for too long, or no such kernel.
    """
    patience = patience or KernelPatience()
    began, seen, last_status = time.monotonic(), 0, ""
    lost_at: float | None = None  # not the last answer: a live log is followed for hours without a question
    while True:
        try:
            state = read_state(kaggle.run("kernels", "status", ref))
            lost_at = None
        except KernelError as error:
            if error.refusal is not Refusal.NETWORK:
                raise
            lost_at = time.monotonic() if lost_at is None else lost_at
            if time.monotonic() - lost_at > patience.unreachable_s:
                raise KernelError(Refusal.NETWORK, f"Kaggle could not be reached for {patience.unreachable_s:.0f} s; "
                                                   f"the kernel goes on without us; when the network is back, run: "
                                                   f"python -m kaggle_runner logs -f {ref}") from error
            tell(f"Kaggle cannot be reached, trying again every {patience.poll_s:g} s")
            time.sleep(patience.poll_s)
            continue
        if state.status != last_status:
            tell(f"{ref} is {state.text}")
            last_status = state.status
        if state.is_waiting:
            if time.monotonic() - began > patience.queue_s:
                raise KernelError(Refusal.QUEUE, f"{ref} is still queued after {patience.queue_s / 60:.3g} minutes: "
                                                 f"Kaggle has no machine free, or the default image is stuck; wait "
                                                 f"with: python -m kaggle_runner logs -f {ref}, or delete it and push "
                                                 f"again with another image")
            time.sleep(patience.poll_s)
            continue
        shown = _show_log(kaggle, ref, seen, show, patience.quiet_s)
        if state.has_ended:
            return state
        time.sleep(min(1.0, patience.poll_s) if shown > seen else patience.poll_s)
        seen = shown


def print_log(kaggle: Kaggle, ref: str, *, show: Callable[[str], None]) -> None:
    """Show the log of an ended kernel; of a running one there is only the live log.

    Raises:
        KernelError: no such kernel, it runs, or Kaggle cannot be reached.
    """
    state = read_state(kaggle.run("kernels", "status", ref))
    if not state.has_ended:
        raise KernelError(Refusal.OTHER, f"{ref} is {state.text}, and until it ends there is only the live log; see it "
                                         f"with: python -m kaggle_runner logs -f {ref}")
    answer = kaggle.run("kernels", "logs", ref)
    if answer.exit_status:
        refuse(answer, "logs")
    for line in _log_lines(answer.stdout):
        show(line)


def fetch(kaggle: Kaggle, ref: str, state: State, into: Path, *, patience: KernelPatience | None = None,
          outputs: str = OUTPUTS) -> KernelVerdict:
    """Fetch the files of an ended kernel and read its verdict.

    Raises:
        KernelError: there is none: the session failed or was cancelled, or the files could not be fetched.
    """
    patience = patience or KernelPatience()
    into.mkdir(parents=True, exist_ok=True)
    path = into / RESULT
    path.unlink(missing_ok=True)  # of an earlier version
    answer = Answer(exit_status=0, stdout="", stderr="")
    for attempt in range(patience.fetch_attempts):
        if attempt:
            time.sleep(patience.poll_s)
        answer = kaggle.run("kernels", "output", ref, "-p", str(into), "--force", "--page-size", "200",
                            "--file-pattern", outputs)
        result = read_result(path)
        if result is not None and answer.exit_status == 0:
            return KernelVerdict(exit_status=int(result["exit_status"]), reason=str(result.get("reason", "")),
                                 goes_on=bool(result.get("continue")), result=result, path=into, ref=ref)
        if state.status != "COMPLETE" and answer.exit_status == 0:
            break
    if answer.exit_status:
        refuse(answer, "output")
    log = into / f"{ref.split('/')[1]}.log"
    raise KernelError(Refusal.NO_VERDICT, f"{ref} ended as {state.text} without "
                                          f"{RESULT}{_explain(state, log)}")


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a verdict; none if there is none, or if it is something else: an old program stores an error page as it."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        int(result["exit_status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result


def _explain(state: State, log: Path) -> str:
    """Say why an ended session has no verdict, as far as can be known."""
    if state.status == "CANCEL_ACKNOWLEDGED":
        return (": it was cancelled, on its page or at its time limit, and Kaggle keeps nothing of that; push again, "
                "with a shorter --deadline if it was the limit")
    try:
        lines = _log_lines(log.read_text(encoding="utf-8"))
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"{f' ({state.failure})' if state.failure else ''}; the last line of its log is: {last[:300]}"


def _log_lines(text: str) -> list[str]:
    """Read a log as Kaggle stores it, a JSON list of pieces, or as plain text."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = "".join(event["data"] for event in json.loads(text))
    return text.splitlines()


def _show_log(kaggle: Kaggle, ref: str, seen: int, show: Callable[[str], None], quiet_s: float) -> int:
    """Show the log's lines from number `seen` on until the stream ends or is quiet; return how many are shown now."""
    process = subprocess.Popen(kaggle.command("kernels", "logs", "-f", ref), env=dict(kaggle.environ),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, errors="replace")
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(process, lines), daemon=True)
    reader.start()
    number = 0
    try:
        while (line := lines.get(timeout=quiet_s)) is not None:
            number += 1
            if number > seen:
                show(line)
    except queue.Empty:
        pass
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=5)
    return max(seen, number)


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Hand on the whole lines; a torn one comes again with the next replay."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.endswith("\n") and not line.startswith(WARNING):
                lines.put(re.sub(r"\r?\n$", "", line))
    lines.put(None)
