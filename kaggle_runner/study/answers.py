"""What a trial's model wrote to a few held-out rows, as its folder keeps it."""

import json
from pathlib import Path
from typing import Any

ANSWERS = "answers.json"
"""In a trial's folder."""
COLUMNS = ("prompt", "expected", "base", "answer")
"""What a row of it has: the question, the row's own answer, the untouched base's, which may be missing, the model's."""


def answers_of_trial(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a trial's answers; none where there are none, or something else than was written."""
    try:
        rows = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))["rows"]
        return [row for row in rows if all(isinstance(row.get(name), str) for name in ("prompt", "expected", "answer"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
