"""Why and how soon an agent ends, and how long it waits for what."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AgentPatience:
    """How long an agent waits, in seconds."""

    no_job_s: float = 600.0
    """For a trial from W&B: the sweep is paused, or nobody answers."""
    told_s: float = 60.0
    """Until it looks, and says, why no trial comes, that W&B refuses one's rows, or who has it; and again after as
    long."""
    look_s: float = 300.0
    """Until it looks, between two trials, for those of agents that are gone."""
    slept_s: float = 30.0
    """Between two looks at an open run, of which there are several a second: its machine slept."""
    upload_s: float = 600.0
    """For the end of a run to be uploaded."""
    hurry_s: float = 7.0
    """After a signal, for a checkpoint, and then as long for the upload: hosts kill after 10 to 30 s."""
    queued_s: float = 20.0
    """For a trial that W&B may have handed out already: its agent asks every 5 s, and logs in anew for each."""


class Ending:
    """Why the agent ends and how soon; asked for by the signal handler too, read by every thread."""

    def __init__(self) -> None:
        self.reason = ""
        """In a sentence; empty while the agent goes on."""
        self.exit_status = 0
        self.asked_at = math.inf
        """On the monotonic clock."""
        self._grace_s: float | None = None

    def ask(self, reason: str, exit_status: int = 0, grace_s: float | None = None) -> None:
        """Ask for the end; the first reason stays. With `grace_s`, what is under way gets only this much time."""
        now = time.monotonic()
        if grace_s is not None and (self._grace_s is None or grace_s < self._grace_s):
            self._grace_s, self.asked_at = grace_s, now
        if not self.reason:
            self.asked_at = now
            self.exit_status = exit_status
            self.reason = reason

    def is_due(self, idle_since: float, queued_s: float) -> bool:
        """Say whether the end was asked for and no trial can be under way, which gets less time in a hurry."""
        patience_s = queued_s if self._grace_s is None else min(queued_s, self._grace_s)
        return time.monotonic() - max(idle_since, self.asked_at) > patience_s

    def is_over(self, since: float, patience_s: float = math.inf) -> bool:
        """Say whether what began at `since` has had its time: its own patience, or the grace."""
        if self._grace_s is None:
            return time.monotonic() - since > patience_s
        return time.monotonic() - max(since, self.asked_at) > self._grace_s
