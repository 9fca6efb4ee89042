"""Instruction data: read it, hold out the validation rows, draw the training rows.

Which rows a trial sees depends on its dataset and on `samples`, never on its seed. A dataset is read twice: once to
know what each row is, and once more for the rows that were drawn, so that only these are in memory.
"""

import hashlib
import heapq
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kaggle_runner.config import MOST_SAMPLES, FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.account import Account
from kaggle_runner.training.data.builtin_docs import held_out_fraction, normalized
from kaggle_runner.training.data.formats import Layout
from kaggle_runner.training.data.sources import Source, Table, open_source
from kaggle_runner.training.data.turns import Row

DATA_SEED = 0
"""Seed of the draw of `samples` rows: fixed, so that all trials of a study train on the same rows."""


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
    account: Account
    """What became of the rows that were read."""
    columns_used: tuple[str, ...] = ()
    columns_unused: tuple[str, ...] = ()
    """Columns that nothing of what they hold is read from."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """What was read for each split."""
    remarks: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    sha256: str
    """SHA-256 of both splits, in their order."""


def load_rows(config: FinetuneConfig, *, cache_directory: Path) -> InstructionData:
    """Read the dataset of a config, hold out its validation rows, and draw its training rows.

    The rows of `eval_dataset`, or of a validation or test split, are held out where there are any; otherwise the rows
    with the lowest `held_out_fraction` of their prompts, whatever `samples` and `seed` say. Training rows are
    drawn with the fixed `DATA_SEED`: the config's seed does not change them, and fewer `samples` are a subset of more.
    Only the built-in rows are kept in `cache_directory`.

    Raises:
        DataError: the dataset is missing, unreadable, unrecognised, empty, or has fewer rows than asked for.
    """
    source = open_source(config, cache_directory)
    other = open_source(config, cache_directory, of_evaluation=True) if config.eval_dataset else None
    held_out_table = other.train if other else source.held_out
    share = config.eval_share
    scan = _scan(source.train, keep=0 if held_out_table else config.max_eval_samples, share=share)
    if not scan.rows:
        if scan.lost:
            raise DataError(f"all {scan.read} rows of {source.name} are left out: {_reasons(scan.lost)} "
                            f"({source.train.describe()}), so there is nothing to learn; check that the right columns "
                            f"are filled")
        raise DataError(f"{source.name} has no rows; give a dataset with at least 2")
    if held_out_table:
        evaluation = _scan(held_out_table, keep=config.max_eval_samples, share=share)
        if not evaluation.rows:
            reasons = _reasons(evaluation.lost) or "it is empty"
            raise DataError(f"{held_out_table.name} has no row to hold out: {reasons}; give it rows with answers, or "
                            f"leave it out")
        chosen = evaluation.lowest
        held_out = f"{len(chosen)} rows of {config.eval_dataset}" if other else \
            f"{len(chosen)} rows of its {held_out_table.split} split"
    else:
        evaluation, chosen = _Scan(), _lowest_of(scan, config.max_eval_samples, share, source.name)
        held_out = f"{len(chosen)} rows with the lowest hash of their prompt"
    validation = [row for _, row in chosen]
    own = set() if held_out_table else {index for index, _ in chosen}
    forbidden = {_identity(row) for row in validation}
    kept = np.array([index for index, identity in zip(scan.indices, scan.identities, strict=True)
                     if index not in own and identity not in forbidden], dtype=np.int64)
    duplicates = scan.rows - len(own) - len(kept)
    if not len(kept):
        _refuse_all_held_out(scan, source, has_own=held_out_table is not None)
    drawn = kept if config.full_dataset else _draw(kept, _count_of(config, len(kept), source.name))
    train = _pick(source.train, drawn)
    lost = Counter(scan.lost) + Counter(evaluation.lost)
    account = Account(read=scan.read + evaluation.read, train=len(train), validation=len(validation),
                      duplicates=duplicates, lost=lost, lost_in_reading=lost.total(),
                      unanswered=sum(row.unanswered > 0 for row in (*train, *validation)),
                      not_drawn=len(kept) - len(drawn) + (evaluation.rows - len(validation) if held_out_table else 0))
    text = json.dumps([[(row.turns, row.given, row.tools) for row in split] for split in (train, validation)])
    layout = source.train.layout
    return InstructionData(
        train=tuple(train), validation=tuple(validation), source=source.name, format=source.train.describe(),
        held_out=held_out, account=account, columns_used=tuple(layout.used(scan.columns) if layout else ()),
        columns_unused=tuple(sorted(_unused(layout, scan.columns))), files=_files_of(source, other),
        remarks=tuple((*source.remarks, *(other.remarks if other else ()))),
        sha256=hashlib.sha256(text.encode()).hexdigest())


@dataclass(kw_only=True)
class _Scan:
    """What one reading of a table tells of its rows."""

    read: int = 0
    indices: "array[int]" = field(default_factory=lambda: array("q"))
    """Of the rows that are not lost, their place in the table."""
    identities: "array[int]" = field(default_factory=lambda: array("Q"))
    """What each says, as a number: 16 bytes a row, so that a large file fits."""
    low: int = 0
    """Rows whose fraction is below the share to hold out."""
    lowest: list[tuple[int, Row]] = field(default_factory=list)
    """Places and rows with the lowest fractions."""
    lost: Counter[str] = field(default_factory=Counter)
    columns: dict[str, None] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows that are not lost."""
        return len(self.indices)


def _scan(table: Table, *, keep: int, share: float) -> _Scan:
    """Read a table once; the `keep` rows with the lowest fractions are kept, in their order."""
    scan = _Scan()

    def ranked() -> Iterator[tuple[float, str, int, Row]]:
        for index, row, columns in table.rows():
            scan.read += 1
            if columns is not None:
                scan.columns.update(dict.fromkeys(columns))
            if isinstance(row, str):
                scan.lost[row] += 1
                continue
            fraction = held_out_fraction(row.prompt or row.completion)
            scan.low += fraction < share
            scan.indices.append(index)
            scan.identities.append(_identity(row))
            yield fraction, row.completion, index, row

    scan.lowest = [(index, row) for _, _, index, row in heapq.nsmallest(keep, ranked(), key=lambda entry: entry[:3])]
    if not keep:  # nsmallest would not read anything
        for _ in ranked():
            pass
    return scan


def _lowest_of(scan: _Scan, limit: int, share: float, source: str) -> list[tuple[int, Row]]:
    """Return the rows to hold out, by the hash of the prompt, whatever the order of the rows."""
    if scan.rows < 2:
        raise DataError(f"{source} has a single row; it takes at least 2, one to train on and one to hold out")
    return scan.lowest[:max(1, min(limit, scan.low, int(scan.rows * share)))]


def _refuse_all_held_out(scan: _Scan, source: Source, *, has_own: bool) -> None:
    if has_own:
        raise DataError(f"all {scan.rows} training rows of {source.name} are validation rows too, which would make "
                        f"eval/loss worthless; give it other validation rows, or none")
    distinct = len(set(scan.identities))
    said = f"say {distinct} things" if distinct > 1 else "all say one thing"
    raise DataError(f"the {scan.rows} rows of {source.name} {said}, and those that are not held out say the same as "
                    f"one that is, so nothing is left to train on; give it more rows that differ")


def _identity(row: Row) -> int:
    text = f"{normalized(row.prompt)}\0{normalized(row.completion)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _count_of(config: FinetuneConfig, there: int, source: str) -> int:
    """Return how many training rows a config takes of those there are."""
    if config.samples is None:
        return min(there, MOST_SAMPLES)
    if there < config.samples:
        raise DataError(f"{source} has {there} training rows but samples is {config.samples}; set samples: {there}, or "
                        f"leave it out for all of them up to {MOST_SAMPLES:,}")
    return config.samples


def _draw(kept: np.ndarray, count: int) -> np.ndarray:
    # The bit stream is numpy's promise for all its versions; its shuffles are not.
    order = np.argsort(np.random.PCG64(DATA_SEED).random_raw(len(kept)), kind="stable")
    drawn: np.ndarray = kept[order[:count]]
    return drawn


def _pick(table: Table, indices: np.ndarray) -> list[Row]:
    """Read the rows at some places of a table, in the order of the places asked for."""
    wanted = {int(index): place for place, index in enumerate(indices)}
    picked: list[Row | None] = [None] * len(wanted)
    for index, row, _ in table.rows(only=wanted):
        if not isinstance(row, str):
            picked[wanted[index]] = row
    found = [row for row in picked if row is not None]
    if len(found) != len(wanted):
        raise DataError(f"{table.name} changed while it was read; start again when nothing writes to it")
    return found


def _unused(layout: Layout | None, columns: dict[str, None]) -> list[str]:
    return [] if layout is None else [name for name in columns if name not in layout.used(columns)]


def _files_of(source: Source, other: Source | None) -> dict[str, list[str]]:
    held_out = other.train if other else source.held_out
    return {"train": source.train.files, "validation": held_out.files if held_out else []}


def _reasons(lost: Counter[str]) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in sorted(lost.items()))
