"""What became of every row that was read: the counts that a person must see before believing a loss."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kaggle_runner.errors import DataError

WAYS_OUT = {
    "max_length": "raise max_length",
    "chat template": "use a model whose chat template knows these turns, or rewrite them",
    "picture": "give rows of text",
    "lone surrogate": "write whole characters into them",
    "nested": "make them flat",
    "answer": "fill the column of the answers",
}
"""What to do about a reason that holds these words, the first that does."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts of rows: `read` is the sum of all others but `cut` and `unanswered`, which are used."""

    read: int
    train: int
    """Trained on."""
    validation: int
    """Held out."""
    duplicates: int = 0
    """Left out because a held-out row says the same."""
    not_drawn: int = 0
    """Not asked for: beyond `samples` and `max_eval_samples`."""
    cut: int = 0
    """Used, but cut at `max_length`."""
    unanswered: int = 0
    """Used, but without the turns after their last answer."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Left out, by reason."""
    lost_in_reading: int = 0
    """Of these, those that were lost before rows were drawn."""

    def encoded(self, *, train: int, validation: int, cut: int, lost: Mapping[str, int]) -> "Account":
        """Return the account after tokenisation, which loses and cuts rows that were drawn."""
        return replace(self, train=train, validation=validation, cut=cut,
                       lost=dict(sorted((Counter(self.lost) + Counter(lost)).items())))

    @property
    def lost_share(self) -> float:
        """The larger of two shares: of all rows, those lost in reading; of the rows asked for, those lost later."""
        later = sum(self.lost.values()) - self.lost_in_reading
        asked = self.train + self.validation + later
        return max(self.lost_in_reading / max(1, self.read), later / max(1, asked))

    @property
    def losses(self) -> str:
        """The rows that are lost, by reason, in words."""
        return ", ".join(f"{count:,} ({reason})" for reason, count in self.lost.items()) or "none"

    def as_line(self) -> str:
        """Return all counts but those that are zero."""
        parts = [f"{self.read:,} rows read: {self.train:,} trained, {self.validation:,} held out"]
        parts += [f"{count:,} {what}" for count, what in (
            (self.duplicates, "duplicates of held-out rows"), (self.not_drawn, "not asked for"),
            (self.cut, "of those used cut at max_length"),
            (self.unanswered, "of those used without the turns after their last answer")) if count]
        return ", ".join([*parts, *([f"left out {self.losses}"] if self.lost else [])])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"read": self.read, "train": self.train, "validation": self.validation, "duplicates": self.duplicates,
                "not_drawn": self.not_drawn, "cut": self.cut, "unanswered": self.unanswered, "lost": dict(self.lost)}

    def require(self, max_lost_share: float, source: str) -> None:
        """Refuse data of which more is lost than `max_lost_share` allows.

        Raises:
            DataError: says how much, why, and what to do.
        """
        share = self.lost_share
        if share <= max_lost_share:
            return
        ways = list(dict.fromkeys(next((way for words, way in WAYS_OUT.items() if words in reason), "give other rows")
                                  for reason in self.lost))
        raise DataError(f"{share:.0%} of the rows asked of {source} would be left out: {self.losses}; a loss without "
                        f"them says little, so {', or '.join([*ways, f'set max_lost_share: {share + 0.005:.2f}'])}")
