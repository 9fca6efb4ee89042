"""What the best trials write to the same held-out rows, beside the untouched base: read from the trials' folders."""

from dataclasses import dataclass

from kaggle_runner.study.answers import answers_of_trial
from kaggle_runner.study.journal import Snapshot

BEST = 3
"""Trials whose answers are shown."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One held-out row and what was written to it."""

    prompt: str
    expected: str
    base: str | None
    answers: tuple[tuple[str, str], ...]
    """Trial ids and their answers, the best trial first."""


def read_answers(snapshot: Snapshot) -> tuple[Asked, ...]:
    """Return the rows that the best trials answered; empty in a study of an earlier version, or of character models."""
    asked: dict[tuple[str, str], Asked] = {}
    for record in snapshot.ranked[:BEST]:
        assert record.result is not None
        folder = snapshot.directory / "trials" / str(record.result.notes.get("repeat_of") or record.trial.id)
        for row in answers_of_trial(folder):
            key = (row["prompt"], row["expected"])
            known = asked.get(key) or Asked(prompt=key[0], expected=key[1], base=row.get("base"), answers=())
            asked[key] = Asked(prompt=known.prompt, expected=known.expected, base=known.base,
                               answers=(*known.answers, (record.trial.id, row["answer"])))
    return tuple(asked.values())
