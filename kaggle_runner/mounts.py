"""What a model or rows are named by: a path of this machine, where Kaggle mounts them, or what must be fetched.

Kaggle mounts by kind and owner, and, as it once did, by the name alone.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_DATASET, DEMO_MODEL, values_in
from kaggle_runner.config_charlm import TEXT8, TEXT8_HOST

MOUNTED = {"dataset": "/kaggle/input/datasets/OWNER/NAME",
           "model": "/kaggle/input/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"}
"""What is written as `dataset` or `model`, by its kind; of a dataset, a file may follow."""
MOST_SEEN = 20_000
"""Files and folders that are looked at: a mount may hold a million pictures."""
MOST_NAMED = 3
HUB = "the hub"
KINDS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
         ".txt": "text"}
"""How a file is read, by the end of its name."""
PACKED = (".gz", ".zst", ".bz2", ".xz")
"""Ends of names of packed files, after the kind's: `rows.jsonl.gz`."""


def is_of_this_machine(value: str) -> bool:
    """Say whether a model or rows are named by a path of this machine; an absolute one may be in a docker image."""
    return value.startswith(("./", "../", "~")) or (not Path(value).is_absolute() and Path(value).exists())


def kind_of(path: Path) -> str:
    """Tell how a file is read; empty if it is no file of rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return KINDS.get(suffixes[-1], "") if suffixes else ""


def may_be_on_hub(dataset: str) -> bool:
    """Say whether the hub could have a dataset that is called so; it is not where a file or folder is, too."""
    return not (dataset[:1] in "/.~" or dataset.count("/") > 1 or kind_of(Path(dataset)))


def fetched(params: Mapping[str, Any]) -> dict[str, str]:
    """Say what trials of these parameters, values or what these are chosen from, must fetch, each with where from.

    Nothing that is here, and nothing that reads like a path: of one that is mistyped the words are about the folder.
    """
    if "charlm" in values_in(params, "trainer"):
        return {TEXT8: TEXT8_HOST} if TEXT8 in values_in(params, "dataset") else {}
    return {value: HUB for name in ("model", "dataset", "eval_dataset") for value in values_in(params, name)
            if value not in (None, DEMO_MODEL, DEMO_DATASET) and not os.path.exists(value) and (
                value.count("/") == 1 and value[0] not in "/.~" if name == "model" else may_be_on_hub(value))}


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
