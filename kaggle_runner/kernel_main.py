"""What a launcher runs on the kernel: install, continue, run the command, and write the truth into result.json.

The command is a child process, so whatever becomes of it, an exception, a signal or no memory, this one is there to
say so. On Kaggle the exit status is always 0, because Kaggle keeps no file of a script that fails: read result.json.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import kaggle_runner
from kaggle_runner.credentials import credentials_of
from kaggle_runner.environment import Environment, detect
from kaggle_runner.errors import KaggleRunnerError, SecretError
from kaggle_runner.kernel_packages import NEEDS, Installed, frozen_versions, install_missing
from kaggle_runner.secrets import VARIABLES, find_key, redact
from kaggle_runner.study import JOURNAL, Status, read_study

RESULT = "result.json"
INTERRUPTED = 130
GRACE_S = 120.0
"""Time to checkpoint and close after a request to stop."""
REASON_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the command ended."""

    exit_status: int
    reason: str = ""


@dataclass
class Session:
    """This session's facts, gathered as it goes, so that result.json can be written at any moment."""

    arguments: Sequence[str]
    working: Path
    environment: Environment
    started: float
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    packages: Installed = field(default_factory=Installed)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds_by_phase[name] = round(time.monotonic() - began, 3)


def run(arguments: Sequence[str], settings: Mapping[str, str], files: Mapping[str, str]) -> int:
    """Run a command of this package as a kernel's whole work; return the status to exit with.

    Settings the environment already has are left as they are. `files` are written beside the package, and an argument
    that names one of them becomes its path.
    """
    started = time.time()
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    root = Path(os.environ.get("KAGGLE_RUNNER_ROOT", "/"))
    environment = detect(os.environ, root)
    on_host = environment.host in ("kaggle", "colab")
    session = Session(arguments=list(arguments), environment=environment, started=started,
                      working=environment.writable_directory if on_host else Path.cwd())
    _say(f"kaggle_runner {kaggle_runner.__version__} on {environment.host} ({environment.reason}): "
         f"{' '.join(arguments)}")
    inputs = root / "kaggle" / "input"
    try:
        if on_host:
            with session.phase("install"):
                session.packages = install_missing(NEEDS, inputs, os.environ, _say)
        with session.phase("continue"):
            study = session.working / _option(session.arguments, "--study", "")
            if study != session.working and (found := continue_study(inputs, study)):
                _say(f"continue the study of {found}")
        with session.phase("command"), tempfile.TemporaryDirectory(prefix="kaggle_runner-") as directory:
            facts = Path(directory) / "facts.json"
            outcome = run_command(_with_files(arguments, files, Path(directory)), session.working, {
                **os.environ, **(_keys(root) if on_host else {}), "PYTHONUNBUFFERED": "1",
                "KAGGLE_RUNNER_FACTS": str(facts), "KAGGLE_RUNNER_SESSION_STARTED": f"{started:.3f}"})
            said = _read_json(facts)
        result = describe_session(session, outcome, said)
    except (KaggleRunnerError, OSError) as error:
        _say(f"error: {error}")
        result = describe_session(session, Outcome(exit_status=1, reason=str(error)), {})
    if on_host:
        path = session.working / RESULT
        path.write_text(json.dumps(result, indent=2) + "\n")
        _say(f"{result['verdict']}{': ' if result['reason'] else ''}{result['reason']}  ({path})")
    return 0 if environment.host == "kaggle" else result["exit_status"]


def run_command(arguments: Sequence[str], working: Path, environ: Mapping[str, str]) -> Outcome:
    """Run the command to its end, passing its output on line by line, without the values of keys.

    SIGTERM and an interrupt are handed to it, with time to close.
    """
    process = subprocess.Popen([sys.executable, "-m", "kaggle_runner", *arguments], cwd=working, env=dict(environ),
                               text=True, errors="replace", stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    last_lines: deque[str] = deque(maxlen=200)
    secrets = tuple(credentials_of(environ).values())
    readers = [threading.Thread(target=_pass_on, args=(stream, sink, secrets, kept), daemon=True)
               for stream, sink, kept in ((process.stdout, sys.stdout, None), (process.stderr, sys.stderr, last_lines))]
    for reader in readers:
        reader.start()
    with _handing_on_stops(process):
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                _stop(process, signal.SIGINT)
    for reader in readers:
        reader.join(timeout=10)
    if status < 0:
        name = signal.Signals(-status).name
        killed = ", as a machine does when its memory is full" if name == "SIGKILL" else ""
        return Outcome(exit_status=128 - status, reason=f"the command was ended by {name}{killed}")
    return Outcome(exit_status=status, reason=reason_of(last_lines) if status else "")


def reason_of(lines: Sequence[str]) -> str:
    """Take the reason of a failure from the last lines of stderr: our own error block, else the last line."""
    kept = [line for line in lines if line.strip()]
    ours = [number for number, line in enumerate(kept) if line.startswith("error: ")]
    if ours:
        return "\n".join(kept[ours[-1]:][:REASON_LINES]).removeprefix("error: ")
    return kept[-1] if kept else "it said nothing"


def continue_study(inputs: Path, study: Path) -> Path | None:
    """Copy the study of an earlier session, mounted as an input, to where this session's will be.

    Of several the one with the longest journal is taken. Does nothing where there is a study already; returns what was
    copied.
    """
    if (study / JOURNAL).exists() or not inputs.is_dir():
        return None
    found = sorted(_journals(inputs, depth=7), key=lambda path: (path.stat().st_size, str(path)))
    if not found:
        return None
    source = found[-1].parent
    for path in sorted(source.rglob("*")):
        target = study / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # not its mode: inputs are read-only
    return source


def describe_session(session: Session, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what result.json says; `facts` is what the command itself wrote about this session."""
    studies, unfinished = {}, 0
    for journal in _journals(session.working, depth=3):
        try:
            snapshot = read_study(journal.parent)
        except KaggleRunnerError as error:
            studies[journal.parent.name] = {"error": str(error)}
            continue
        studies[str(journal.parent.relative_to(session.working))] = snapshot.as_dict()
        unfinished += sum(record.result is None or record.result.status is Status.PREEMPTED
                          for record in snapshot.records)
    seconds = time.time() - session.started
    return {
        "verdict": "failed" if outcome.exit_status else "done", "exit_status": outcome.exit_status,
        "reason": outcome.reason or facts.get("reason", ""),
        "continue": bool(unfinished or facts.get("ended") == "deadline" or outcome.exit_status == INTERRUPTED),
        "command": list(session.arguments), "kaggle_runner": kaggle_runner.__version__,
        "environment": session.environment.as_dict(), "versions": _versions(),
        "installed": list(session.packages.installed), "lost": list(session.packages.lost),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.started)),
        "seconds": round(seconds, 1), "seconds_by_phase": session.seconds_by_phase,
        "gpu_quota_hours": round(seconds / 3600, 4) if session.environment.gpus else 0.0,
        "unfinished_trials": unfinished, "studies": studies, "facts": dict(facts),
    }


def _with_files(arguments: Sequence[str], files: Mapping[str, str], directory: Path) -> list[str]:
    """Write the files, and put their paths where the arguments name them."""
    for name, text in files.items():
        (directory / Path(name).name).write_text(text, encoding="utf-8")
    return [str(directory / Path(argument).name) if argument in files else argument for argument in arguments]


def _option(arguments: Sequence[str], name: str, default: str) -> str:
    values = list(arguments)
    return values[values.index(name) + 1] if name in values[:-1] else default


def _keys(root: Path) -> dict[str, str]:
    """Find the keys that the command's own libraries read from the environment.

    Colab answers only inside its notebook's kernel, where this process is and the command is not. What is missing or
    malformed is left to the command to say.
    """
    found = {}
    for service in ("wandb", "huggingface"):
        try:
            key = find_key(service, os.environ, root)
        except SecretError:
            continue
        if key:
            found[VARIABLES[service][0]] = key.value
    return found


def _pass_on(stream: IO[str], sink: IO[str], secrets: Sequence[str], kept: deque[str] | None) -> None:
    with stream:
        for line in stream:
            clean = redact(line, secrets)
            if kept is not None:
                kept.append(clean.rstrip("\n"))
            print(clean, end="", file=sink, flush=True)


@contextmanager
def _handing_on_stops(process: subprocess.Popen[str]) -> Iterator[None]:
    """Hand SIGTERM on to the command while it runs; only a main thread may have a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, lambda *_: _stop(process, signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    timer = threading.Timer(GRACE_S, process.kill)
    timer.daemon = True
    timer.start()


def _journals(directory: Path, depth: int) -> list[Path]:
    """Find journals at most `depth` folders down; bounded, because an input may hold millions of files."""
    found: list[Path] = []
    level = [directory]
    for _ in range(depth + 1):
        deeper = []
        for folder in level[:1000]:
            if (folder / JOURNAL).is_file():
                found.append(folder / JOURNAL)
                continue
            try:
                deeper += sorted(Path(entry.path) for entry in os.scandir(folder)
                                 if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
        level = deeper
    return found


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), **frozen_versions()}
    for need in NEEDS:
        try:
            versions.setdefault(need.name.lower(), importlib.metadata.version(need.name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
