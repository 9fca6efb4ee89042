"""What worker, supervisor, W&B runs and displays tell each other: frozen events, and requests to a worker.

Each travels as one JSON line. A field of a newer version is left out when one is read; an unknown kind is an error.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from kaggle_runner.errors import ProtocolError
from kaggle_runner.metrics import LOSS, Goal


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something that is said in one line."""

    key: ClassVar[str]
    """The name under which a line holds the kind of the message."""
    kind: ClassVar[str]

    def to_json(self) -> str:
        """Return it as one line, without the newline; a number that is not finite is a ValueError."""
        return json.dumps({self.key: self.kind, **self._values()}, allow_nan=False)

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items()
                if name != "trial" or value}

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        known = {known.name for known in dataclasses.fields(cls)}
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value
                          for name, value in values.items() if name in known})
        except TypeError as error:
            raise ProtocolError(f"a {cls.kind!r} line lacks something: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Event(Message):
    """Something that happened."""

    key = "event"
    trial: str = ""
    """The trial that it happened to; empty where it concerns none."""


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(Event):
    """The worker is up."""

    kind = "started"
    pid: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """A sentence that a person may want to read."""

    kind = "note"
    text: str


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """The worker begins something that takes a while: `load`, `data`, `ready`."""

    kind = "phase"
    phase: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RowsCounted(Event):
    """What became of every row of the dataset that the worker has read: facts for the study's record."""

    kind = "rows"
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataRead(Event):
    """What a trial will be trained on is loaded."""

    kind = "data"
    hashes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Attached(Event):
    """The trial begins from nothing: its adapter or model is made."""

    kind = "attached"
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The trial goes on from a checkpoint."""

    kind = "resumed"
    step: int


@dataclass(frozen=True, kw_only=True)
class Logged(Event):
    """The numbers of one optimizer step: a row of the trial's history."""

    kind = "log"
    step: int
    values: Mapping[str, float | None]
    """The numbers by W&B's names: `train/loss`, `eval/loss`, `tokens`; on the line they stand beside the step."""

    @property
    def row(self) -> dict[str, float | None]:
        """Return the row that the history keeps."""
        return {"step": self.step, **self.values}

    def _values(self) -> dict[str, Any]:
        return self.row | ({"trial": self.trial} if self.trial else {})

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        rest = dict(values)
        if "step" not in rest:
            raise ProtocolError("a 'log' line lacks something: step")
        return cls(step=rest.pop("step"), trial=rest.pop("trial", ""), values=rest)


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Event):
    """A checkpoint of the trial is on disk."""

    kind = "checkpoint"
    step: int


@dataclass(frozen=True, kw_only=True)
class AtRung(Event):
    """The trial waits at a rung for a `RungVerdict`."""

    kind = "rung"
    step: int
    value: float
    """The metric that it is judged by."""
    loss: float | None = None
    """Its loss, which breaks ties."""


@dataclass(frozen=True, kw_only=True)
class Prepared(Event):
    """Answer to `Prepare`: what the config names is loaded."""

    kind = "prepared"
    device: str
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    train_rows: int | None = None
    """From which the steps of epochs follow."""


@dataclass(frozen=True, kw_only=True)
class BaseMeasured(Event):
    """Answer to `MeasureBase`; told on to displays as the study's baseline."""

    kind = "baseline"
    value: float
    metric: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Every metric by its name."""


@dataclass(frozen=True, kw_only=True)
class MemoryForecast(Event):
    """Answer to `ForecastMemory`: whether a trial fits."""

    kind = "forecast"
    fits: bool
    reason: str
    settings: Mapping[str, Any]
    """Hyperparameters as the forecast decided them, in place of the trial's own."""
    notes: Mapping[str, Any]
    """The predicted peak and its parts, for the record."""


@dataclass(frozen=True, kw_only=True)
class Trained(Event):
    """Answer to `Train`: how the trial ended."""

    kind = "trained"
    result: Mapping[str, Any]
    """The fields of a `TrialResult`."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """Answer to any request: it could not be carried out."""

    kind = "failed"
    failure: str
    """`refused`, `out_of_memory`, `not_finite`, `foreign_checkpoint`, `foreign_rows`, `crash` of another process,
    `error`, or `machine`, which is no fault of what was asked for."""
    message: str
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepStarted(Event):
    """A session begins to work on a study."""

    kind = "sweep_started"
    total: int
    finished: int
    directory: str
    workers: int = 1
    """Trials that run at a time."""
    seconds: tuple[float, ...] = ()
    """What the trials of earlier sessions took, from which the time that is left follows."""
    confirming: int = 0
    """Trainings that confirm the winner when the trials are done."""


@dataclass(frozen=True, kw_only=True)
class EndAsked(Event):
    """Somebody asks for the end of the session."""

    kind = "end_asked"
    signal: str
    """`SIGINT`, as Ctrl-C sends it, `SIGTERM`, or `SIGHUP` of a terminal that was closed."""
    again: bool = False
    """The second time: the process ends at once."""


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial is about to be trained."""

    kind = "trial_started"
    origin: str
    settings: str
    """What distinguishes this trial from the others, in words."""
    max_steps: int
    """0 where that is not known before its rows are counted."""
    metric: str = "eval/loss"
    """What the trials are compared by."""


@dataclass(frozen=True, kw_only=True)
class LengthKnown(Event):
    """The rows of a trial are counted, and with them the steps that its epochs take."""

    kind = "length"
    max_steps: int


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial has its result in the record."""

    kind = "trial_ended"
    status: str
    metric: float | None
    reason: str = ""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AgentEnded(Event):
    """The agent of one GPU has ended."""

    kind = "agent_ended"
    exit_status: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """What a supervisor asks of its worker."""

    key = "type"


@dataclass(frozen=True, kw_only=True)
class Prepare(Request):
    """Load what the config names."""

    kind = "prepare"
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MeasureBase(Request):
    """Measure the untouched base of a fine-tune."""

    kind = "baseline"
    config: Mapping[str, Any]
    metric: str = LOSS
    """Which value to answer with."""


@dataclass(frozen=True, kw_only=True)
class ForecastMemory(Request):
    """Predict a fine-tune's memory, without loading anything."""

    kind = "forecast"
    config: Mapping[str, Any]
    limit: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Train(Request):
    """Train one trial."""

    kind = "train"
    id: str
    config: Mapping[str, Any]
    directory: str
    checkpoint_steps: int | None = None
    rung_steps: tuple[int, ...] = ()
    keep: str = ""
    """What the decoder layers keep for the backward pass, as the forecast chose it; empty: as the config says."""
    shares: int = 0
    """Parts into which the rows of each step are dealt, for processes to compute; 0: a trial, which one computes."""
    rank: int = 0
    """Of the process that is asked; only the first one, 0, writes."""
    processes: int = 1
    rendezvous: str = ""
    """The file at which the processes meet."""
    metric: str = LOSS
    goal: Goal = "minimize"
    """By which the best evaluation is kept."""


@dataclass(frozen=True, kw_only=True)
class Stop(Request):
    """Evaluate and end the running trial at its next step."""

    kind = "stop"


@dataclass(frozen=True, kw_only=True)
class Preempt(Request):
    """Write a checkpoint and end the running trial at its next step."""

    kind = "preempt"


@dataclass(frozen=True, kw_only=True)
class RungVerdict(Request):
    """Answer to `AtRung`: why the trial ends there; none: it goes on."""

    kind = "verdict"
    why_it_ends: str | None


Notify = Callable[[Event], None]
"""Takes the events of a session: phases, logged numbers, evaluations, notes."""

EVENTS: Mapping[str, type[Event]] = {kind.kind: kind for kind in Event.__subclasses__()}
REQUESTS: Mapping[str, type[Request]] = {kind.kind: kind for kind in Request.__subclasses__()}


def read_event(line: str) -> Event:
    """Read an event from its line.

    Raises:
        ProtocolError: not an event, or of a kind that this version does not know.
    """
    values = _object(line)
    kind = values.pop(Event.key, None)
    if kind not in EVENTS:
        raise ProtocolError(f"no event is called {kind!r}; both processes must run the same version of kaggle_runner")
    return EVENTS[kind]._from_values(values)


def read_request(line: str) -> Request:
    """Read a request from its line.

    Raises:
        ProtocolError: not a request, or of a kind that this version does not know.
    """
    values = _object(line)
    kind = values.pop(Request.key, None)
    if kind not in REQUESTS:
        raise ProtocolError(f"no request is called {kind!r}; both processes must run the same version of kaggle_runner")
    return REQUESTS[kind]._from_values(values)


def _object(line: str) -> dict[str, Any]:
    try:
        if isinstance(values := json.loads(line), dict):
            return values
    except ValueError as error:
        raise ProtocolError(f"not a line of JSON: {line[:80]!r}") from error
    raise ProtocolError(f"not a JSON object: {line[:80]!r}")
