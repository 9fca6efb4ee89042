"""Which of a dataset's files and splits are trained on, and which are held out.

The rule for files is the one of Hugging Face's `datasets`: a keyword in the name of a file, or else of a folder above
it, set off by anything that is no letter. What is called a test is never trained on.
Source: `datasets` 4.x, data_files.py, KEYWORDS_IN_PATH_NAME_BASE_PATTERNS.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kaggle_runner.errors import DataError

KEYWORDS = {"validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing", "eval", "evaluation"),
            "train": ("train", "training")}
"""Held-out ones first: `test_train.jsonl` is not trained on."""
HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of splits that are held out; the first that is there is taken."""
FAMILIES = re.compile(r"^(train|test|validation|valid|val|dev|eval)_(\w+)$")
"""Splits that come in families, such as `train_sft` beside `train_gen`."""


def split_of(file: Path) -> str:
    """Tell the split of a file, a path below its dataset's folder, from its own name, else its folders', else train."""
    for name in (file.name.lower(), *(part.lower() for part in reversed(file.parts[:-1]))):
        words = set(re.split(r"[^a-z]+", name))
        for split, keywords in KEYWORDS.items():
            if words & set(keywords):
                return split
    return "train"


def choose_splits(names: Sequence[str], wanted: str | None, source: str) -> tuple[str, str]:
    """Return the split to train on and the one to hold out; the latter is empty where there is none.

    Raises:
        DataError: it is unclear which to train on; names them and the field that chooses.
    """
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"dataset_split is {wanted!r}, but {source} has the splits {_listed(names)}; name one of "
                            f"them")
        return wanted, _held_out(names, wanted)
    if len(names) == 1 and names[0] not in HELD_OUT:
        return names[0], ""
    if "train" in names:
        return "train", _held_out(names, "train")
    raise DataError(f"{source} has the splits {_listed(names)} and none is named train, so it is unclear which to "
                    f"train on; choose one with dataset_split: {_likely(names)}")


def _held_out(names: Sequence[str], train: str) -> str:
    family = FAMILIES.match(train)
    beside = [f"{name}_{family[2]}" for name in HELD_OUT] if family else []
    return next((name for name in (*beside, *HELD_OUT) if name in names and name != train), "")


def _likely(names: Iterable[str]) -> str:
    names = list(names)
    return next((name for name in names if name.startswith("train")), names[0])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
