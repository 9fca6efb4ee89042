"""What a worker keeps warm for fine-tunes: the quantised base and the encoded rows."""

import gc
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.config import MOST_SAMPLES, FinetuneConfig
from kaggle_runner.errors import ConfigError
from kaggle_runner.events import DataRead, Event, Note, Notify, Phase, RowsCounted
from kaggle_runner.study.trial import TrialResult
from kaggle_runner.training.control import Control, Warm
from kaggle_runner.training.cpu_speed import choose
from kaggle_runner.training.data.batches import collate
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import EncodedData, encode
from kaggle_runner.training.finetune import (
    attach,
    loss_of,
    measure,
    rows_of_step,
    train_adapter,
    training_layers,
    versions,
)
from kaggle_runner.training.layer.install import kernels_problem
from kaggle_runner.training.models.base_model import BaseModel, base_key, check_model, computing_in, load_base
from kaggle_runner.training.models.written_answers import keep_answers, try_answers
from kaggle_runner.training.phases import Phases

FEW_HELD_OUT_ROWS = 50
"""Below, which rows are held out decides eval/loss as much as a setting does."""
MANY_EPOCHS = 10
"""Beyond, an adapter mostly learns its rows by heart."""


def rows_warnings(config: FinetuneConfig, train_rows: int, held_out_rows: int) -> list[str]:
    """Say what a person may not expect of the rows that a config comes to."""
    warnings = []
    if config.samples is None and not config.full_dataset:
        if train_rows < MOST_SAMPLES:
            warnings.append(f"samples is left out: trials train on all {train_rows:,} rows there are")
        else:
            warnings.append(f"samples is left out: trials train on {train_rows:,} rows; full_dataset: true takes all")
    if held_out_rows < FEW_HELD_OUT_ROWS:
        warnings.append(f"warning: eval/loss is measured on {held_out_rows} held-out rows only, fewer than "
                        f"{FEW_HELD_OUT_ROWS}, so small differences are chance; raise max_eval_samples or eval_share, "
                        f"or give more rows")
    return warnings


def length_warning(config: FinetuneConfig, train_rows: int, *, is_final: bool = False) -> str:
    """Say that a trial, or a final training, sees its rows too often; empty if it does not."""
    epochs = config.max_steps * config.effective_batch_size / train_rows
    if epochs <= MANY_EPOCHS:
        return ""
    way_out = "give --epochs 3" if is_final else "lower max_steps, or write num_train_epochs: 3"
    return (f"warning: {config.max_steps} steps of {config.effective_batch_size} rows are {epochs:.1f} passes over the "
            f"{train_rows:,} training rows, more than {MANY_EPOCHS}; {way_out}")


class WarmFinetune:
    """The base and the rows of the last config, and what is done with them."""

    def __init__(self, emit: Notify, cache_directory: Path, device: torch.device) -> None:
        self._emit, self._cache_directory, self._device = emit, cache_directory, device
        self._base: BaseModel | None = None
        self._data: tuple[tuple[Any, ...], EncodedData] | None = None
        self._most_threads = self.threads = torch.get_num_threads()
        self._warned: set[str] = set()
        self.tries_bfloat16 = True
        self._untouched: list[str] | None = None
        """What the base answers without an adapter; none: not asked yet."""

    def prepare(self, config: FinetuneConfig) -> Warm:
        """Load base and rows if they are not warm."""
        base, data, phases = self._prepared(config)
        return Warm(seconds_by_phase=phases.seconds, versions=versions(), notes=data.notes,
                    train_rows=len(data.train), hashes={**data.hashes, "base": base.sha256})

    def baseline(self, config: FinetuneConfig) -> Mapping[str, float]:
        """Measure the untouched base."""
        base, data, _ = self._prepared(config)
        return measure(base, data.validation, config)

    def train(self, config: FinetuneConfig, trial_id: str, control: Control) -> TrialResult:
        """Train one adapter."""
        base, data, _ = self._prepared(config)
        config = config.counted(len(data.train))
        self._warn(length_warning(config, len(data.train), is_final=control.team.is_final))
        if self._untouched is None and control.team.leads:
            self._untouched = try_answers(base, data.validation, self._warn_by)
        untouched = self._untouched or []

        def answer() -> None:
            tuned = try_answers(base, data.validation, self._warn_by) if untouched else []
            if tuned:
                keep_answers(control.directory, base, data.validation, tuned=tuned, untouched=untouched)

        try:
            return train_adapter(base, data, config, trial_id, replace(control, when_trained=answer))
        finally:
            self._warn(kernels_problem(self._device))

    def _warn_by(self, event: Event) -> None:
        """Say something that the base says of itself, once."""
        self._warn(event.text if isinstance(event, Note) else "")

    def _warn(self, text: str) -> None:
        """Say something once, however many trials it is true of."""
        if text and text not in self._warned:
            self._warned.add(text)
            self._emit(Note(text=text))

    def _choose_speed(self, base: BaseModel, data: EncodedData, config: FinetuneConfig) -> BaseModel:
        """Measure forward and backward of a micro-batch in the middle: in bfloat16 they do not compare alike.

        The key holds what is warm, and nothing of the trial that warmed it: whichever trial a later session begins
        with computes as the first one did.
        """
        batches = sorted(rows_of_step(data.train, config, self._device, 1), key=len)
        batch = collate(data.train, batches[len(batches) // 2], pad_id=base.tokenizer.pad_token_id,
                        completion_only=config.completion_only_loss)
        facts = [base.sha256, base.key, config.rows_key, torch.__version__, os.cpu_count(), self._most_threads,
                 *(() if self.tries_bfloat16 else ("float32",))]
        key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
        try:
            adapted = attach(base, config)
        except ConfigError:  # for the trial to say: others may have other target modules
            return base
        base.model.train()

        def pass_both_ways(dtype: torch.dtype) -> None:
            candidate = computing_in(base, dtype)
            with training_layers(candidate, config):
                loss_of(candidate, batch).backward()

        try:
            choice = choose(pass_both_ways, most_threads=self._most_threads,
                            cache_directory=self._cache_directory, key=key, tries_bfloat16=self.tries_bfloat16)
        finally:
            adapted.unload()
            base.model.eval()
        self.threads = choice.threads
        self._emit(Note(text=choice.reason))
        return computing_in(base, choice.compute_dtype)

    def _prepared(self, config: FinetuneConfig) -> tuple[BaseModel, EncodedData, Phases]:
        """Return the base and the rows of a config, from the warm ones where they are the same."""
        phases = Phases()
        key = config.rows_key
        rows = None
        if self._base is None or self._base.key != base_key(config):
            check_model(config)  # in a second, before rows are read
        if self._data is None or self._data[0] != key:  # before the base: what is wrong with them is said in seconds
            self._emit(Phase(phase="data", text=f"reading {config.dataset}"))
            rows = load_rows(config, cache_directory=self._cache_directory)
            self._emit(DataRead(hashes={"data": rows.sha256}))
            phases.enter("data")
        if self._base is None or self._base.key != base_key(config):
            self._base = self._data = None  # two bases do not fit
            gc.unfreeze()
            self._emit(Phase(phase="load", text=f"loading {config.model}"))
            self._base = load_base(config, self._device)
            for warning in self._base.warnings:
                self._warn(warning)
            phases.enter("load")
        if rows is not None or self._data is None:
            rows = rows or load_rows(config, cache_directory=self._cache_directory)
            encoded = encode(rows, self._base.tokenizer, config, cache_directory=self._cache_directory)
            self._emit(RowsCounted(facts=encoded.facts))
            encoded.account.require(config.max_lost_share, rows.source)
            self._data, self._untouched = (key, encoded), None
            self._emit(Phase(phase="ready", text="; ".join([rows.format, encoded.account.as_line()])))
            for warning in (*rows_warnings(config, len(encoded.train), len(encoded.validation)),
                            *(f"warning: {text}" for text in encoded.warnings)):
                self._warn(warning)
            phases.enter("data")
            # What is loaded stays: the collections between trials need not look at it again.
            gc.collect()
            gc.freeze()
            if self._device.type == "cpu" and (self.tries_bfloat16 or self._most_threads > 1):
                self._base = self._choose_speed(self._base, encoded, config)
        return self._base, self._data[1], phases
