"""How long a sweep will take yet, by what its finished trials took and how far the running ones are."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from kaggle_runner.events import Event, LengthKnown, Logged, SweepStarted, TrialEnded, TrialStarted
from kaggle_runner.wording import how_many

COUNTED = ("complete", "pruned")
"""How trials end whose time says something of the next one's: a failure may take a second."""


@dataclass
class _Running:
    started: float
    max_steps: int
    step: int = 0
    first: tuple[float, int] | None = None
    """When the first step was told, and which it was: before that a trial loads, or goes on from a checkpoint."""

    def left_s(self, now: float) -> float | None:
        """Return the seconds that its steps will take yet; none before two of them are done."""
        if self.first is None or self.step <= self.first[1] or not self.max_steps:
            return None
        return max(0.0, (now - self.first[0]) / (self.step - self.first[1]) * (self.max_steps - self.step))


class TimeLeft:
    """What the events of a session say of its time; several threads may tell and ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total: int | None = None
        self._finished = 0
        self._workers = 1
        self._seconds: list[float] = []
        self._running: dict[str, _Running] = {}

    def take(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case SweepStarted():
                self._total, self._finished, self._workers = event.total, event.finished, max(1, event.workers)
                self._seconds, self._running = list(event.seconds), {}
            case TrialStarted():
                self._running[event.trial] = _Running(started=self._clock(), max_steps=event.max_steps)
            case LengthKnown() if event.trial in self._running:
                self._running[event.trial].max_steps = event.max_steps
            case Logged() if event.trial in self._running:
                running = self._running[event.trial]
                running.first = running.first or (self._clock(), event.step)
                running.step = event.step
            case TrialEnded():
                self._running.pop(event.trial, None)
                if event.status != "preempted":
                    self._finished += 1
                if event.status in COUNTED:
                    self._seconds.append(event.seconds)

    def of_trial(self, trial: str) -> float | None:
        """Return the seconds that a running trial will take yet; none where that is not known."""
        running = self._running.get(trial)
        if running is None:
            return None
        left = running.left_s(self._clock())
        if left is None and self._seconds:
            left = max(0.0, statistics.fmean(self._seconds) - (self._clock() - running.started))
        return left

    def of_sweep(self) -> float | None:
        """Return the seconds that the sweep will take yet; none before a trial is done or has two steps behind it."""
        if self._total is None:
            return None
        now, running = self._clock(), dict(self._running)
        lefts = [self.of_trial(trial) for trial in running]
        known = [left for left in lefts if left is not None]
        a_trial = statistics.fmean(self._seconds) if self._seconds else max(
            (left + now - one.started for one, left in zip(running.values(), lefts, strict=True) if left is not None),
            default=None)
        waiting = max(0, self._total - self._finished - len(running))
        if a_trial is None:
            return 0.0 if not waiting and not running else None
        together = (waiting + len(lefts) - len(known)) * a_trial + sum(known)
        return max([together / self._workers, *known])

    def line(self) -> str | None:
        """Return what a log says once a minute; none before anything runs."""
        if self._total is None and not self._running and not self._finished:
            return None
        if self._total is not None:
            is_over = self._finished >= self._total and not self._running
            left = "" if is_over else f", {about(self.of_sweep())}"
            said = f"sweep: {self._finished} of {how_many(self._total, 'trial')} done{left}"
        else:
            each = f", {in_words(statistics.fmean(self._seconds))} each" if self._seconds else ""
            said = f"agent: {how_many(self._finished, 'trial')} done{each}"
        at = ", ".join(f"trial {name} at step {one.step}/{one.max_steps or '?'}"
                       for name, one in sorted(dict(self._running).items()))
        return f"{said}; {at}" if at else said


def about(seconds: float | None) -> str:
    """Write the time that is left, or that it is not known yet."""
    if seconds is None:
        return "time left not known yet"
    return f"about {in_words(seconds)} left" if seconds >= 0.5 else "almost done"


def in_words(seconds: float) -> str:
    """Write a duration as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
