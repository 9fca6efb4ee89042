"""How a running trial talks to whoever runs it: its events, the requests to end early, and why it may give up."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kaggle_runner.events import Notify
from kaggle_runner.metrics import Metric
from kaggle_runner.study.trial import TrialResult

Value = TypeVar("Value")


class NotFinite(Exception):
    """The loss stopped being a number."""

    def __init__(self, what: str, value: float, step: int) -> None:
        self.step = step
        super().__init__(f"{what} became {value} at step {step}")


class Alone:
    """The process of a trial, which trains alone; `training.parallel.team` has those of a training of several."""

    @property
    def parts(self) -> range:
        """The shares into which the rows of a step are dealt."""
        return range(1)

    @property
    def is_final(self) -> bool:
        """Whether all rows are trained on, by one process or more, and nothing is compared."""
        return False

    @property
    def leads(self) -> bool:
        """Whether this process writes and evaluates."""
        return True

    def computes(self, share: int) -> bool:
        """Say whether a share is this process's."""
        return True

    def seed_masks(self, seed: int, step: int, place: int) -> None:
        """Leave dropout masks to the stream that a checkpoint brings back."""

    def add_up(self, *tensors: Any) -> None:
        """Put into each tensor the sum of what all processes have in it."""

    def agreed(self, asked: str | None) -> str | None:
        """Return what the first process was asked for."""
        return asked

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Have the first process make something, and give it to all of them."""
        return make()

    def require_alike(self, facts: Collection[str]) -> None:
        """See that all processes hold the same base, rows, configuration and step."""

    def require_rows(self, checkpoint: str | None, sha256: str) -> None:
        """See that a training goes on with the rows that it began with."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How a running trial hears that it should end, and where it keeps what it needs to go on."""

    poll: Callable[[], str | None]
    """Asked after every optimizer step: none, `stop` (evaluate and end) or `preempt` (checkpoint and end)."""
    emit: Notify
    directory: Path
    """The trial's directory: checkpoints and what was trained go here."""
    checkpoint_steps: int | None = None
    """Optimizer steps between checkpoints; none: only when preempted."""
    rung_steps: tuple[int, ...] = ()
    """Optimizer steps at which the trial is evaluated and judged."""
    judge: Callable[[int, float, float | None], str | None] = lambda step, value, loss: None
    """Says at a rung, from the step, its value of the metric and its loss, why the trial ends; none: it goes on."""
    when_trained: Callable[[], None] = lambda: None
    """Called once when the trial is complete, with its best weights in the model."""
    metric: Metric = field(default_factory=Metric)
    """What says which evaluation is the best, whose weights are kept."""
    keep: str = ""
    """What the decoder layers keep for the backward pass, as `layer.keep` writes it; empty: as the config says."""
    team: "Alone" = field(default_factory=lambda: Alone())
    """The processes that train this adapter together."""

    def checkpoint_is_due(self, step: int, max_steps: int) -> bool:
        """Say whether a checkpoint belongs after this step; the last one needs none."""
        return self.checkpoint_steps is not None and step % self.checkpoint_steps == 0 and step < max_steps


@dataclass(frozen=True, kw_only=True)
class Warm:
    """What a trainer has loaded for a config."""

    seconds_by_phase: Mapping[str, float]
    """Seconds that loading took just now, by phase; empty where everything was warm."""
    versions: Mapping[str, str]
    """Versions of Python and of the packages that take part."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the data under their own names."""
    train_rows: int | None = None
    """Training rows, from which the steps of epochs follow; none where no config has epochs."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of what was read, as results have it."""


ConfigType = TypeVar("ConfigType", contravariant=True)


class Trainer(Protocol[ConfigType]):
    """What a worker keeps warm for the configs of one kind, and trains them with."""

    threads: int
    """CPU threads that it trains with."""
    tries_bfloat16: bool
    """Whether a CPU may compute in bfloat16 where that is much faster; a final training stays in float32, because its
    losses do not depend on how many processes compute them."""

    def prepare(self, config: ConfigType) -> Warm:
        """Load what a config names, where it is not warm.

        Raises:
            KaggleRunnerError: what the config names is missing, unreadable or cannot work.
        """

    def baseline(self, config: ConfigType) -> Mapping[str, float]:
        """Measure the untouched base: every metric by its name.

        Raises:
            ConfigError: a model that is trained from nothing has no base.
        """

    def train(self, config: ConfigType, trial_id: str, control: Control) -> TrialResult:
        """Train one trial to its end.

        Raises:
            NotFinite: the loss stopped being a number.
        """
