"""What a study leads to: what goes on with it, and its winner trained on all rows, here or on a host, with the time
that it takes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_MODEL, FinetuneConfig
from kaggle_runner.files import folder_name
from kaggle_runner.mounts import is_of_this_machine
from kaggle_runner.study.journal import Snapshot, confirm_directory
from kaggle_runner.study.near import JOURNAL, LAB, STUDIES
from kaggle_runner.study.pace import forecast_s
from kaggle_runner.sweep.address import plain_address

OWN_WORDS = 3
"""Words of a command before its verb: `python -m kaggle_runner`."""
HOUR_S = 3600.0
KAGGLE_SESSION_S = 12 * HOUR_S - 25 * 60
"""Seconds of training in a session of 12 hours, as `memory.plan` has them."""
WEEK_S = 30 * HOUR_S
"""Seconds of a GPU that an account has in a week; what of them is used already is not asked here."""


def full_lines(snapshot: Snapshot, *, here: str, push: str) -> list[tuple[str, str]]:
    """Say how the winner is trained on all rows, by a command here and one on Kaggle, each with what it takes.

    Nothing for a final training.
    """
    best = snapshot.best
    config = best.trial.config if best is not None else None
    if best is None or not isinstance(config, FinetuneConfig) or best.trial.origin == "final":
        return []
    rows = rows_known(snapshot, config.dataset)
    epochs = config.num_train_epochs or 1
    seconds = None if rows is None else forecast_s(_all_rows(config, rows, epochs), snapshot)
    of = "all rows" if rows is None else f"{rows:,} rows, {epochs:g} pass{'' if epochs == 1 else 'es'}"
    gpus = [str(gpu["name"]) for gpu in snapshot.sessions[-1].get("gpus", ()) if isinstance(gpu, Mapping)] \
        if snapshot.sessions else []
    on_t4 = bool(gpus) and "T4" in gpus[0]
    lines = [(here, of if seconds is None else f"{of}: {hours(seconds)}{' on one GPU' if gpus else ''}")]
    if config.model != DEMO_MODEL and not any(
            map(is_of_this_machine, filter(None, (config.model, config.dataset, config.eval_dataset)))):
        sessions = 3 if seconds is None or not on_t4 else math.ceil(seconds / 2 / KAGGLE_SESSION_S)
        told = f": {_on_kaggle(seconds / 2, sessions)}" if seconds is not None and on_t4 else ""
        lines.append((f"{push} --full --sessions {sessions} --wait", f"all rows, both T4s{told}"))
    return lines


def leading_to(snapshot: Snapshot, typed: Sequence[str]) -> Sequence[str | Path]:
    """Return the words of a command that made a study so that they lead to it from here, though it was moved or copied.

    What leads to a database stays as it is.
    """
    verb = typed[OWN_WORDS] if len(typed) > OWN_WORDS else ""
    place = snapshot.directory
    if (place.parent / JOURNAL).is_file() and confirm_directory(place.parent) == place:
        place = place.parent
    if verb == "tune":
        option, place, goes = "--out", place.parent, Path(LAB)
    else:
        name = plain_address(typed[-1]).rpartition("/")[2] if verb == "agent" else snapshot.info.name
        option, goes = "--study", Path(STUDIES, folder_name(name))
    if any(word.partition("=")[0] == "--storage" for word in typed):
        return typed
    given, others = _parted(typed, option)
    return typed if Path(given or goes).resolve() == place.resolve() else [*others, option, place]


def to_place(typed: Sequence[str], place: Path) -> Sequence[str | Path]:
    """Return the words of a command with another place for its study."""
    return [*_parted(typed, "--study")[1], "--study", place]


def _parted(typed: Sequence[str], option: str) -> tuple[str, list[str]]:
    """Return what a command gives for an option, empty for none, and its other words."""
    given, others = "", []
    words = iter(typed)
    for word in words:
        head, _, value = word.partition("=")
        if head == option:
            given = value or next(words, "")
        else:
            others.append(word)
    return given, others


def _on_kaggle(seconds: float, sessions: int) -> str:
    left = WEEK_S - seconds
    week = f"{hours(left)} of a week's {WEEK_S / HOUR_S:.0f} are left" if left >= 0 else \
        f"more than a week's {WEEK_S / HOUR_S:.0f} h"
    return f"{hours(seconds)}, {sessions} session{'' if sessions == 1 else 's'}, {week}"


def _all_rows(config: FinetuneConfig, rows: int, epochs: float) -> FinetuneConfig:
    values = {name: value for name, value in config.as_dict().items() if name != "max_steps"}
    return FinetuneConfig.from_params({**values, "num_train_epochs": epochs}).counted(rows)


def rows_known(snapshot: Snapshot, dataset: str) -> int | None:
    """Return the training rows of a dataset that a study has read, those left out of its `samples` too."""
    read = snapshot.rows if len({facts.get("dataset") for facts in snapshot.rows}) == 1 else [
        facts for facts in snapshot.rows if facts.get("dataset") == dataset]  # a record has the source's own name
    counts: list[Mapping[str, Any]] = [facts["rows"] for facts in read]
    return int(counts[-1]["train"]) + int(counts[-1]["not_drawn"]) if counts else None


def hours(seconds: float) -> str:
    """Write a duration in hours, or in minutes or seconds where it is short."""
    if seconds >= HOUR_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
