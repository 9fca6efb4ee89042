"""What a model will see of a sweep's rows: read, written and tokenised as a trial does it, without weights."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.training.data.account import Account
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode

QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "longest": 1.0}


class Stretch(NamedTuple):
    """A part of a row's text."""

    text: str
    is_trained: bool
    """Whether its tokens count in the loss."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Rows as the model sees them, and what became of the others."""

    source: str
    files: Mapping[str, Sequence[str]]
    layout: str
    held_out: str
    columns_used: Sequence[str]
    columns_unused: Sequence[str]
    roles: Mapping[str, int]
    """Turns of each role."""
    account: Account
    warnings: Sequence[str]
    lengths: Mapping[str, int]
    """Tokens of a training row, by quantile."""
    trained_share: float
    """Share of the training rows' tokens that count in the loss."""
    max_steps: int
    steps_per_epoch: int
    epochs: float
    """Passes of a trial over the training rows."""
    examples: Sequence[Sequence[Stretch]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "source": self.source, "splits": {name: list(found) for name, found in self.files.items()},
            "layout": self.layout, "held_out": self.held_out, "columns_used": list(self.columns_used),
            "columns_unused": list(self.columns_unused), "roles": dict(self.roles), "rows": self.account.as_dict(),
            "warnings": list(self.warnings), "lengths": dict(self.lengths), "trained_share": self.trained_share,
            "max_steps": self.max_steps, "steps_per_epoch": self.steps_per_epoch, "epochs": self.epochs,
            "examples": [{"text": "".join(part.text for part in example),
                          "trained": [part.text for part in example if part.is_trained]} for example in self.examples]}

    def as_lines(self) -> list[tuple[str, str]]:
        """Return all but the examples as (label, text) lines for a person."""
        lines = [("dataset", self.source)]
        lines += [(name, ", ".join(found)) for name, found in self.files.items() if found]
        lines += [("held out", self.held_out), ("layout", self.layout)]
        if self.columns_unused:
            lines.append(("not used", ", ".join(self.columns_unused)))
        lines += [("turns", ", ".join(f"{count:,} {role}" for role, count in self.roles.items())),
                  ("rows", self.account.as_line()),
                  ("tokens", ", ".join(f"{name} {length}" for name, length in self.lengths.items())
                   + f"; {self.trained_share:.0%} count in the loss"),
                  ("trial", f"{self.max_steps:,} steps, {self.epochs:.2f} epochs of {self.steps_per_epoch:,} steps")]
        return lines


def preview(config: FinetuneConfig, tokenizer: Any, *, cache_directory: Path, examples: int) -> Preview:
    """Prepare the rows of a config as a trial does, and show the first of them.

    Raises:
        DataError: as for a trial; only the share of rows that are lost is not judged.
    """
    data = load_rows(config, cache_directory=cache_directory)
    encoded = encode(data, tokenizer, config, cache_directory=cache_directory)
    rows = encoded.train
    config = config.counted(len(rows))
    lengths = np.quantile(rows.lengths, list(QUANTILES.values()), method="nearest")
    shown = [stretches(rows, i, tokenizer, completion_only=config.completion_only_loss)
             for i in range(min(examples, len(rows)))]
    turns = Counter(turn.role for split in (data.train, data.validation) for row in split for turn in row.turns)
    return Preview(
        source=data.source, files=data.files, layout=data.format, held_out=data.held_out,
        columns_used=data.columns_used, columns_unused=data.columns_unused, roles=dict(sorted(turns.items())),
        account=encoded.account, warnings=encoded.warnings,
        lengths={name: int(length) for name, length in zip(QUANTILES, lengths, strict=True)},
        trained_share=round(float(rows.trained.mean()), 4) if config.completion_only_loss else 1.0,
        max_steps=config.max_steps, steps_per_epoch=math.ceil(len(rows) / config.effective_batch_size),
        epochs=round(config.max_steps * config.effective_batch_size / len(rows), 4), examples=shown)


def stretches(rows: EncodedRows, i: int, tokenizer: Any, *, completion_only: bool) -> list[Stretch]:
    """Return the text of a row, special tokens included, cut where tokens begin or cease to count in the loss."""
    tokens = rows.row(i).tolist()
    counts = rows.trained_of(i).copy() if completion_only else np.ones(len(tokens), dtype=bool)
    counts[0] = False  # it follows nothing
    borders = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(tokens)]
    # decoded from the start each time: some tokenizers write the first token of a text without its blank
    texts = [tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
             for end in borders]
    return [Stretch(texts[part + 1][len(texts[part]):], bool(counts[start]))
            for part, start in enumerate(borders[:-1])]
