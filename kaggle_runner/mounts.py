"""Where Kaggle mounts what a kernel is pushed with: by kind and owner, and, as it once was, by the name alone."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

MOUNTED = {"dataset": "/kaggle/input/datasets/OWNER/NAME",
           "model": "/kaggle/input/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"}
"""What is written as `dataset` or `model`, by its kind; of a dataset, a file may follow."""
MOST_SEEN = 20_000
"""Files and folders that are looked at: a mount may hold a million pictures."""
MOST_NAMED = 3


def is_of_this_machine(value: str) -> bool:
    """Say whether a model or rows are named by a path of this machine; an absolute one may be in a docker image."""
    return value.startswith(("./", "../", "~")) or (not Path(value).is_absolute() and Path(value).exists())


def mounted_at(path: Path, marker: str = "") -> str:
    """Say where it is mounted what a path under `/kaggle/input` means; empty where nothing is like it.

    It has the path's last name or, of a folder that is known by its `marker`, most of the path's names.
    """
    parts = path.parts
    place = next((i + 2 for i, pair in enumerate(itertools.pairwise(parts)) if pair == ("kaggle", "input")), None)
    if place is None:
        return ""
    found = sorted(_like(Path(*parts[:place]), parts[place:], marker))
    best = [at for count, at in found if count == found[0][0]]
    more = f" and {len(best) - MOST_NAMED} more" if len(best) > MOST_NAMED else ""
    return f"; it is mounted at {', '.join(best[:MOST_NAMED])}{more}" if best else ""


def _like(root: Path, names: tuple[str, ...], marker: str) -> Iterator[tuple[int, str]]:
    """Yield what may be meant, each with how few of the names it has."""
    entries = ((folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files))
    for folder, name in itertools.islice(entries, MOST_SEEN):
        at = Path(folder) if marker else Path(folder, name)
        common = len({*names} & {*at.relative_to(root).parts})
        if common and name == (marker or names[-1]):
            yield -common, str(at)
