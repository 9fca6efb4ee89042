"""Show a running sweep: two bars on a terminal, plain lines anywhere else. Everything goes to stderr."""

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kaggle_runner.events import (
    BaseMeasured,
    Event,
    Logged,
    Note,
    Phase,
    Resumed,
    SweepStarted,
    TrialEnded,
    TrialStarted,
)

LOSSES = ("train/loss", "eval/loss")
LINE_EVERY_S = 5.0
"""Seconds that lie at least between two plain lines of a running trial."""


class Display(Protocol):
    """Takes what happens in a sweep and shows it."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def __call__(self, event: Event) -> None: ...


def display() -> Display:
    """Return the bars where stderr is a terminal, the lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One line for each thing worth knowing."""

    def __init__(self) -> None:
        self._last_line: dict[str, float] = {}
        self._trials: dict[str, TrialStarted] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        return None

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialStarted):
            self._trials[event.trial] = event
        text = describe_event(event, self._trials.get(event.trial))
        if text is None or (isinstance(event, Logged) and "eval/loss" not in event.values
                            and time.monotonic() - self._last_line.get(event.trial, 0.0) < LINE_EVERY_S):
            return
        self._last_line[event.trial] = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bars:
    """A bar for the sweep and one for the running trial, with what is known of its loss."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(), console=console or Console(stderr=True))
        self._sweep: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._trials: dict[str, TrialStarted] = {}
        self._losses: dict[str, dict[str, float]] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case SweepStarted():
                self._sweep = self._progress.add_task("sweep", total=event.total, completed=event.finished, facts="")
            case TrialStarted():
                self._trials[event.trial], self._losses[event.trial] = event, {}
                self._tasks[event.trial] = self._progress.add_task(f"trial {event.trial}", total=event.max_steps,
                                                                   facts="starting")
            case Logged() if event.trial in self._tasks:
                losses = self._losses[event.trial]
                losses |= {name: value for name in LOSSES if (value := event.values.get(name)) is not None}
                facts = "  ".join(f"{name.removesuffix('/loss')} {loss:.3f}" for name, loss in losses.items())
                self._progress.update(self._tasks[event.trial], completed=event.step, facts=facts)
                return
            case TrialEnded():
                self._progress.remove_task(self._tasks.pop(event.trial))
                if self._sweep is not None and event.status != "preempted":
                    self._progress.advance(self._sweep)
        text = describe_event(event, self._trials.get(event.trial))
        if text is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


def describe_event(event: Event, trial: TrialStarted | None) -> str | None:
    """Put an event of a sweep into a line; none for what nobody needs to read."""
    match event:
        case Logged():
            losses = "  ".join(f"{name} {value:.4f}" for name in LOSSES
                               if (value := event.values.get(name)) is not None)
            return f"trial {event.trial}  step {event.step}/{trial.max_steps if trial else '?'}  {losses}"
        case Phase() | Note():
            return event.text
        case BaseMeasured():
            return f"untouched base: {event.metric} {event.value:.4f}"
        case SweepStarted():
            done = f", {event.finished} of them done already" if event.finished else ""
            return f"sweep of {event.total} trials in {event.directory}{done}"
        case TrialStarted():
            return f"trial {event.trial} ({event.origin}): {event.settings}"
        case Resumed():
            return f"trial {event.trial} goes on at step {event.step}"
        case TrialEnded():
            measured = f"{event.metric:.4f}" if event.metric is not None else "no loss"
            reason = f": {event.reason}" if event.reason else ""
            return f"trial {event.trial} {event.status}, {measured}, {event.seconds:.1f} s{reason}"
    return None
