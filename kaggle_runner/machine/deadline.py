"""When this session must end: what the user said, else the host's limit.

Kaggle and Colab end a session without asking; what was not written away by then is lost.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from kaggle_runner.errors import ConfigError
from kaggle_runner.machine.environment import Environment, root_of
from kaggle_runner.machine.limits import container_started

STARTED_VARIABLE = "KAGGLE_RUNNER_SESSION_STARTED"
"""Unix time at which the host began to count; a launcher sets it."""
SAVING_S = 20 * 60.0
"""Seconds before a host's own limit at which a session ends itself, so that the host can keep its outputs."""
MARGIN_S = 300.0
"""Seconds from a request to stop to the end of the process: a step, at most 30 s on a T4, an evaluation that is under
way, a checkpoint and the record."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """When this session must end."""

    at: float | None
    """Unix time at which the session ends; none where nobody ends it."""
    reason: str
    margin_s: float = MARGIN_S
    """Seconds before the end at which a running trial is checkpointed."""

    def seconds_left(self, now: float) -> float:
        """Return the seconds in which trials may still train; infinite without a deadline."""
        return math.inf if self.at is None else self.at - self.margin_s - now


def find_deadline(text: str | None, environment: Environment, environ: Mapping[str, str],
                  now: float | None = None) -> Deadline:
    """Find the session's deadline: what the user said, else the host's limit less the time it needs for the outputs.

    `text` is a duration from now, such as `8h`, `90m` or `1h30m`, or a time such as `2026-01-31T23:30`. Kaggle's own
    end counts where it comes first: a session that runs into it loses every file.

    Raises:
        ConfigError: `text` is neither, or is in the past.
    """
    now = time.time() if now is None else now
    host = _of_the_host(environment, environ, now)
    if text is None:
        return host
    at = _parse(text, now)
    if at <= now:
        raise ConfigError(f"the deadline {text} is in the past; give a later time, or a duration such as 8h")
    if environment.host == "kaggle" and host.at is not None and host.at < at:
        return replace(host, reason=f"--deadline {text} is later than Kaggle allows: {host.reason}")
    return Deadline(at=at, reason=f"--deadline {text}", margin_s=min(MARGIN_S, (at - now) / 10))


def _of_the_host(environment: Environment, environ: Mapping[str, str], now: float) -> Deadline:
    if environment.session_limit_s is None:
        return Deadline(at=None, reason="nobody ends a session here")
    started, since = _session_start(environment.session_limit_s, environ, now)
    return Deadline(at=started + environment.session_limit_s - SAVING_S,
                    reason=f"{environment.host} ends a session after {environment.session_limit_s / 3600:.0f} h, "
                           f"counted from {since}; {SAVING_S / 60:.0f} min are left for its outputs")


def _session_start(limit_s: float, environ: Mapping[str, str], now: float) -> tuple[float, str]:
    """Find when the host began to count, and say where that comes from."""
    if STARTED_VARIABLE in environ:
        return float(environ[STARTED_VARIABLE]), "the kernel's start"
    started = container_started(root_of(environ))
    if started is not None and now - limit_s < started <= now:
        return started, "the container's start"
    return now, "now"


def _parse(text: str, now: float) -> float:
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if match and any(match.groups()):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return now + hours * 3600 + minutes * 60 + seconds
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise ConfigError(f"--deadline {text!r} is neither a duration such as 8h, 90m or 1h30m, nor a time such as "
                          f"2026-01-31T23:30") from error


def in_minutes(seconds: float) -> str:
    """Write a duration in whole minutes, or in seconds where it is short."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
