"""Show a running sweep: two bars on a terminal, plain lines anywhere else. Everything goes to stderr."""

import sys
import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from kaggle_runner.cli.time_left import TimeLeft, about
from kaggle_runner.cli.words import flowing, is_dumb, width_of_stderr
from kaggle_runner.events import (
    BaseMeasured,
    Checkpointed,
    EndAsked,
    Event,
    LengthKnown,
    Logged,
    Note,
    Phase,
    Resumed,
    SweepStarted,
    TrialEnded,
    TrialStarted,
)
from kaggle_runner.metrics import EXACT_MATCH, LOSS, Metric, format_metric, format_number
from kaggle_runner.wording import how_many

SHOWN = ("train/loss", LOSS, EXACT_MATCH)
"""What a line of a running trial tells of its numbers, beside the metric of its study."""
LINE_EVERY_S = 5.0
"""Seconds that lie at least between two plain lines of a running trial."""
TIME_EVERY_S = 60.0
"""Seconds between two lines of the time that is left, where no bar shows it."""
BAR_COLUMNS = 16
"""Columns of a bar, so that its row fits into 80."""


class Display(Protocol):
    """Takes what happens in a sweep and shows it."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def __call__(self, event: Event) -> None: ...


def display(command: str = "") -> Display:
    """Return the bars where stderr is a terminal that can draw them, the lines elsewhere.

    `command` is what goes on with the study after an end that was asked for; empty where it is not known.
    """
    return Bars(command) if sys.stderr.isatty() and not is_dumb() else Lines(command)


class Lost:
    """What a session that ends at once would lose."""

    def __init__(self, command: str) -> None:
        self._command = command or "the same command"
        self._steps: dict[str, int] = {}
        self._kept: dict[str, int] = {}

    def take(self, event: Event) -> None:
        """Take in how far the running trials are, and what of them is on the disk."""
        match event:
            case TrialStarted():
                self._steps[event.trial], self._kept[event.trial] = 0, 0
            case Logged() if event.trial in self._steps:
                self._steps[event.trial] = event.step
            case Checkpointed() | Resumed() if event.trial in self._kept:
                self._kept[event.trial] = event.step
                self._steps[event.trial] = max(event.step, self._steps[event.trial])
            case TrialEnded():
                self._steps.pop(event.trial, None)
                self._kept.pop(event.trial, None)

    def describe(self, event: EndAsked) -> str:
        """Say what a signal does, and how to hurry; at the second one, what is lost and the command that goes on."""
        name = "Ctrl-C" if event.signal == "SIGINT" else event.signal
        if not event.again:
            if not self._steps:
                return f"{name}: the session ends without another trial. Once more ends it at once."
            who = "the running trial" if len(self._steps) == 1 else "each running trial"
            return (f"{name}: {who} writes a checkpoint at its next step, then the session ends. Once more ends it at "
                    f"once and loses the steps since the last checkpoint.")
        lost = [f"trial {trial} goes on from step {kept} of {step}" if kept else
                f"trial {trial} starts over and loses {how_many(step, 'step')}"
                for trial, step in sorted(self._steps.items()) if (kept := self._kept[trial]) < step]
        return f"{name} again: ended at once; {', '.join(lost) or 'nothing is lost'}, and finished trials are kept. " \
               f"Go on with: {self._command}"


class Lines:
    """One line for each thing worth knowing, and once a minute the time that is left."""

    def __init__(self, command: str = "", *, every_s: float = TIME_EVERY_S) -> None:
        self._last_line: dict[str, float] = {}
        self._trials: dict[str, TrialStarted] = {}
        self._lost, self._left = Lost(command), TimeLeft()
        self._every_s, self._over = every_s, threading.Event()

    def __enter__(self) -> "Lines":
        threading.Thread(target=self._tell_time, name="time-left", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialStarted):
            self._trials[event.trial] = event
        elif isinstance(event, LengthKnown) and event.trial in self._trials:
            self._trials[event.trial] = replace(self._trials[event.trial], max_steps=event.max_steps)
        self._lost.take(event)
        self._left.take(event)
        text = self._lost.describe(event) if isinstance(event, EndAsked) else \
            describe_event(event, self._trials.get(event.trial))
        if text is None or (isinstance(event, Logged) and LOSS not in event.values
                            and time.monotonic() - self._last_line.get(event.trial, 0.0) < LINE_EVERY_S):
            return
        self._last_line[event.trial] = time.monotonic()
        _write(text)

    def _tell_time(self) -> None:
        while not self._over.wait(self._every_s):
            if (line := self._left.line()) is not None:
                _write(line)


def _write(text: str) -> None:
    """Write a line at once, its end too: another worker's thread writes into the same stream."""
    sys.stderr.write(f"{flowing(text, width_of_stderr())}\n")
    sys.stderr.flush()


class _LeftColumn(ProgressColumn):
    """The time that is left of the sweep, or of a trial."""

    def __init__(self, left: TimeLeft) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        """Return it as it is now."""
        trial = task.fields["trial"]
        if not trial and task.finished:
            return Text()
        return Text(about(self._left.of_trial(trial) if trial else self._left.of_sweep()), style="progress.remaining")


class Bars:
    """A bar for the sweep and one for the running trial, with what is known of its loss."""

    def __init__(self, command: str = "", console: Console | None = None) -> None:
        self._lost, self._left = Lost(command), TimeLeft()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=BAR_COLUMNS), MofNCompleteColumn(),
            _LeftColumn(self._left), TextColumn("{task.fields[facts]}"), console=console or Console(stderr=True))
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
        self._lost.take(event)
        self._left.take(event)
        match event:
            case EndAsked():
                if event.again:
                    self._progress.stop()  # the cursor is shown again
                said = flowing(self._lost.describe(event), self._progress.console.width)
                self._progress.console.print(said, highlight=False, markup=False, soft_wrap=True)
                return
            case SweepStarted():
                if self._sweep is not None:  # of the stage before
                    self._progress.remove_task(self._sweep)
                self._sweep = self._progress.add_task("sweep", total=event.total, completed=event.finished, facts="",
                                                      trial="")
            case TrialStarted():
                self._trials[event.trial], self._losses[event.trial] = event, {}
                self._tasks[event.trial] = self._progress.add_task(
                    f"trial {event.trial}", total=event.max_steps or None, facts="starting", trial=event.trial)
            case LengthKnown() if event.trial in self._tasks:
                self._progress.update(self._tasks[event.trial], total=event.max_steps)
            case Logged() if event.trial in self._tasks:
                losses = self._losses[event.trial]
                names = dict.fromkeys((*SHOWN[:2], self._trials[event.trial].metric))
                losses |= {name: value for name in names if (value := event.values.get(name)) is not None}
                facts = "  ".join(f"{_short(name)} {format_number(loss, 3)}" for name, loss in losses.items())
                self._progress.update(self._tasks[event.trial], completed=event.step, facts=facts)
                return
            case TrialEnded():
                if event.trial in self._tasks:
                    self._progress.remove_task(self._tasks.pop(event.trial))
                if self._sweep is not None and event.status != "preempted":
                    self._progress.advance(self._sweep)
        text = describe_event(event, self._trials.get(event.trial))
        if text is not None:
            self._progress.console.print(text, highlight=False, markup=False)


def _short(name: str) -> str:
    return name.removesuffix("/loss").removeprefix("eval/")


def describe_event(event: Event, trial: TrialStarted | None) -> str | None:
    """Put an event of a sweep into a line; none for what nobody needs to read."""
    match event:
        case Logged():
            names = dict.fromkeys((*SHOWN[:2], *([trial.metric] if trial else []), *SHOWN[2:]))
            numbers = "  ".join(f"{name} {format_metric(name, value)}" for name in names
                                if (value := event.values.get(name)) is not None)
            return f"trial {event.trial}  step {event.step}/{trial.max_steps or '?' if trial else '?'}  {numbers}"
        case Phase() | Note():
            return event.text
        case BaseMeasured():
            beside = Metric(name=event.metric).beside
            more = f"  {beside} {format_metric(beside, event.scores[beside])}" if beside in event.scores else ""
            return f"untouched base: {event.metric} {format_metric(event.metric, event.value)}{more}"
        case SweepStarted():
            done = f", {event.finished} of them done already" if event.finished else ""
            then = f", then {how_many(event.confirming, 'training')} to confirm its winner" if event.confirming else ""
            return f"sweep of {how_many(event.total, 'trial')} in {event.directory}{done}{then}"
        case TrialStarted():
            return f"trial {event.trial} ({event.origin}): {event.settings}"
        case Resumed():
            return f"trial {event.trial} goes on at step {event.step}"
        case TrialEnded():
            measured = "no loss" if event.metric is None else format_metric(trial.metric if trial else "", event.metric)
            reason = f": {event.reason}" if event.reason else ""
            return f"trial {event.trial} {event.status}, {measured}, {event.seconds:.1f} s{reason}"
    return None
