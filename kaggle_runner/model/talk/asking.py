"""A question, an answer, and how the next token of one is chosen; needs no library."""

from collections.abc import Callable
from dataclasses import dataclass

Show = Callable[[str], None]
"""Takes each piece of an answer as it comes."""

COLDEST = 0.01
"""Temperature below which the likeliest token is taken: the next one would need to be within 0.1 of it to be drawn once
in 20,000 times."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    seed: int = 0

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn: not where the temperature leaves one of them alone, and would overflow 16 bits."""
        return self.temperature >= COLDEST


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said, and how fast."""

    text: str
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second, the reading of the prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt as tokens, what is shown of it, and what the row answers."""

    tokens_T: list[int]
    text: str
    expected: str | None = None
    is_cut: bool = False
    """Whether `expected` ends where the row was cut."""
