"""The mark at the end of a page: how much of each journal it shows, so that nobody is sent to an old one."""

import os
from collections.abc import Sequence
from pathlib import Path

from kaggle_runner.study.near import JOURNAL

_LONGEST = 4096


def mark_of(studies: Sequence[Path]) -> str:
    """Return the comment for a page of these studies as they are now; take it before they are read."""
    return f"<!-- journals of {' '.join(str(_size(study)) for study in studies)} bytes -->\n"


def is_current(page: Path, study: Path) -> bool:
    """Say whether a page shows all of its study; one without a mark is judged by its time."""
    try:
        with open(page, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST))
            last = file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
        if last.startswith("<!-- journals of "):
            return last == mark_of([study]).strip()
        return page.stat().st_mtime >= (study / JOURNAL).stat().st_mtime
    except OSError:
        return False


def _size(study: Path) -> int:
    try:
        return (study / JOURNAL).stat().st_size
    except OSError:
        return 0
