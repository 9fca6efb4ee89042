"""What a page says first of a study of the tuning lab: the decision between values that were trained with equal seeds.

The words are made by `report.lab`, which stays at home; what draws them rides to kernels too, and knows only this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.report.figures import Figure


@dataclass(frozen=True, kw_only=True)
class Lead:
    """A decision, and what it rests on."""

    title: str
    """Heading of its part of the page."""
    answer: str
    sentences: tuple[str, ...] = ()
    """How the table is to be read, how large the noise is, and what else a reader should know."""
    facts: tuple[tuple[str, str, str], ...] = ()
    """Name, value and note of each number that stands large."""
    warnings: tuple[str, ...] = ()
    tables: tuple[tuple[tuple[str, ...], ...], ...] = ()
    """Tables as rows of cells, the header first."""
    figures: tuple[Figure, ...] = ()
    summary: str = ""
    """The same in Markdown."""
    is_all: bool
    """Whether the study was for this decision alone: what one asks of a search would mislead there, since importance
    knows nothing of seeds, and best so far has no meaning where every value is run to its end."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a tuning plan has come to: the first part of its page."""

    title: str
    answer: str
    table: tuple[tuple[str, ...], ...]
    """One row for each stage, the header first."""


def frozen(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return a table that cannot be changed."""
    return tuple(tuple(row) for row in rows)


def nothing_first(directory: Path) -> Lead | None:
    """Say nothing first of any study: what reports outside of the lab do."""
    return None
