"""What trials are judged by: what each trainer measures, which way is better, and one order that everything follows.

Search, pruning, early stop, the best trial, reports and W&B take their order from `Metric.rank`, and from nothing else.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

Goal = Literal["minimize", "maximize"]

LOSS = "eval/loss"
TOKEN_ACCURACY = "eval/token_accuracy"
EXACT_MATCH = "eval/exact_match"
BITS_PER_BYTE = "eval/bits_per_byte"
BITS_PER_CHARACTER = "eval/bits_per_character"

MEASURED: Mapping[str, tuple[str, ...]] = {
    "finetune": (LOSS, EXACT_MATCH, TOKEN_ACCURACY, BITS_PER_BYTE),
    "charlm": (LOSS, TOKEN_ACCURACY, BITS_PER_BYTE, BITS_PER_CHARACTER)}
"""What the trainer of each name measures at every evaluation; the first is what a sweep without a metric goes by."""
GOALS: Mapping[str, Goal] = {LOSS: "minimize", EXACT_MATCH: "maximize", TOKEN_ACCURACY: "maximize",
                             BITS_PER_BYTE: "minimize", BITS_PER_CHARACTER: "minimize"}
LEAST_DIGITS = 4
"""Significant digits in which values are told apart that are not close."""
SEARCHED_TIE = 1e-6
"""What a nat of loss weighs beside a metric that it breaks the ties of, where a search needs one number.

A row of 10,000 held-out ones outweighs a hundred nats; where all values are the same, the loss alone is left.
"""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What the trials of a study are compared by."""

    name: str = LOSS
    goal: Goal = "minimize"

    @property
    def sign(self) -> float:
        """What makes a value of it small where it is good."""
        return -1.0 if self.goal == "maximize" else 1.0

    @property
    def has_ties(self) -> bool:
        """Whether the loss says which of two equal values is better: shares of rows and of tokens are often equal."""
        return self.goal == "maximize" and self.name in GOALS

    @property
    def beside(self) -> str:
        """The metric that is said in one breath with it: what a person reads, or what breaks its ties."""
        return EXACT_MATCH if self.name == LOSS else LOSS

    @property
    def short(self) -> str:
        """Return its name in a sentence about evaluations: `exact_match`."""
        return self.name.removeprefix("eval/")

    def as_dict(self) -> dict[str, str]:
        """Return it as a sweep file says it."""
        return {"name": self.name, "goal": self.goal}

    def rank(self, value: float, loss: float | None = None) -> tuple[float, float]:
        """Return what sorts the better one first; an unknown loss loses a tie."""
        return self.sign * value, (math.inf if loss is None else loss) if self.has_ties else 0.0

    def is_better(self, value: float, other: float) -> bool:
        """Say whether one value is better than another, ties left open."""
        return self.sign * value < self.sign * other

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of some values; none of none."""
        return min(values, key=lambda value: self.sign * value, default=None)

    def for_search(self, value: float, loss: float | None) -> float:
        """Return a value with its tie broken, as one number for a search."""
        return value + self.sign * SEARCHED_TIE * loss if self.has_ties and loss is not None else value


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What the evaluations of a trial measured, in order, and which was the best of them by the study's metric."""

    metric: Metric = field(default_factory=Metric)
    scores: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """Steps, and what was measured there by name; always the metric."""

    @classmethod
    def of_rows(cls, metric: Metric, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Take the evaluations out of the rows of a trial's history."""
        found = cls(metric=metric)
        for row in rows:
            found = found.with_row(row)
        return found

    def with_row(self, row: Mapping[str, Any]) -> Self:
        """Return them with a row of a trial's history, if that is an evaluation."""
        if row.get(self.metric.name) is None:
            return self
        return self.after(row["step"], {name: value for name, value in row.items()
                                        if name.startswith("eval/") and value is not None})

    def after(self, step: int, scores: Mapping[str, float]) -> Self:
        """Return them with one more."""
        return replace(self, scores=(*self.scores, (step, scores)))

    @classmethod
    def of_state(cls, metric: Metric, state: Iterable[tuple[int, Any]]) -> Self:
        """Read what a checkpoint holds; version 0.2 wrote losses alone."""
        return cls(metric=metric, scores=tuple(
            (step, dict(scores) if isinstance(scores, Mapping) else {LOSS: scores}) for step, scores in state))

    def as_state(self) -> list[list[Any]]:
        """Return them as a checkpoint holds them."""
        return [[step, dict(scores)] for step, scores in self.scores]

    @property
    def pairs(self) -> tuple[tuple[int, float], ...]:
        """Steps and values of the metric."""
        return tuple((step, scores[self.metric.name]) for step, scores in self.scores)

    @property
    def losses(self) -> tuple[float, ...]:
        """What breaks the ties of the metric, one for each evaluation; empty where it has none."""
        known = tuple(scores[LOSS] for _, scores in self.scores if LOSS in scores)
        return known if self.metric.has_ties and len(known) == len(self.scores) else ()

    @property
    def best(self) -> float | None:
        """The best value of the metric."""
        return self.best_scores.get(self.metric.name)

    @property
    def best_scores(self) -> Mapping[str, float]:
        """What was measured where the metric was best, the first time."""
        return self.scores[self._best_place][1] if self.scores else {}

    @property
    def since_best(self) -> int:
        """Evaluations after the best one; 0 while the last one is the best."""
        return len(self.scores) - 1 - self._best_place if self.scores else 0

    @property
    def last(self) -> tuple[int, float, float | None]:
        """Step, value and loss of the last evaluation, as it is judged at a rung."""
        step, scores = self.scores[-1]
        return step, scores[self.metric.name], scores.get(LOSS)

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a trial's result holds of them, by the names of its fields."""
        return {"metric": self.best, "evaluations": self.pairs, "losses": self.losses,
                "metrics": dict(self.best_scores)}

    @property
    def _best_place(self) -> int:
        ranks = [self.metric.rank(scores[self.metric.name], scores.get(LOSS)) for _, scores in self.scores]
        return ranks.index(min(ranks))


def metric_writer(name: str, values: Iterable[float]) -> Callable[[float | None], str]:
    """Return what writes values of a metric in as many digits as tell these apart; none is a dash."""
    digits = digits_of(values)
    return lambda value: "–" if value is None else format_metric(name, value, digits)


def format_metric(name: str, value: float, significant: int = LEAST_DIGITS) -> str:
    """Write a value of a metric for a person: as `format_number`, shares without needless zeros.

    Terminal, page and files write all of them by this, so that one number looks the same everywhere.
    """
    text = format_number(value, significant=significant)
    if GOALS.get(name) != "maximize" or "e" in text:
        return text
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}"


def format_number(value: float, digits: int = 4, *, significant: int = 0) -> str:
    """Write a number with four digits behind the point, or with a power of ten where that would show zeros alone, or
    would fill a line: 2.7183, 1.6022e-19; with more digits where `significant` asks for as many."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.{digits}f}"
    if 1e-3 <= abs(value) < 10.0 ** max(6, significant - 1):
        behind = significant - 1 - math.floor(math.log10(abs(value))) if significant else 0
        return f"{value:.{max(digits, behind)}f}"
    return f"{value:.{max(digits, significant - 1)}e}"


def digits_of(values: Iterable[float], least: int = LEAST_DIGITS) -> int:
    """Return how many significant digits tell values apart: `least`, and more where their middle half lies close."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return least
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    if low == high:
        low, high = ordered[0], ordered[-1]
    size, spread = max(abs(low), abs(high)), high - low  # what diverged takes no digits from the others, and gives none
    if not spread:
        return least
    return min(12, max(least, math.floor(math.log10(size)) - math.floor(math.log10(spread * (1 + 1e-9))) + least - 2))
