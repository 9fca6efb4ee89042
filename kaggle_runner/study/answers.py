"""What a trial's model wrote to a few held-out rows, as its folder keeps it."""

import json
from pathlib import Path
from typing import Any

ANSWERS = "answers.json"
"""In a trial's folder."""
COLUMNS = ("prompt", "expected", "base", "answer")
"""What a row of it has: the question, the row's own answer, the untouched base's, which may be missing, the model's."""
CUT = " (cut at max_length)"
"""What a person reads behind a row's own answer that was cut."""


def answers_of_trial(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a trial's answers for a person; none where there are none, or something else was written."""
    try:
        rows = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))["rows"]
        return [{**row, "expected": row["expected"] + CUT * (row.get("cut") is True)} for row in rows
                if all(isinstance(row.get(name), str) for name in ("prompt", "expected", "answer"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
