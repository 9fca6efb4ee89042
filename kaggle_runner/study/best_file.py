"""`best.yaml` beside a study: its winner's configuration, complete, as `train` takes it."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.files import write_atomically
from kaggle_runner.study.journal import JOURNAL, Snapshot, changed_keys, read_study
from kaggle_runner.study.table import best_value
from kaggle_runner.sweep.spec import SweepSpec, read_configuration

BEST = "best.yaml"
BEST_SUFFIX = "-best"
"""What the name of a winner's training has behind that of its study."""


def write_best(snapshot: Snapshot) -> Path | None:
    """Write the winner's configuration into the study's folder and return the file; none without a complete trial.

    Raises:
        StudyError: the folder cannot be written.
    """
    best = snapshot.best
    if best is None or best.result is None:
        return None
    try:
        values = config_from_params(best.trial.params).as_dict()
    except ConfigError:  # of another version, which knew other hyperparameters
        values = dict(best.trial.params)
    count = len(snapshot.finished)
    head = [f"the best of {count} finished trial{'s' if count > 1 else ''} of the study {snapshot.info.name}: trial "
            f"{best.trial.id}, {snapshot.info.metric} {best_value(snapshot)}",
            "every hyperparameter of it, for: python -m kaggle_runner train best.yaml",
            "relative paths begin in the folder that the study was run from"]
    path = snapshot.directory / BEST
    write_atomically(path, "".join(f"# {' '.join(line.split())}\n" for line in head)
                     + "".join(f"{name}: {yaml_text(value)}\n" for name, value in values.items()))
    return path


def read_chosen(path: Path) -> tuple[SweepSpec, str]:
    """Read what `train` is given, a YAML file, a trial's `config.json` or a study, and return a name for it too.

    Of a study the winner is taken.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
        StudyError: the study has no complete trial, or cannot be written.
    """
    if (path / JOURNAL).is_file():
        snapshot = read_study(path)
        best = write_best(snapshot)
        if best is None:
            raise StudyError(f"no trial of {path} is complete, so it has no winner to train; run the command that made "
                             f"it again to go on with it, or give a trial's config.json")
        return read_configuration(best), f"{path.resolve().name}{BEST_SUFFIX}"
    spec = read_configuration(path)
    if path.name == "config.json" and path.resolve().parent.parent.name == "trials":
        trial = path.resolve().parent
        return spec, f"{trial.parent.parent.name}-{trial.name}"
    if path.name == BEST and (path.parent / JOURNAL).is_file():
        return spec, f"{path.resolve().parent.name}{BEST_SUFFIX}"
    return spec, spec.name


def final_name(name: str) -> str:
    """Return the name of the final training of what has a name, which may be one itself."""
    return f"{name.removesuffix(BEST_SUFFIX).removesuffix('-final')}-final"


def study_of(path: Path) -> Path | None:
    """Return the study that something given to `train` lies in, itself or as one of its files; none if in none."""
    return next((folder for folder in (path, path.parent, path.parent.parent.parent) if (folder / JOURNAL).is_file()),
                None)


def refuse_trained(study: Snapshot | None, fixed: Mapping[str, Any]) -> None:
    """Refuse to train a configuration on all rows once more where a study is that training.

    Raises:
        StudyError: it is.
    """
    best = study.best if study else None
    if study and best and best.trial.origin == "final" and \
            best.trial.config == config_from_params({**best.trial.params, **fixed}):
        raise StudyError(f"{study.directory} is this very training, to its end; export it or ask it something, or "
                         f"train it for longer with --epochs; if its rows have changed since, give a copy of its "
                         f"best.yaml")


def place_for(directory: Path, sweep: Mapping[str, Any] | None) -> Path:
    """Return where what a study chose is trained: the usual folder, or the next one if that has trained another choice.

    So a winner that changed is trained beside the one before, and the same command goes on with its own. Without a
    `sweep` every training is another choice.

    Raises:
        StudyError: what lies there cannot be read.
    """
    for number in itertools.count(1):
        place = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
        if not (place / JOURNAL).is_file() or not (place / JOURNAL).stat().st_size:
            break
        if sweep is None:
            continue
        there = read_study(place)
        if there.is_blank or not changed_keys(there.info.sweep, sweep):
            break
    return place


def yaml_text(value: Any) -> str:
    """Write a value as YAML on one line, so that a reader of YAML 1.1 reads the same: 1.0e-05 and never 1e-05."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{yaml_text(str(key))}: {yaml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(yaml_text(item) for item in value) + "]"
    if isinstance(value, float) and math.isfinite(value):
        mantissa, mark, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{mark}{exponent}" if mark else mantissa
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in (
        "true", "false", "yes", "no", "on", "off", "null", "none", "y", "n")
    # A page or a fenced block could take two signs for markup; JSON has two halves for an emoji, which YAML leaves two.
    return value if is_plain else re.sub(
        "[<`]|[^ -~]", lambda sign: sign[0] if sign[0].isprintable() and sign[0] not in "<`"
        else f"\\U{ord(sign[0]):08x}", json.dumps(value, ensure_ascii=False))
