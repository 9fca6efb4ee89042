"""What a trial's loss was measured over: losses over other tokens, or after other rows, cannot be compared.

A file, or the folder of a model, may have changed between two sessions of a study.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kaggle_runner.config import FinetuneConfig, config_from_params
from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.metrics import BITS_PER_BYTE
from kaggle_runner.study.ranking import is_complete
from kaggle_runner.study.trial import Status, TrialRecord

HOW = ("max_length", "completion_only_loss", "train_on", "max_eval_samples")
OWN_ROWS = ("dataset", "dataset_config", "dataset_split", "dataset_revision", "columns", "eval_share")
READ = ("data", "rows", "text", "base")
"""Names of hashes: the rows as they were read, the rows as tokens, a text, the files of a model's folder."""
Read = Mapping[tuple[str, str], str]
"""What was read: its name among `READ` and the hyperparameters that say what to read -> hash."""


def scoring_of(params: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """Return the hyperparameters that decide which tokens a trial was scored on; none where they are no trainer's."""
    try:
        config = config_from_params(params)
    except ConfigError:
        return None
    if not isinstance(config, FinetuneConfig):
        return {name: getattr(config, name) for name in ("dataset", "symbols", "max_eval_tokens")}
    scored = config.for_scoring()
    rows = OWN_ROWS if config.eval_dataset is None else ("eval_dataset", "columns")
    names = (*(() if metric == BITS_PER_BYTE else ("model",)), *rows, *HOW)
    return {name: getattr(scored, name) for name in names}


def differing(scorings: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Name the hyperparameters in which some scorings are not alike; what is not known is like everything."""
    known = [scoring for scoring in scorings if scoring is not None]
    names = dict.fromkeys(name for scoring in known for name in scoring)
    return [name for name in names if any(scoring.get(name) != known[0].get(name) for scoring in known)]


def read_by(params: Mapping[str, Any], hashes: Mapping[str, str]) -> Read:
    """Return what a training read; trials with other hyperparameters may rightly have read something else.

    Of rows the hash as they were read counts: with other versions of the libraries the same rows may be other tokens,
    and with another version of this package they have another hash. Studies of 0.2 hold the hash of tokens alone,
    which is compared among themselves.
    """
    try:
        config = config_from_params(params)
    except ConfigError:
        return {}
    is_finetune = isinstance(config, FinetuneConfig)
    own = repr(config.rows_key) if isinstance(config, FinetuneConfig) else repr((config.dataset, config.symbols))
    named = {name: repr(params.get("model")) if name == "base" and is_finetune else own for name in READ}
    # a model of the hub has a new commit for each change of its page
    return {(name, by): hashes[name] for name, by in named.items()
            if name in hashes and not hashes[name].startswith("commit:") and not (name == "rows" and "data" in hashes)}


def differing_data(read: Read, known: Read) -> list[tuple[str, str]]:
    """Return what is there otherwise than is known."""
    return [key for key in read if known.get(key, read[key]) != read[key]]


def read_by_most(records: Iterable[TrialRecord]) -> Read:
    """Return what most complete trials read, where some read something else; the first of two equals.

    What failed is no measure: perhaps the rows were mended for it.
    """
    groups: list[tuple[dict[tuple[str, str], str], list[bool]]] = []
    for record in records:
        if record.result and record.result.status is Status.FAILED:
            continue
        read = read_by(record.trial.params, record.result.hashes) if record.result else {}
        known, complete = next((group for group in groups if not differing_data(read, group[0])), ({}, []))
        if not complete:
            groups.append((known, complete))
        known |= {key: value for key, value in read.items() if key not in known}
        complete.append(is_complete(record))
    return max(groups, key=lambda group: sum(group[1]))[0] if groups else {}


def on_other_data(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials that read something else than most, so that their losses do not compare, nor their failures."""
    read = [record for record in records if record.result and record.result.hashes]
    if len({tuple(record.result.hashes.get(name) for name in READ) for record in read if record.result}) < 2:
        return ()
    known = read_by_most(read)
    return tuple(record for record in read
                 if record.result and differing_data(read_by(record.trial.params, record.result.hashes), known))


def other_data(directory: Path, records: Sequence[TrialRecord], params: Mapping[str, Any],
               hashes: Mapping[str, str]) -> str:
    """Say that a training reads something else than most trials of a study did; empty where it does not."""
    known, read = read_by_most(records), read_by(params, hashes)
    for name, by in differing_data(read, known):
        last = next(record for record in reversed(records) if record.result and read_by(
            record.trial.params, record.result.hashes).get((name, by)) == known[name, by])
        what = {"text": "the text of {dataset}", "base": "the model in {model}"}.get(name, "the rows of {dataset}")
        return (f"{what.format(**params)} changed after trial {last.trial.id} of {directory} (SHA-256 "
                f"{known[name, by][:12]} then, {read[name, by][:12]} now), so losses do not compare")
    return ""


def require_same_data(directory: Path, records: Sequence[TrialRecord], params: Mapping[str, Any],
                      hashes: Mapping[str, str]) -> None:
    """See that a training reads what most trials of a study did.

    Raises:
        StudyError: it does not.
    """
    if why := other_data(directory, records, params, hashes):
        learns = "" if records[0].trial.origin == "final" else (
            f", where a Bayesian sweep learns from these trials with --prior-study {directory}")
        raise StudyError(f"{why}; put it back as it was, or begin anew with another --study{learns}")
