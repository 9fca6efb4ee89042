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
KNOWN_FAMILIES = ("sft", "gen", "prefs", "dpo", "kto", "ppo", "rm")
"""Source: HuggingFaceH4's ultrachat_200k and ultrafeedback_binarized, and TRL's names of its trainers."""


SHARD = re.compile(r"-\d{5}-of-\d{5}")
"""What the hub puts behind the name of a split in the names of its files."""


def split_of(file: Path) -> str:
    """Tell the split of a file, a path below its dataset's folder, from its own name and its folders'.

    A name that is held out decides before one that is trained on, wherever it stands: `test/train.jsonl` is a test.
    """
    for split, keywords in KEYWORDS.items():
        for name in reversed(file.parts):
            if set(re.split(r"[^a-z]+", name.lower())) & set(keywords):
                return split
    return "train"


def families(files: Sequence[Path]) -> dict[Path, str]:
    """Return the split of each file that is of one of several families, as `train_sft` beside `train_gen`.

    Names that the hub's own numbers follow are whole names of splits; of other names only its known families are, for
    `train_a` and `train_b` may be parts of one split.
    """
    found = {}
    for file in files:
        stem, sharded = file.name.split(".")[0].lower(), SHARD.search(file.name)
        match = FAMILIES.match(stem[:sharded.start()] if sharded else stem)
        if match and (sharded or match[2] in KNOWN_FAMILIES):
            found[file] = match[0]
    trained = {name for name in found.values() if name.startswith("train")}
    return found if len(trained) > 1 else {}


def choose_configuration(names: Sequence[str], usual: Sequence[str], wanted: str | None, source: str, *,
                         of_evaluation: bool) -> str | None:
    """Return the configuration to read: the one that is asked for, or the only one, or one that is usual.

    Held-out rows are read from the configuration that is asked for too, where their dataset has it.

    Raises:
        DataError: it is not there, or unclear; names them and the field that chooses.
    """
    if wanted in names:
        return wanted
    if wanted is not None and not of_evaluation:
        raise DataError(f"dataset_config is {wanted!r}, but {source} has "
                        + (f"the configurations {_listed(names)}; name one of them" if names else
                           "no configurations; leave it out"))
    found = next((name for name in names if len(names) == 1 or name in usual), None)
    if names and found is None:
        raise DataError(f"{source} has several configurations, {_listed(names)}; "
                        + ("of an eval_dataset only the one that dataset_config names is read: give its rows as a file"
                           if of_evaluation else f"choose one with dataset_config: {names[0]}"))
    return found


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
