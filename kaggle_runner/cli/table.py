"""A study as text that fits the terminal: its trials, best first, and what is the same in all of them once above.

Tried in this order: whole names; short names, explained below; one block for each trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.cli.words import columns_of, command, fitted, padded, wrapped
from kaggle_runner.metrics import metric_writer
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.noise import configurations_of
from kaggle_runner.study.table import format_value, none_is_better
from kaggle_runner.study.trial import Status, TrialRecord
from kaggle_runner.wording import how_many

GIB = 2**30
SHOWN = 20
"""Trials that are printed where not all are asked for."""
BLOCK_LINES, LEAST_BLOCKS = 60, 3
"""Lines that are filled where each trial takes several, and how many trials are printed all the same."""
SHORT = {
    "learning_rate": "lr", "gradient_accumulation_steps": "accum", "weight_decay": "decay", "lora_dropout": "dropout",
    "lora_alpha": "alpha", "lora_r": "r", "batch_size": "batch", "num_train_epochs": "epochs", "max_steps": "max",
    "warmup_ratio": "warmup", "lr_scheduler_type": "schedule", "max_grad_norm": "clip", "max_length": "length",
    "peak GiB": "GiB", "seconds": "s",
}
"""The names that people use for these; another name is cut word by word."""
_GAP = "  "
_RANKS = {Status.COMPLETE: 0, Status.PRUNED: 1, Status.PREEMPTED: 2, None: 2, Status.FAILED: 3, Status.INFEASIBLE: 4}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table: its name and its cells, row by row."""

    name: str
    cells: tuple[str, ...]
    may_lift: bool = True
    """Whether it is said once above where all its cells are the same."""

    @property
    def width(self) -> int:
        """Return the columns of the terminal that it takes."""
        return max(columns_of(cell) for cell in (self.name, *self.cells))


def trial_table(snapshot: Snapshot, *, width: int | None, everything: bool = False) -> str:
    """Return the trials of a study, best first; no line is longer than `width` unless a single word is.

    The best `SHOWN` of them, or all with `everything`. A `width` of none is one without an edge.
    """
    if not snapshot.records:
        return "no trial has begun"
    records = ranked(snapshot)
    columns = _columns(snapshot, records)
    lifted = [column for column in columns if column.may_lift and len(records) > 1
              and len(set(column.cells)) == 1 and column.cells[0]]
    columns = [column for column in columns if column not in lifted and any(column.cells)]
    shown = len(records) if everything else min(SHOWN, len(records))
    columns = [Column(name=column.name, cells=column.cells[:shown]) for column in columns]
    lines = []
    if lifted:
        lines.append(fitted("in all", _GAP.join(f"{column.name} {column.cells[0]}" for column in lifted), width))
    short = _short_names(columns, width)
    renamed = [Column(name=short.get(column.name, column.name), cells=column.cells) for column in columns]
    if width is None or width_needed(renamed) <= width:
        lines += row_lines(renamed)
        if short:
            lines.append(fitted("short", ", ".join(f"{new} = {old}".replace(" ", "\0")
                                                   for old, new in short.items()), width).replace("\0", " "))
    else:
        blocks = [block_of(columns, number, width) for number in range(shown)]
        if not everything:  # few trials of many lines are as much to read as many of one
            shown = min(shown, max(LEAST_BLOCKS, BLOCK_LINES // max(map(len, blocks))))
        lines += [line for block in blocks[:shown] for line in block]
    lines += _reasons(records[:shown], width)
    if shown < len(records):
        lines.append(f"{how_many(len(records) - shown, 'more trial')}; all of them: "
                     f"{command('show', snapshot.directory, '--all')}")
    return "\n".join(lines)


def ranked(snapshot: Snapshot) -> list[TrialRecord]:
    """Return the trials, best first: complete ones as the study ranks them, then pruned ones, then what has no result.
    """
    place = {record.trial.id: number for number, record in enumerate(snapshot.ranked)}
    alike = snapshot.comparable.records

    def key(record: TrialRecord) -> tuple[float, ...]:
        result = record.result
        rank = _RANKS[result.status if result else None]
        if record.trial.id in place:
            return (rank, False, place[record.trial.id])
        if rank < 2 and result is not None and result.metric is not None:
            return (rank, False, *snapshot.metric.rank(result.metric, result.loss), record.trial.number)
        return (rank, True, 0.0, 0.0, record.trial.number)

    return sorted(alike, key=key) + [record for record in snapshot.records if record not in alike]


def searched(snapshot: Snapshot) -> list[str]:
    """Name the parameters that the sweep searches."""
    parameters: Mapping[str, Any] = snapshot.info.sweep.get("parameters", {})
    return [name for name, entry in parameters.items() if "value" not in entry]


def _columns(snapshot: Snapshot, records: Sequence[TrialRecord]) -> list[Column]:
    results = [record.result for record in records]
    own = [("status", [record.status_word for record in records]),
           ("steps", [str(result.steps) if result else "" for result in results]),
           ("seconds", [f"{result.seconds:.1f}" if result else "" for result in results]),
           ("peak GiB", [f"{result.peak_device_bytes / GIB:.2f}" if result and result.peak_device_bytes else
                         "-" if result else "" for result in results])]
    found = configurations_of(snapshot)
    write = metric_writer(snapshot.info.metric, (one.mean for one in found))
    level = none_is_better(snapshot, found)
    metric = ["" if result is None else "-" if result.metric is None else write(result.metric)
              for result in results]
    marks = [" *" if record is snapshot.best and not level else "" for record in records]
    means = {trial: write(one.mean) for one in found for trial in one.all_ids}
    judged = [("mean", [means.get(record.trial.id, "") for record in records])] \
        if any(one.runs > 1 for one in found) else []  # of what differs in the seed alone: this is compared
    *before, last = (snapshot.info.metric, metric), *judged
    marked = [*before, (last[0], [cell + mark for cell, mark in zip(last[1], marks, strict=True)])]
    return [
        Column(name="trial", cells=tuple(record.trial.id for record in records), may_lift=False),
        *(Column(name=name, cells=tuple(cells), may_lift=False) for name, cells in marked),
        *(Column(name=name, cells=tuple(cells)) for name, cells in own),
        *(Column(name=name, cells=tuple(format_value(record.trial.params[name]) if name in record.trial.params else ""
                                        for record in records)) for name in searched(snapshot)),
    ]


def width_needed(columns: Sequence[Column]) -> int:
    """Return how wide a table is, one trial a line."""
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _short_names(columns: Sequence[Column], width: int | None) -> dict[str, str]:
    """Shorten as many names as it takes to fit, the one that gains most first; all of them if that is not enough."""
    short: dict[str, str] = {}
    taken = {column.name for column in columns}
    for column in sorted(columns, key=lambda column: max(map(columns_of, column.cells)) - len(column.name)):
        left = sum(max(len(short.get(one.name, one.name)), *map(columns_of, one.cells)) for one in columns)
        if width is None or left + len(_GAP) * (len(columns) - 1) <= width:
            break
        name = SHORT.get(column.name) or "_".join(word[:3] for word in column.name.split("_"))
        if len(name) < len(column.name) and name not in taken and column.name not in ("trial", "status"):
            short[column.name] = name
            taken.add(name)
    return {column.name: short[column.name] for column in columns if column.name in short}


def row_lines(columns: Sequence[Column]) -> list[str]:
    """Return a table's header and its rows."""
    lines = zip(*([column.name, *column.cells] for column in columns), strict=True)
    return [_GAP.join(padded(cell, column.width) for cell, column in zip(line, columns, strict=True)).rstrip()
            for line in lines]


def block_of(columns: Sequence[Column], number: int, width: int) -> list[str]:
    """Return one trial over several lines: what it is called, then its cells with their names."""
    head, *others = [(column.name, column.cells[number]) for column in columns if column.cells[number]]
    items = [f"{name} {cell}".replace(" ", "\0" if columns_of(name + cell) < width - 2 else " ")
             for name, cell in others]
    return [f"{head[0]} {head[1]}", *wrapped(_GAP.join(items), width, "  ", "  ").replace("\0", " ").splitlines()]


def _reasons(records: Sequence[TrialRecord], width: int | None) -> list[str]:
    """Say below the table why trials ended as they did, once for those that ended alike."""
    why: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.reason:
            why.setdefault((record.status_word, record.reason), []).append(record.trial.id)
    return [fitted(status, f"{', '.join(ids)}: {' '.join(reason.split())}", width)
            for (status, reason), ids in why.items()]
