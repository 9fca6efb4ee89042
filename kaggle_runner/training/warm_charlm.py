"""What a worker keeps warm for character models: the text, as bytes on the device."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from kaggle_runner.config import CharLMConfig
from kaggle_runner.errors import ConfigError, DataError
from kaggle_runner.events import DataRead, Note, Notify, Phase
from kaggle_runner.study.trial import TrialResult
from kaggle_runner.training.charlm import DeviceText, eval_windows, to_device, train_character_model, versions
from kaggle_runner.training.control import Control, Warm
from kaggle_runner.training.cpu_speed import choose
from kaggle_runner.training.data.characters import check_length, load_corpus
from kaggle_runner.training.models.char_model import CharModel
from kaggle_runner.training.phases import Phases


class WarmCharLM:
    """The text of the last config, and what is done with it."""

    def __init__(self, emit: Notify, cache_directory: Path, device: torch.device) -> None:
        self._emit, self._cache_directory, self._device = emit, cache_directory, device
        self._text: tuple[tuple[str, str], DeviceText] | None = None
        self._most_threads = self.threads = torch.get_num_threads()
        self.tries_bfloat16 = False  # its losses are those of float32 on every machine

    def prepare(self, config: CharLMConfig) -> Warm:
        """Load the text if it is not warm."""
        text, phases = self._prepared(config)
        return Warm(seconds_by_phase=phases.seconds, versions=versions(),
                    notes={"symbols": text.symbols, "characters": len(text.train)}, hashes={"text": text.sha256})

    def baseline(self, config: CharLMConfig) -> Mapping[str, float]:
        """Refuse: there is no untouched base."""
        raise ConfigError("a character model is trained from nothing: it has no base to measure")

    def train(self, config: CharLMConfig, trial_id: str, control: Control) -> TrialResult:
        """Train one model."""
        text, _ = self._prepared(config)
        if self._device.type == "cpu" and self._most_threads > 1:
            self.threads = self._choose_threads(text, config)
        return train_character_model(text, config, trial_id, control)

    def _prepared(self, config: CharLMConfig) -> tuple[DeviceText, Phases]:
        phases, key = Phases(), (config.dataset, config.symbols)
        if self._text is None or self._text[0] != key:
            self._text = None
            self._emit(Phase(phase="data", text=f"reading {config.dataset}"))
            corpus = load_corpus(config, cache_directory=self._cache_directory)
            self._text = (key, to_device(corpus, self._device))
            self._emit(Phase(phase="ready", text=corpus.source))
            phases.enter("data")
        text = self._text[1]
        try:
            check_length(config.dataset, len(text.train), len(text.validation), config)
        except DataError:
            self._emit(DataRead(hashes={"text": text.sha256}))  # what was too short
            raise
        return text, phases

    def _choose_threads(self, text: DeviceText, config: CharLMConfig) -> int:
        """Measure on an evaluation batch, forward only: how threads compare is the same in both directions."""
        model = CharModel(config, text.symbols)
        windows_BT1 = next(eval_windows(text.validation, config))[:config.batch_size]

        @torch.no_grad()
        def batch() -> torch.Tensor:
            logits_BTV: torch.Tensor = model(windows_BT1[:, :-1])
            return logits_BTV

        facts = ["charlm", config.hidden_size, config.num_hidden_layers, config.max_length, tuple(windows_BT1.shape),
                 text.symbols, torch.__version__, os.cpu_count(), self._most_threads]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        choice = choose(lambda dtype: batch(), most_threads=self._most_threads, cache_directory=self._cache_directory,
                        key=key, tries_bfloat16=self.tries_bfloat16)
        self._emit(Note(text=choice.reason))
        return choice.threads
