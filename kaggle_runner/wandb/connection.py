"""W&B's server and its client's own process: reach them, wait for them within bounds, and leave them."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import wandb
from wandb.sdk.lib.module import unset_globals
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from kaggle_runner.errors import WandbError
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.keys import FoundKey, redact, require_key
from kaggle_runner.wandb.answers import Tell, require_server, to_stderr

LEAVE_S = 5.0
"""Seconds that W&B's own process gets to end when nothing is left to upload."""
_FLUSH_S = 3.0
_POLL_S = 0.1
_NO_JSON = ("invalid character '<'", "Expecting value: line 1")
"""How the client says that an answer is no JSON. Source: Go's encoding/json, and Python's for 0.26."""
_HALTED_S = 2.0

GiveUp = Callable[[], bool]
"""Type of what is asked while W&B is waited for: whether to wait no longer."""
API_ERRORS = (wandb.Error, ValueError, WandbApiFailedError)
"""What a call of W&B's public API raises: the last one, a plain `Exception` of a private module, for an HTTP 5xx."""


@contextlib.contextmanager
def in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that W&B's client reads, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def connect(environment: Environment, tell: Tell = to_stderr) -> FoundKey:
    """Find the key, hand it to W&B's client in this process, and see that the server takes it.

    A server that fails is waited for; `tell` gets that in words.

    Raises:
        SecretError: no key, a malformed one, or one that the server does not know; says what to do on this host.
        WandbError: offline by the user's own setting, a setting that the client refuses, or no answer.
    """
    _require_online(os.environ.get("WANDB_MODE", "online"), "WANDB_MODE is", "unset it")
    if f"-{os.getpid()}-" not in os.environ.get("WANDB_SERVICE", ""):
        os.environ.pop("WANDB_SERVICE", None)  # of the process that started this one, whose client's may be gone
    key = require_key("wandb", environment.host)
    os.environ["WANDB_API_KEY"] = key.value
    # The client's own lines, a dozen for each trial, say nothing that we do not say.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "5")  # what a killed process takes with it
    _require_online(_settings(key).mode, "by `wandb offline` the client is", "run: wandb online")
    try:
        require_server(key, tell)
    except BaseException:
        leave()
        raise
    return key


def _settings(key: FoundKey) -> wandb.Settings:
    """Return the client's settings, which it makes of WANDB_ variables and its own files.

    Raises:
        WandbError: it refuses one of them.
    """
    try:
        return wandb.setup().settings
    except (ValueError, wandb.Error) as error:
        wrong = [f"{_source('.'.join(map(str, each['loc'])), each.get('input'))}: {each['msg']}"
                 for each in (error.errors() if hasattr(error, "errors") else ())]
        raise refused("W&B's client refuses its settings, from its files or a variable such as WANDB_BASE_URL; mend or "
                      "unset", ValueError("; ".join(wrong) or str(error)), key) from error


def _source(setting: str, value: object) -> str:
    """Name a setting as its user has written it: by the variable that has its value."""
    names = [name for name, text in os.environ.items() if name.startswith("WANDB_") and text == value]
    own = [name for name in names if name.endswith(setting.upper().removeprefix("X_"))]
    return f"{' or '.join(own or names) or setting} {value!r}"


def _require_online(mode: str, source: str, way_out: str) -> None:
    if mode not in ("online", "shared"):
        raise WandbError(f"{source} {mode}, but it is W&B's server that chooses a sweep's trials; {way_out}, or "
                         f"search here: python -m kaggle_runner sweep FILE --backend optuna --log wandb-offline")


def refused(what: str, error: Exception, key: FoundKey) -> WandbError:
    """Put what the client raised into one line, without the key."""
    return WandbError(f"{what}: {explained(redact(' '.join(str(error).split()), [key]))}")


def explained(said: str) -> str:
    """Return the client's words of an error, with what they mean where an answer was no answer of W&B's."""
    return f"{said}: that is a page in W&B's place, as of a proxy or a login" if any(
        mark in said for mark in _NO_JSON) else said


def leave() -> None:
    """End W&B's own process, if it runs; call it when nothing is left to upload."""
    with contextlib.suppress(OSError, SystemExit):  # a process that died already; the client exits with its status
        wandb.teardown()


def forget_run() -> None:
    """Have the client know of no open run: of one whose process is gone it would write the end, with a traceback."""
    unset_globals()


def leave_in_time() -> None:
    """End W&B's own process, however long that takes it by itself."""
    timer = threading.Timer(LEAVE_S, end_core)
    timer.daemon = True
    timer.start()
    until = time.monotonic() + LEAVE_S + 2 * _FLUSH_S
    attempt(leave, lambda: time.monotonic() > until)  # a client that could not open its loop waits for it for ever
    timer.cancel()


def end_core() -> None:
    """End W&B's own process, which would try to reach its server for days; it writes its files first."""
    for number, patience_s in ((signal.SIGTERM, _FLUSH_S), (signal.SIGKILL, 0.0)):
        for pid in _cores():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + patience_s
        while _cores() and time.monotonic() < until:
            time.sleep(_POLL_S)


def attempt(action: Callable[[], object], give_up: GiveUp) -> BaseException | None:
    """Do what may wait for W&B's server for ever, in a thread of its own; return why it failed, none if it did not."""
    failure: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:  # the classes for a lost connection are private, one is SystemExit
            failure.append(error)

    thread = threading.Thread(target=act, name="wandb", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        if thread.is_alive() and give_up():
            return TimeoutError("no answer in time")
    return failure[0] if failure else None


def core_logs() -> list[Path]:
    """Find the logs that W&B's own process has open."""
    found = set()
    for pid in _cores():
        with contextlib.suppress(OSError):
            found |= {Path(os.readlink(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    return sorted(path for path in found if path.suffix == ".log" and path.name.startswith("core-debug"))


def end_halted_core() -> bool:
    """Kill W&B's own process if somebody has halted it, for it would never answer; say whether that was so."""
    until = time.monotonic() + _HALTED_S  # a whole job that goes on, as by `fg`, does so one process after the other
    while halted := _cores("T"):
        if time.monotonic() > until:
            for pid in halted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(_POLL_S)
    return False


def _cores(states: str = "RSDTtI") -> list[int]:
    """Find the processes `wandb-core` that this process started and that are alive, or in one of some states."""
    found = []
    with contextlib.suppress(OSError):  # no file handle is left
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                name, facts = path.read_text().split("(", 1)[1].rsplit(")", 1)
                state, parent = facts.split()[:2]
                if name.startswith("wandb-core") and state in states and int(parent) == os.getpid():
                    found.append(int(path.parent.name))
    return found
