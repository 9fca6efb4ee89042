"""Show a running sweep: two bars on a terminal, plain lines anywhere else. Everything goes to stderr."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0
"""Plain lines of a running trial are at least this far apart."""


class Display(Protocol):
    """Takes what happens in a sweep and shows it."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def __call__(self, event: Mapping[str, Any]) -> None: ...


def display() -> Display:
    """Return the bars where stderr is a terminal, the lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One line for each thing worth knowing."""

    def __init__(self) -> None:
        self._last_line: dict[str, float] = {}
        self._trials: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        return None

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "trial_started":
            self._trials[event["id"]] = event
        trial = event.get("trial", "")
        text = describe_event(event, self._trials.get(trial, {}))
        if text is None or (kind == "log" and "eval/loss" not in event
                            and time.monotonic() - self._last_line.get(trial, 0.0) < LINE_EVERY_S):
            return
        self._last_line[trial] = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bars:
    """A bar for the sweep and one for the running trial, with what is known of its loss."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(), console=console or Console(stderr=True))
        self._sweep: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._trials: dict[str, Mapping[str, Any]] = {}
        self._losses: dict[str, dict[str, float]] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "sweep_started":
            self._sweep = self._progress.add_task("sweep", total=event["total"], completed=event["finished"], facts="")
        elif kind == "trial_started":
            self._trials[event["id"]], self._losses[event["id"]] = event, {}
            self._tasks[event["id"]] = self._progress.add_task(f"trial {event['id']}", total=event["max_steps"],
                                                               facts="starting")
        elif kind == "log" and event.get("trial") in self._tasks:
            losses = self._losses[event["trial"]]
            losses |= {name: event[name] for name in ("train/loss", "eval/loss") if name in event}
            facts = "  ".join(f"{name.removesuffix('/loss')} {loss:.3f}" for name, loss in losses.items())
            self._progress.update(self._tasks[event["trial"]], completed=event["step"], facts=facts)
            return
        elif kind == "trial_ended":
            self._progress.remove_task(self._tasks.pop(event["id"]))
            if self._sweep is not None and event["status"] != "preempted":
                self._progress.advance(self._sweep)
        text = describe_event(event, self._trials.get(event.get("trial", ""), {}))
        if text is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


def describe_event(event: Mapping[str, Any], trial: Mapping[str, Any]) -> str | None:
    """Put an event of a sweep into a line; none for what nobody needs to read."""
    kind = event["event"]
    if kind == "log":
        losses = "  ".join(f"{name} {event[name]:.4f}" for name in ("train/loss", "eval/loss") if name in event)
        return f"trial {trial.get('id', '')}  step {event['step']}/{trial.get('max_steps', '?')}  {losses}"
    if kind in ("phase", "note"):
        return event["text"]
    if kind == "baseline":
        return f"untouched base: {event['metric']} {event['value']:.4f}"
    if kind == "sweep_started":
        done = f", {event['finished']} of them done already" if event["finished"] else ""
        return f"sweep of {event['total']} trials in {event['directory']}{done}"
    if kind == "trial_started":
        return f"trial {event['id']} ({event['origin']}): {event['settings']}"
    if kind == "resumed":
        return f"trial {trial.get('id', '')} goes on at step {event['step']}"
    if kind == "trial_ended":
        value = f"{event['metric']:.4f}" if event["metric"] is not None else "no loss"
        reason = f": {event['reason']}" if event["reason"] else ""
        return f"trial {event['id']} {event['status']}, {value}, {event['seconds']:.1f} s{reason}"
    return None
