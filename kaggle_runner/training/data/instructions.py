"""Instruction data: find it, read it, hold out the validation rows, draw the training rows.

Which rows a trial sees depends on its dataset and on `samples`, never on its seed.
"""

import contextlib
import difflib
import glob
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from kaggle_runner.config import DEMO_DATASET, MOST_SAMPLES, FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.files import write_cache_file
from kaggle_runner.training.data import builtin_docs
from kaggle_runner.training.data.builtin_docs import held_out_fraction, normalized
from kaggle_runner.training.data.formats import Layout, Row, plain_name, recognise

DATA_SEED = 0
"""Seed of the draw of `samples` rows: fixed, so that all trials of a study train on the same rows."""
READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
"""The reader of `datasets` for each suffix."""
VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of splits that are held out; the first that is there is taken."""
NO_ROWS_INSIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` and the hub write beside the rows of a folder."""


@dataclass(frozen=True, kw_only=True)
class InstructionData:
    """The rows of one study, before tokenisation."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    source: str
    """What was read: a hub id, a path, or the running Python's documentation."""
    format: str
    """The layout that was recognised, such as `alpaca: instruction, input -> output`."""
    held_out: str
    """Where the validation rows come from."""
    duplicates_removed: int
    """Training rows left out because the validation rows hold the same text."""
    without_answer: int
    """Rows left out because there is nothing to learn in them."""
    sha256: str
    """SHA-256 of both splits, in their order."""


def load_rows(config: FinetuneConfig, *, cache_directory: Path) -> InstructionData:
    """Read the dataset of a config, hold out its validation rows, and draw its training rows.

    A validation or test split of the dataset is held out where there is one; otherwise the rows with the lowest
    `held_out_fraction` of their prompts, whatever `samples` and `seed` say. Training rows are drawn with the fixed
    `DATA_SEED`: the config's seed does not change them, and fewer `samples` are a subset of more. Only the built-in
    rows are kept in `cache_directory`.

    Raises:
        DataError: the dataset is missing, unreadable, unrecognised, empty, or has fewer rows than asked for.
    """
    contents = _read(config.dataset, cache_directory)
    if contents.held_out:
        train, validation = list(contents.train), _lowest(contents.held_out, config.max_eval_samples)
        held_out = f"{len(validation)} rows of its {contents.held_out_split} split"
    else:
        train, validation = _hold_out(contents, config.max_eval_samples, config.eval_share)
        held_out = f"{len(validation)} rows with the lowest hash of their prompt"
    forbidden = {_identity(row) for row in validation}
    kept = [row for row in train if _identity(row) not in forbidden]
    duplicates = len(train) - len(kept)
    if not kept:
        raise DataError(f"all {len(train)} training rows of {contents.source} are validation rows too, which would "
                        f"make eval/loss worthless; give it other validation rows, or none")
    if not config.full_dataset:
        kept = _draw(kept, _count_of(config, len(kept), contents.source))
    text = json.dumps([[row.turns for row in split] for split in (kept, validation)])
    return InstructionData(
        train=tuple(kept), validation=tuple(validation), source=contents.source, format=contents.format,
        held_out=held_out, duplicates_removed=duplicates, without_answer=contents.without_answer,
        sha256=hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """All rows of a dataset."""

    source: str
    format: str
    train: Sequence[Row]
    held_out: Sequence[Row] = ()
    """Rows of its own validation split; empty where there is none."""
    held_out_split: str = ""
    without_answer: int = 0


def _read(dataset: str, cache_directory: Path) -> _Contents:
    if dataset == DEMO_DATASET:
        return _Contents(source=f"{DEMO_DATASET} ({builtin_docs.fingerprint()})",
                         format=f"{DEMO_DATASET}: question about a name -> its documentation",
                         train=[Row.pair(*pair) for pair in _builtin_pairs(cache_directory)])
    path = Path(dataset).expanduser()
    if os.path.exists(path):  # unlike Path.exists, no error for a folder that may not be searched
        return _read_local(path)
    if path.is_absolute() or dataset.startswith((".", "~")) or dataset.count("/") > 1 or path.suffix.lower() in READERS:
        raise DataError(f"the dataset {dataset} does not exist{_did_you_mean(path)}; give a json, jsonl, csv or "
                        f"parquet file, a folder of them, a hub id, or {DEMO_DATASET}")
    with _reading(dataset):
        return _contents(datasets.load_dataset(dataset), dataset)


def _contents(tables: Mapping[str, Any], source: str) -> _Contents:
    """Turn the splits of a dataset into rows."""
    train_split = next(iter(tables)) if len(tables) == 1 else "train"
    if train_split not in tables:
        raise DataError(f"{source} has the splits {', '.join(tables)} and none is named train, so it is unclear which "
                        f"to train on; save the rows you want to a local file and name that")
    train, without_answer, layout = _rows(tables[train_split], source)
    held_out_split = next((name for name in VALIDATION_SPLITS if name in tables and name != train_split), "")
    held_out: list[Row] = []
    if held_out_split:
        held_out, more_without_answer, _ = _rows(tables[held_out_split], f"{source} ({held_out_split})")
        without_answer += more_without_answer
    if not train:
        if without_answer:
            raise DataError(f"all {without_answer} rows of {source} have an empty answer ({layout}), so there is "
                            f"nothing to learn; check that the right columns are filled")
        raise DataError(f"{source} has no rows; give a dataset with at least 2")
    return _Contents(source=source, format=layout, train=train, held_out=held_out, held_out_split=held_out_split,
                     without_answer=without_answer)


def _rows(table: Any, source: str) -> tuple[list[Row], int, str]:
    """Return the rows that have an answer, how many have none, and the layout in words."""
    rows: list[Row] = []
    count, layout, description = 0, None, ""
    for batch in table.iter(batch_size=1000):
        columns = {plain_name(name): values for name, values in batch.items()}
        if layout is None:
            layout = recognise(batch, source)
            description = layout.describe(columns)
        used = {name: values for name, values in columns.items() if name in (*layout.prompt, layout.completion)}
        for values in zip(*used.values(), strict=True):
            count += 1
            row = _row(layout, dict(zip(used, values, strict=True)), f"row {count} of {source}")
            if row is not None:
                rows.append(row)
    return rows, count - len(rows), description


def _row(layout: Layout, example: Mapping[str, Any], where: str) -> Row | None:
    try:
        return layout.row(example)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _builtin_pairs(cache_directory: Path) -> list[tuple[str, str]]:
    """Return the built-in rows, from the disk where they were made before: parsing Python's sources takes seconds."""
    path = cache_directory / f"{builtin_docs.fingerprint()}.json"
    with contextlib.suppress(OSError, ValueError):
        pairs = json.loads(path.read_text(encoding="utf-8"))
        return [(prompt, completion) for prompt, completion in pairs]
    pairs = builtin_docs.rows()
    with contextlib.suppress(OSError):  # next time they are made again
        write_cache_file(path, json.dumps(pairs).encode())
    return pairs


# Files and the hub


def _read_local(path: Path) -> _Contents:
    files = _data_files(path)
    readers = sorted({READERS[Path(file).suffix.lower()] for split in files.values() for file in split})
    if len(readers) > 1:
        raise DataError(f"the folder {path} mixes {' and '.join(readers)} files, which are read differently; keep one "
                        f"kind there, or name a single file")
    # An answer may well be "None", "NA" or "007": of itself pandas makes a gap or a number of it.
    as_text = {"converters": dict.fromkeys(range(64), str), "keep_default_na": False}  # columns by their place
    options = as_text if readers == ["csv"] else {}
    with tempfile.TemporaryDirectory() as locks, _reading(str(path)):
        # Streamed, so that no copy is written; all that is left are lock files, which go with their folder.
        tables = datasets.load_dataset(readers[0], data_files=files, streaming=True, cache_dir=locks, **options)
        return _contents(tables, str(path))


def _data_files(path: Path) -> dict[str, list[str]]:
    """Sort a file, or the files below a folder, into splits by their names; any other name is a training file."""
    if path.is_file() and path.suffix.lower() not in READERS:
        raise DataError(f"{path} is not a json, jsonl, csv or parquet file, judging by its name; convert it to one")
    found = [path] if path.is_file() else [
        file for file in sorted(path.rglob("*"))
        if file.suffix.lower() in READERS and file.is_file() and file.name not in NO_ROWS_INSIDE
        and not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not found:
        raise DataError(f"the folder {path} holds no json, jsonl, csv or parquet file; put one there, or name another")
    empty = [str(file) for file in found if file.stat().st_size == 0]
    if empty:
        raise DataError(f"{', '.join(empty)} is empty, so there is nothing to learn; write the rows again")
    splits: dict[str, list[str]] = {}
    for file in found:
        split = "train" if path.is_file() else _split_of(file)
        splits.setdefault(split, []).append(glob.escape(str(file.resolve())))
    if "train" not in splits:
        raise DataError(f"the folder {path} has only {' and '.join(splits)} files, so there is nothing to train on; "
                        f"rename one to train{found[0].suffix}")
    return splits


def _split_of(file: Path) -> str:
    return next((split for split in VALIDATION_SPLITS if file.name.lower().startswith(split)), "train")


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """Silence `datasets`, and turn what it raises into one line."""
    log, bars_are_on = logging.getLogger("datasets"), not datasets.are_progress_bars_disabled()
    level = log.level
    log.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"the hub has no dataset {source!r} that you may read{_did_you_mean(Path(source))}; check the "
                        f"id, set HF_TOKEN if it is private, or give a local file") from error
    except ConnectionError as error:
        raise DataError(f"cannot reach the hub for the dataset {source!r}{_did_you_mean(Path(source))}; check the "
                        f"network, or give a local json, jsonl, csv or parquet file or {DEMO_DATASET}") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot read the dataset {source}: {lines[0]}; repair it, or give another") from error
    finally:
        log.setLevel(level)
        if bars_are_on:
            datasets.enable_progress_bars()


def _did_you_mean(path: Path) -> str:
    names: list[str] = []
    with contextlib.suppress(OSError):  # there may be no such folder
        names = [str(path.with_name(entry.name)) for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(str(path), [DEMO_DATASET, *names], n=1, cutoff=0.8)
    return f", did you mean {close[0]}?" if close else ""


# Splits


def _hold_out(contents: _Contents, limit: int, share: float) -> tuple[list[Row], list[Row]]:
    """Split into training and validation rows by the hash of the prompt, whatever the order of the rows."""
    rows = contents.train
    if len(rows) < 2:
        raise DataError(f"{contents.source} has a single row; it takes at least 2, one to train on and one to hold out")
    low = sum(_fraction(row) < share for row in rows)
    validation = _lowest(rows, max(1, min(limit, low, int(len(rows) * share))))
    chosen = {id(row) for row in validation}
    return [row for row in rows if id(row) not in chosen], validation


def _lowest(rows: Sequence[Row], count: int) -> list[Row]:
    return sorted(rows, key=lambda row: (_fraction(row), row.completion))[:count]


def _fraction(row: Row) -> float:
    return held_out_fraction(row.prompt or row.completion)


def _identity(row: Row) -> tuple[str, str]:
    return normalized(row.prompt), normalized(row.completion)


def _count_of(config: FinetuneConfig, there: int, source: str) -> int:
    """Return how many training rows a config takes of those there are."""
    if config.samples is None:
        return min(there, MOST_SAMPLES)
    if there < config.samples:
        raise DataError(f"{source} has {there} training rows but samples is {config.samples}; set samples: {there}, or "
                        f"leave it out for all of them up to {MOST_SAMPLES:,}")
    return config.samples


def _draw(rows: Sequence[Row], count: int) -> list[Row]:
    # The bit stream is numpy's promise for all its versions; its shuffles are not.
    order = np.argsort(np.random.PCG64(DATA_SEED).random_raw(len(rows)), kind="stable")
    return [rows[i] for i in order[:count]]
